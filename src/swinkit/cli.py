"""The command line: one short function per verb. Heavy imports stand inside, so that help is instant.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import App, CycloptsError, Parameter

from swinkit import __version__
from swinkit.console import Bar, counted, print_predictions, print_weights, print_written
from swinkit.errors import SwinkitError
from swinkit.train.recipe import DATA_HELP, DEVICE_HELP, Recipe

app = App(
    name="swinkit",
    version=__version__,
    help="The Swin Transformer: train it, use it, look inside.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

STDIN = "<stdin>"
"""Stands for "-" on the way through cyclopts, which would take it for an option."""

Source = Annotated[str, Parameter(help="A run folder, a checkpoint in it, a folder of save_pretrained, or hf-hub:OWNER/NAME.")]
Device = Annotated[str, Parameter(help=DEVICE_HELP)]
Amp = Annotated[bool, Parameter(help="Mixed precision in bfloat16: faster on hardware that has it, to about three digits.")]
BatchSize = Annotated[int, Parameter(help="Images computed at a time.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def _options() -> Any:
    """Every field of Recipe as an optional flag, with the recipe's own words as help."""
    hints = get_type_hints(Recipe)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(Recipe):
        if field.name != "data":
            says = Parameter(help=field.metadata["help"], show_default=False)
            optional: Any = hints[field.name] | None
            fields.append((field.name, Annotated[optional, says], dataclasses.field(default=None)))
    # cyclopts looks the class up in its module.
    return dataclasses.make_dataclass("Options", fields, frozen=True, namespace={"__module__": __name__})


if TYPE_CHECKING:
    Options = Any
else:
    Options = _options()


@app.command
def train(
    data: Annotated[str | None, Parameter(name=["--data", "--data-dir"], help=DATA_HELP)] = None,
    *,
    recipe: Annotated[str | None, Parameter(help="A recipe's name or a YAML file. Flags below change single values of it.")] = None,
    output: Annotated[str | None, Parameter(help="The run folder; by default runs/DATE-DATA.")] = None,
    resume: Annotated[str | None, Parameter(help="A run folder to go on with.")] = None,
    nproc: Annotated[int | None, Parameter(help="Processes to train in on this machine; torchrun works too.")] = None,
    logger: Annotated[list[str] | None, Parameter(help='"package.module:function" that makes a logger; may be repeated.')] = None,
    options: Annotated[Options | None, Parameter(name="*")] = None,
) -> int:
    """Train a classifier; without arguments, on the Fashion-MNIST sample that comes with swinkit."""
    from swinkit.train import train

    changes = {name: value for name, value in vars(options).items() if value is not None} if options else {}
    command = shlex.join(["swinkit", *sys.argv[1:]])
    train(data, recipe=recipe, output=output, resume=resume, nproc=nproc, loggers=logger or (), command=command, **changes)
    return 0


@app.command
def evaluate(
    source: Source,
    /,
    data: Annotated[str | None, Parameter(help=f"{DATA_HELP} By default what the run was trained on.")] = None,
    *,
    split: Annotated[str, Parameter(help="auto (test, else val, else everything), train, val or test.")] = "auto",
    batch_size: BatchSize = 128,
    device: Device = "auto",
    amp: Amp = False,
    workers: Annotated[int, Parameter(help="Processes that load images.")] = 0,
    as_json: Json = False,
) -> int:
    """Score a trained classifier on labelled images: accuracy, per class, calibration."""
    from swinkit.evaluate import evaluate

    with Bar("evaluating") as update:
        scores = evaluate(
            source, data, split=split, batch_size=batch_size, device=device, amp=amp, workers=workers, on_batch=update
        )  # fmt: skip
    print(json.dumps(scores.to_dict()) if as_json else scores.table())
    return 0


@app.command
def predict(
    source: Source,
    files: Annotated[list[str], Parameter(help='Images, folders, glob patterns, or "-" for an image on standard input.')],
    /,
    *,
    top_k: Annotated[int, Parameter(help="How many guesses per image.")] = 5,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    amp: Amp = False,
    as_json: Json = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="", help="Print CSV with one line per image.")] = False,
) -> int:
    """Name what is in images. One that cannot be read is reported, the rest go on, and the exit code is 1."""
    from swinkit.predict import Predictor, expand

    if as_json and as_csv:
        print("swinkit: --json and --csv exclude each other; give one.", file=sys.stderr)
        return 2
    predictor = Predictor(source, device=device, amp=amp, batch_size=batch_size)
    pictures = expand(["-" if file == STDIN else file for file in files])
    with Bar("predicting", hidden=sys.stdout.isatty()) as update:
        results = counted(predictor.stream(pictures, top_k=top_k), len(pictures), update)
        return print_predictions(results, "json" if as_json else "csv" if as_csv else "text")


@app.command
def embed(
    source: Source,
    data: Annotated[
        list[str],
        Parameter(help="A built-in data set, a folder with class folders or without, a table, tar shards, hf:NAME, images, or patterns."),
    ],
    /,
    *,
    out: Annotated[str, Parameter(help="The file to write: NAME.parquet, or NAME.npy with NAME.names.json beside it.")],
    split: Annotated[str, Parameter(help="Of data with classes: auto (test, else val, else everything), train, val or test.")] = "auto",
    batch_size: BatchSize = 64,
    device: Device = "auto",
    amp: Amp = False,
    workers: Annotated[int, Parameter(help="Processes that load images.")] = 0,
    shard_size: Annotated[int, Parameter(help="Images per shard; an interruption costs one shard at most.")] = 4096,
    normalize: Annotated[bool, Parameter(help="Vectors of length 1, so that a product of two is their cosine.")] = False,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace the file, and drop the shards of an interrupted call.")] = False,
) -> int:
    """Turn images into vectors (pooled features). After an interruption the same command goes on."""
    from swinkit.embed import embed

    bar = Bar("embedding")
    with bar as update:
        result = embed(
            source, data[0] if len(data) == 1 else data, out=out, split=split, batch_size=batch_size, device=device, amp=amp,
            workers=workers, shard_size=shard_size, normalize=normalize, overwrite=overwrite, on_batch=update, say=bar.say,
        )  # fmt: skip
    return print_written(result)


@app.command
def report(
    runs: Annotated[list[str], Parameter(help="Run folders. One: its report.html is built again; several: they are compared.")],
    /,
    *,
    out: Annotated[
        str | None, Parameter(help="The page to write; by default RUN/report.html, or compare.html here for several runs.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Build a run's report.html again, or compare several runs on one page; computes nothing anew."""
    from swinkit.report import report

    made = report(*runs, out=out)
    print(json.dumps(made.to_dict()) if as_json else made.table())
    for says in (*made.warnings, *made.problems):
        print(f"swinkit: {says}", file=sys.stderr)
    print(f"open    {made.page}", file=sys.stderr)
    return 1 if made.problems else 0


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


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = app([STDIN if argument == "-" else argument for argument in arguments], exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        print(f"swinkit: {error}\nSee: swinkit {' '.join(arguments[:1])} --help", file=sys.stderr)
        return 2
    except SwinkitError as error:
        print(f"swinkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"swinkit: interrupted. {stop}".rstrip(), file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return _reader_gone()
        print(f"swinkit: {_about_the_disk(error)}", file=sys.stderr)
        return 1


def _about_the_disk(error: OSError) -> str:
    name = str(error.filename or "")
    if name.endswith(".writing"):
        # Files are written under another name first, which says nothing to anybody.
        return f"{os.path.dirname(name)} cannot be written into ({error.strerror}); choose another place, or change its permissions."
    return f"{error.strerror or error}{f': {name}' if name else ''}"


def _reader_gone() -> int:
    # `| head` has read enough; nothing is left to say, also not at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
