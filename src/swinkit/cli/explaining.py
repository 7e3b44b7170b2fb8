"""`swinkit explain`: how the architecture works, and what a model looks at. Heavy imports stand inside, so that help is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from swinkit.cli.shared import Device, Json, Source, app

if TYPE_CHECKING:
    from swinkit.explain.result import Explanation

Sizes = Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")]
"""SIDE, or HEIGHT WIDTH."""
Out = Annotated[str | None, Parameter(help="A folder for the figures.")]
Html = Annotated[str | None, Parameter(help="One page with everything, which opens offline.")]
Formats = Annotated[
    list[str] | None, Parameter(name="--format", consume_multiple=True, negative="", help="Of the figures: png, svg or both.")
]
Overwrite = Annotated[bool, Parameter(negative="", help="Replace files that exist.")]

explain = App(name="explain", help="See how the architecture works, and what a model looks at.")
app.command(explain)


@explain.default
def explain_picture(
    model: Source,
    picture: Annotated[str, Parameter(help="An image file.")],
    /,
    *,
    out: Out = None,
    html: Html = None,
    formats: Formats = None,
    method: Annotated[
        list[str] | None, Parameter(consume_multiple=True, negative="", help="attention, rollout, gradcam and so on; by default all.")
    ] = None,
    block: Annotated[str | None, Parameter(help="STAGE.BLOCK, both from 0; by default the last.")] = None,
    head: Annotated[int | None, Parameter(help="Attention head from 0; by default their mean.")] = None,
    query: Annotated[
        tuple[int, int] | None, Parameter(negative="", help="Y X, the pixel whose attention is shown; by default the middle.")
    ] = None,
    label: Annotated[str | None, Parameter(help="The class to explain, by name or number; by default the model's first guess.")] = None,
    similar: Annotated[str | None, Parameter(help="A folder in which to find the most similar pictures.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> int:
    """Show what a model looks at on a picture. `swinkit explain mechanism` shows how windows, shift and mask work, without a model.

    Without --out and --html, writes the page PICTURE.explained.html.
    """
    from swinkit.explain import explain

    html = f"{Path(picture).stem}.explained.html" if out is None and html is None else html
    made = explain(
        model, picture, out=out, html=html, formats=formats or ("png",), methods=method, block=block, head=head, query=query,
        label=label, similar=similar, device=device, overwrite=overwrite, say=_say,
    )  # fmt: skip
    return _show(made, as_json)


@explain.command
def mechanism(
    *,
    size: Annotated[Sizes, Parameter(help="The picture in pixels, SIDE or HEIGHT WIDTH; 224 by default.")] = None,
    window: Annotated[Sizes, Parameter(help="The window in tokens, SIDE or HEIGHT WIDTH; 7 by default.")] = None,
    shift: Annotated[Sizes, Parameter(help="How far windows move, in tokens; by default half a window, as in the model.")] = None,
    patch: Annotated[Sizes, Parameter(help="Pixels that become one token, SIDE or HEIGHT WIDTH; 4 by default.")] = None,
    picture: Annotated[str | None, Parameter(help="An image to work on; by default one is drawn.")] = None,
    out: Out = None,
    html: Html = None,
    formats: Formats = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> int:
    """Show how Swin works, from the tensors of the code that runs: windows, shift, masks, relative positions, merging, cost.

    Without --out and --html, writes the page mechanism.html.
    """
    from swinkit.explain.mechanism import mechanism

    made = mechanism(
        size=_size("--size", size) or 224, window=_size("--window", window) or 7, shift=_size("--shift", shift),
        patch=_size("--patch", patch) or 4, picture=picture, out=out, html=html, formats=formats or ("png",), overwrite=overwrite, say=_say,
    )  # fmt: skip
    return _show(made, as_json)


def _size(flag: str, given: list[int] | None) -> int | tuple[int, int] | None:
    """One number is a square, two are (height, width). Errors: ConfigError for more."""
    from swinkit.errors import ConfigError

    if not given:
        return None
    if len(given) > 2:
        raise ConfigError(f"{flag} got {len(given)} numbers; give SIDE, or HEIGHT WIDTH.")
    return given[0] if len(given) == 1 else (given[0], given[1])


def _say(line: str) -> None:
    print(f"explain: {line}", file=sys.stderr)


def _show(made: Explanation, as_json: bool) -> int:
    print(json.dumps(made.to_dict()) if as_json else made.table())
    for file in made.files:
        print(f"written  {file}", file=sys.stderr)
    return 0
