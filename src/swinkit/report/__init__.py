"""The report of a run, and several runs compared: HTML files that open anywhere, offline.

swinkit.report("runs/one")                  # writes runs/one/report.html again
swinkit.report("runs/one", "runs/two")      # writes compare.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swinkit._verbs import callable_module
from swinkit.errors import DataError
from swinkit.report import differences, summary
from swinkit.report.compare import Reported, write_comparison
from swinkit.report.folder import PAGE, RunFolder, read_run, write_facts
from swinkit.report.looking import Looked, look
from swinkit.report.page import Report, write_report
from swinkit.report.pictures import MistakePicture, thumbnail
from swinkit.report.rebuild import next_steps, rebuild

__all__ = [
    "Looked",
    "MistakePicture",
    "Report",
    "Reported",
    "look",
    "next_steps",
    "read_run",
    "rebuild",
    "report",
    "thumbnail",
    "write_facts",
    "write_report",
]

COMPARISON = "compare.html"


def report(*runs: str | Path, out: str | Path | None = None) -> Reported:
    """Build a run's report.html again from what is in its folder, or compare several runs on one page. Nothing is computed anew.

    runs: run folders, or checkpoints in them; the same run twice counts once. out: the page to write, by default report.html in the folder
    of a single run, and compare.html in the current folder for several.
    Of several runs, those that cannot be read are left out and named in `problems`.
    Errors: DataError if no run can be read, or `out` is a folder.
    """
    if not runs:
        raise DataError("No run was given; expected one or more folders that `swinkit train` wrote.")
    found, problems = _read(runs)
    several = len(runs) > 1
    page = Path(out) if out is not None else Path(COMPARISON) if several else found[0].folder / PAGE
    if page.is_dir():
        raise DataError(f"{page} is a folder; expected the name of the page to write, such as {page / COMPARISON}.")
    labels = summary.names([run.folder for run in found])
    rows = [summary.row_of(run, name) for run, name in zip(found, labels, strict=True)]
    if several:
        write_comparison(page, found, rows, problems)
    else:
        rebuild(found[0], page)
    own = [f"{name}: {says}" for name, run in zip(labels, found, strict=True) for says in run.problems]
    warnings = (
        *differences.warnings(found, labels),
        *(f"{name}: {run.state()}" for name, run in zip(labels, found, strict=True) if run.state()),
    )
    return Reported(page, tuple(rows), differences.configuration(found), warnings, (*problems, *own))


def _read(paths: Sequence[str | Path]) -> tuple[list[RunFolder], list[str]]:
    """(the runs, each once; a sentence for each path that leads to none). Errors: DataError if there is not one run."""
    found: dict[Path, RunFolder] = {}
    problems: list[str] = []
    for path in paths:
        try:
            run = read_run(path)
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        found.setdefault(run.folder.resolve(), run)
    if not found:
        raise DataError(" ".join(problems))
    return list(found.values()), problems


callable_module(__name__)
