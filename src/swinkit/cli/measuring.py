"""`swinkit bench model`: a model in every runtime that is here."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from swinkit.cli.shared import Json
from swinkit.cli.tools import bench

if TYPE_CHECKING:
    from swinkit.bench.results import ModelSpeed

PEERS_HELP = "auto for those installed, none, or names: timm, torchvision, transformers, openvino, onnxruntime."


@bench.command(name="model")
def bench_model(
    model: Annotated[
        str,
        Parameter(help="A run, weights that from_pretrained opens, a file of `export`, or a name from `swinkit models` (random weights)."),
    ],
    /,
    *,
    batch_size: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="", help="Images at a time; 1 8 by default.")] = None,
    dtype: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help="float32, bfloat16 or both; bfloat16 by default where the CPU has it."),
    ] = None,
    threads: Annotated[int | None, Parameter(help="Threads of each runtime; by default one per processor.")] = None,
    img_size: Annotated[int | None, Parameter(help="Image size in pixels; by default the model's.")] = None,
    compile: Annotated[bool, Parameter(help="Also through torch.compile, which takes minutes.")] = False,
    peers: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="", help=PEERS_HELP)] = None,
    rounds: Annotated[int, Parameter(help="Turns of each runtime.")] = 10,
    seconds: Annotated[float, Parameter(help="About how long each runtime computes, per dtype and batch size.")] = 5.0,
    out: Annotated[str | None, Parameter(help="A new folder for results.json, table.md and plot.png.")] = None,
    as_json: Json = False,
) -> int:
    """Measure a model prepared, as it is, and in the peers' code with the same weights; only equal outputs are timed."""
    from swinkit.bench import model as measure
    from swinkit.bench.folder import check_folder, write_folder
    from swinkit.bench.models import Interrupted

    folder = None if out is None else check_folder(out)
    stopped: Interrupted | None = None
    try:
        speed = measure(
            model, batch_size=batch_size or (1, 8), dtype=dtype or None, threads=threads, img_size=img_size, compile=compile,
            peers=_peers(peers), rounds=rounds, seconds=seconds, say=_say,
        )  # fmt: skip
    except Interrupted as stop:
        speed, stopped = stop.speed, stop
    _show(speed, as_json)
    if folder is not None and speed.rows:
        write_folder(speed, folder)
        print(f"written  {folder}", file=sys.stderr)
    if stopped is not None:
        raise stopped
    return 0 if all(not row.failed for row in speed.rows) else 1


def _peers(given: list[str] | None) -> str | list[str]:
    if not given or given == ["auto"]:
        return "auto"
    return [] if given == ["none"] else given


def _say(line: str) -> None:
    print(f"measuring: {line}", file=sys.stderr)


def _show(speed: ModelSpeed, as_json: bool) -> None:
    if as_json:
        print(json.dumps(speed.to_dict()))
    elif speed.rows:
        print(speed.table())
