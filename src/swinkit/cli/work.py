"""The verbs that train a model and use it. Heavy imports stand inside, so that help is instant."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import Parameter

from swinkit.cli.shared import STDIN, Amp, BatchSize, Device, Json, Source, app
from swinkit.console import Bar, counted, print_predictions, print_written
from swinkit.train.recipe import DATA_HELP, Recipe


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

    bar = Bar("evaluating")
    with bar as update:
        scores = evaluate(
            source, data, split=split, batch_size=batch_size, device=device, amp=amp, workers=workers, on_batch=update, say=bar.say
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
    bar = Bar("predicting", hidden=sys.stdout.isatty())
    with bar as update:
        bar.say(predictor.runtime.about)
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
