"""See how the Swin Transformer works, and what a model looks at; nothing in the model changes for it.

swinkit.explain("runs/one", "photo.jpg", html="photo.html")     # a model on a picture
swinkit.explain.mechanism(size=224, window=7, html="swin.html")  # the mechanism, without weights
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinkit._verbs import callable_module

if TYPE_CHECKING:
    from swinkit.data.images import Source
    from swinkit.explain import mechanism
    from swinkit.explain.page import Section, Shown
    from swinkit.explain.result import Explanation
    from swinkit.model import SwinTrunk

_HOME = {"Explanation": "result", "Section": "page", "Shown": "page"}
"""public name -> the module of this room that defines it"""
_ROOMS = ("mechanism",)

__all__ = ["Explanation", "Section", "Shown", "explain", "mechanism"]


def explain(
    model: str | Path | SwinTrunk,
    picture: Source,
    *,
    out: str | Path | None = None,
    html: str | Path | None = None,
    formats: Sequence[str] = ("png",),
    methods: Sequence[str] | None = None,
    block: str | tuple[int, int] | None = None,
    head: int | None = None,
    query: tuple[int, int] | None = None,
    label: str | int | None = None,
    similar: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Explanation:
    """Show what a model does on a picture.

    model: a model, or what `Predictor` opens; picture: what `read_image` takes. out: a folder for the figures, each as `formats`;
    html: one page with all of them. methods: which, None for all; block: "STAGE.BLOCK" from 0; head: from 0; query: (y, x), the pixel
    whose attention is shown; label: the class to explain, None for the model's first; similar: a folder to find like pictures in.
    say: gets a line of text on progress.
    Errors: InputError for a picture, method, block, head, query or label that is not there, and for files that exist unless `overwrite`;
    CheckpointError for weights that cannot be read.
    """
    from swinkit.explain.picture import explain_picture

    return explain_picture(
        model, picture, out=out, html=html, formats=formats, methods=methods, block=block, head=head, query=query, label=label,
        similar=similar, device=device, overwrite=overwrite, say=say,
    )  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"swinkit.explain.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'swinkit.explain' has no attribute {name!r}")
    return getattr(import_module(f"swinkit.explain.{_HOME[name]}"), name)


callable_module(__name__)
