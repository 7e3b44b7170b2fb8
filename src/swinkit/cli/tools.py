"""The verbs about weights, names and this machine. Heavy imports stand inside, so that help is instant."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from swinkit.cli.shared import Json, app
from swinkit.console import print_weights


@app.command
def convert(
    source: Annotated[str, Parameter(help="Weights of anybody: a run, a folder, a .safetensors or .pth file.")],
    out: Annotated[str | None, Parameter(help="A file ending in .pth or .safetensors, or a folder.")] = None,
    /,
    *,
    to: Annotated[str | None, Parameter(help="native, original, timm, torchvision, transformers, mmpretrain or mmdet.")] = None,
    inspect: Annotated[bool, Parameter(negative="", help="Only say what SOURCE holds, tensor by tensor; write nothing.")] = False,
    force: Annotated[bool, Parameter(negative="", help="Replace what is at OUT.")] = False,
    strict: Annotated[bool, Parameter(help="Refuse names that the dialect does not know; --no-strict lists and leaves them out.")] = True,
    window_size: Annotated[int | None, Parameter(help="The window, where the weights do not tell (V2).")] = None,
    img_size: Annotated[int | None, Parameter(help="The image size in pixels, where the weights do not tell.")] = None,
    pretrained_window_sizes: Annotated[
        list[int] | None,
        Parameter(consume_multiple=True, negative="", help="V2: the window of each stage in pretraining, such as 12 12 12 6."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Convert weights between swinkit, microsoft, timm, torchvision, transformers and mm*, or say what a file holds."""
    from swinkit.convert import convert
    from swinkit.convert import inspect as look

    known: dict[str, Any] = {"window_size": window_size, "img_size": img_size, "pretrained_window_sizes": pretrained_window_sizes}
    if inspect == bool(out or to) or bool(out) != bool(to):
        print("swinkit: give OUT and --to, or --inspect alone.", file=sys.stderr)
        return 2
    found = look(source, **known) if inspect else convert(source, out or "", to=to or "", force=force, strict=strict, **known)
    print(json.dumps(found.to_dict()) if as_json else found.table(), file=sys.stdout if inspect or as_json else sys.stderr)
    if out:
        print(f"written  {out}", file=sys.stderr)
    return 0 if out or found.complete else 1


@app.command
def models(
    pattern: Annotated[str, Parameter(help='A shell pattern such as "swinv2_*".')] = "*",
    *,
    pretrained: Annotated[bool, Parameter(negative="", help="List the public weights instead: tags, licence, published top-1.")] = False,
    as_json: Json = False,
) -> int:
    """List the models by name: parameters, cost, input."""
    from swinkit.catalogue import Entry, models
    from swinkit.errors import UnknownNameError
    from swinkit.variants import VARIANTS
    from swinkit.weights import WEIGHTS

    found = models(pattern, pretrained=pretrained)
    if not found:
        raise UnknownNameError("model with public weights" if pretrained else "model", pattern, WEIGHTS if pretrained else VARIANTS)
    if as_json:
        print(json.dumps([entry.to_dict() for entry in found]))
        return 0
    entries = [entry for entry in found if isinstance(entry, Entry)]
    if not entries:
        print_weights([entry for entry in found if not isinstance(entry, Entry)])
        return 0
    width = max(len(entry.name) for entry in entries)
    print(f"{'name':{width}}  {'parameters':>10}  {'GFLOPs':>7}  {'input':>13}  {'classes':>7}")
    for entry in entries:
        cost = f"{entry.parameters / 1e6:8.2f} M  {entry.gflops:7.2f}"
        print(f"{entry.name:{width}}  {cost}  {entry.input:>13}  {entry.classes:>7,}")
    return 0


@app.command
def doctor(*, as_json: Json = False) -> int:
    """Say what swinkit finds here: versions, devices, which kernel runs and why, which extras are missing."""
    from swinkit.doctor import doctor, text

    findings = doctor()
    print(json.dumps(findings) if as_json else text(findings))
    return 1 if findings["problems"] else 0


bench = App(name="bench", help="Measure how fast parts of swinkit are here.")
app.command(bench)


@bench.command(name="data")
def bench_data(
    data: Annotated[str | None, Parameter(help="A built-in data set or a folder of images; by default the sample.")] = None,
    *,
    recipe: Annotated[str | None, Parameter(help="A recipe's name or a YAML file; by default the one that suits the data.")] = None,
    model: Annotated[str | None, Parameter(help="A name from `swinkit models`; by default the recipe's.")] = None,
    img_size: Annotated[int | None, Parameter(help="Image size in pixels; by default the model's.")] = None,
    batch_size: Annotated[int | None, Parameter(help="Images per step; by default the recipe's.")] = None,
    workers: Annotated[
        list[int] | None, Parameter(consume_multiple=True, negative="", help="Numbers of loading processes to measure, such as 0 2 4.")
    ] = None,
    seconds: Annotated[float, Parameter(help="How long each measurement lasts.")] = 5.0,
    as_json: Json = False,
) -> int:
    """Say whether training waits for the data or for the model, and what to do about it."""
    from swinkit.bench import data as measure

    def say(line: str) -> None:
        print(f"measuring: {line}", file=sys.stderr)

    speed = measure(
        data, recipe=recipe, model=model, img_size=img_size, batch_size=batch_size, workers=workers, seconds=seconds, say=say
    )  # fmt: skip
    print(json.dumps(speed.to_dict()) if as_json else speed.table())
    return 0
