"""A benchmark of models in words: for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from swinkit.bench.results import TOLERANCE, ModelSpeed, Row

COLUMNS = ("runtime", "images/s", "ms (quartiles)", "fastest ms", "GFLOP/s", "of GEMM", "peak MiB", "difference")


def text(speed: ModelSpeed) -> str:
    """Head, one table per dtype and batch size, remarks."""
    lines = head(speed)
    for dtype, batch_size in speed.cells:
        lines += ["", f"{dtype}, batch {batch_size}", *_aligned([COLUMNS, *map(cells, speed.at(dtype, batch_size))])]
    return "\n".join([*lines, "", *remarks(speed)])


def markdown(speed: ModelSpeed, heading: str = "#") -> str:
    """The same as a page."""
    lines = [f"{heading} {speed.model}", "", *(f"- {line}" for line in head(speed))]
    for dtype, batch_size in speed.cells:
        rows = [COLUMNS, ("---",) + ("---:",) * (len(COLUMNS) - 1), *map(cells, speed.at(dtype, batch_size))]
        lines += ["", f"{heading}# {dtype}, batch {batch_size}", "", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in remarks(speed)), ""])


def head(speed: ModelSpeed) -> list[str]:
    """Model, machine and versions."""
    channels, height, width = speed.input
    shape = f"{channels} x {height} x {width}, {speed.parameters / 1e6:,.2f} M parameters, {speed.gflop:,.2f} GFLOP per image"
    lines = [
        f"model: {speed.model}, {speed.weights}: {shape}",
        f"machine: {speed.cpu}; {speed.threads} of {speed.processors} processors",
        f"versions: {', '.join(f'{name} {version}' for name, version in speed.versions.items())}",
        *(f"matrix products: {line}" for line in _gemm(speed)),
    ]
    if speed.variables:
        lines.append(f"variables: {', '.join(f'{name}={value}' for name, value in speed.variables.items())}")
    return lines


def _gemm(speed: ModelSpeed) -> list[str]:
    lines = []
    for dtype, rates in speed.gemm.items():
        limit = speed.limit(dtype) or 0.0
        listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        lines.append(f"{dtype} {max(rates.values()):,.0f} GFLOP/s ({listed}): at most {limit:,.1f} images/s")
    return lines


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, by COLUMNS."""
    difference = "" if row.difference is None else f"{row.difference:.0e}"
    if row.median is None or row.low is None or row.high is None or row.fastest is None:
        return (row.runtime, "failed" if row.failed else "", "", "", "", "", "", difference)
    return (
        row.runtime,
        f"{row.images_per_second:,.1f}",
        f"{row.median * 1e3:,.1f} ({row.low * 1e3:,.1f} to {row.high * 1e3:,.1f})",
        f"{row.fastest * 1e3:,.1f}",
        f"{row.gflops:,.0f}",
        "" if row.share is None else f"{row.share:.0%}",
        "" if not row.peak_memory else f"{row.peak_memory / 2**20:,.0f}",
        difference,
    )


def remarks(speed: ModelSpeed) -> list[str]:
    """What ran, what failed, what was left out and what to know."""
    lines = list(dict.fromkeys(f"{row.runtime}, {row.dtype}: {row.says}" for row in speed.rows if row.says))
    lines += [f"{row.runtime}, {row.dtype}, batch {row.batch_size} failed: {row.failed}" for row in speed.rows if row.failed]
    lines += [f"{peer} left out: {why}" for peer, why in speed.left_out.items()]
    lines += speed.warnings
    allowed = ", ".join(f"{TOLERANCE[dtype]:.0e} in {dtype}" for dtype in dict.fromkeys(row.dtype for row in speed.rows))
    if allowed:
        lines.append(f"difference: of outputs from plain swinkit in float32, as a fraction of the largest; allowed: {allowed}")
    lines.append("peak: resident memory while it computes, beyond what the process held with its libraries and without a model")
    return [*lines, "interrupted: what is here was measured before"] if speed.interrupted else lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The first column to the left, numbers to the right."""
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
