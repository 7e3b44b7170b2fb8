"""How the Swin Transformer works, in figures from the tensors of `swinkit.model`; no weights are needed.

swinkit.explain.mechanism(size=224, window=7, shift=3, html="swin.html")         # one page
swinkit.explain.mechanism.draw("figures", size=(200, 300), window=(7, 12))        # figures/shift.png and so on
chapters = swinkit.explain.mechanism.chapters(size=224)                           # figures with their words, nothing written

The arrays behind each figure come from functions of `partition`, `windows`, `shift`, `masks`, `proof`, `index`, `merging`, `receptive` and
`cost` in this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinkit._verbs import callable_module
from swinkit.explain.result import Explanation

if TYPE_CHECKING:
    from swinkit.explain.mechanism.chapter import Chapter
    from swinkit.fields import SizeLike

NAMES = ("partition", "windows", "shift", "masks", "index", "merging", "receptive_field", "cost")
"""The figures in reading order; each is also the stem of its file."""
PAGE = "mechanism.html"
TITLE = "How the Swin Transformer works"

__all__ = ["NAMES", "chapters", "draw", "html", "mechanism"]


def chapters(
    *, size: SizeLike = 224, window: SizeLike = 7, shift: SizeLike | None = None, patch: SizeLike = 4, picture: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Chapter, ...]:  # fmt: skip
    """Every step with its figure (matplotlib), title, text, caption, alternative text and numbers, in the order of NAMES.

    size: the picture in pixels; window, shift: in tokens (shift None: half a window); patch: in pixels; each a number or (height, width).
    picture: what `read_image` takes, cut and scaled to `size`; None: a drawn landscape. say: gets a line of text before each step.
    Errors: ConfigError for sizes that do not fit together (see `geometry`), InputError for a picture that cannot be read.
    """
    from swinkit.explain.mechanism.geometry import geometry
    from swinkit.explain.mechanism.sample import picture_of

    sizes = geometry(size, window, shift, patch)
    pixels = picture_of(sizes.size, picture)
    made = []
    for name, step in _steps().items():
        if say:
            say(name.replace("_", " "))
        made.append(step(pixels, sizes))
    return tuple(made)


def _steps() -> dict[str, Callable[..., Chapter]]:
    """Name -> a function of (picture, sizes) that makes the chapter."""
    from swinkit.explain.mechanism import cost, index, masks, merging, partition, receptive, shift, windows

    steps: tuple[Callable[..., Chapter], ...] = (
        partition.partition, windows.windows, lambda _, sizes: shift.shift(sizes), lambda _, sizes: masks.masks(sizes),
        lambda _, sizes: index.index(sizes), lambda *_: merging.merging(), receptive.receptive_field, lambda _, sizes: cost.cost(sizes),
    )  # fmt: skip
    return dict(zip(NAMES, steps, strict=True))


def draw(
    folder: str | Path, *, size: SizeLike = 224, window: SizeLike = 7, shift: SizeLike | None = None, patch: SizeLike = 4,
    picture: Any = None, formats: Sequence[str] = ("png",), overwrite: bool = False,
) -> list[Path]:  # fmt: skip
    """Write every figure as FOLDER/NAME.FORMAT, with NAME from NAMES; returns the paths. Arguments as of `chapters`.

    formats: "png", "svg" or both. Errors: those of `chapters`; InputError for another format, and for files that exist unless `overwrite`.
    """
    made = mechanism(
        size=size, window=window, shift=shift, patch=patch, picture=picture, out=folder, formats=formats, overwrite=overwrite
    )  # fmt: skip
    return list(made.files)


def html(made: Sequence[Chapter]) -> str:
    """Chapters as one page that loads nothing."""
    from swinkit.explain.page import page

    lead = (
        "Shifted windows step by step. Every number and every picture on this page comes from the functions that run in the model "
        "(swinkit.model), for the sizes you asked for; the paper is arXiv 2103.14030."
    )
    return page(TITLE, [chapter.section() for chapter in made], lead=lead)


def mechanism(
    *,
    size: SizeLike = 224,
    window: SizeLike = 7,
    shift: SizeLike | None = None,
    patch: SizeLike = 4,
    picture: Any = None,
    out: str | Path | None = None,
    html: str | Path | None = None,
    formats: Sequence[str] = ("png",),
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Explanation:
    """Write the figures into the folder `out`, and all of them with their explanations as the page `html`; by default mechanism.html here.

    Other arguments as of `chapters` and `draw`. The result's `facts` hold the numbers, among them the largest difference between masked
    attention and attention in each region by itself. Errors: those of `chapters` and `draw`; nothing is written then.
    """
    from swinkit.explain import figures

    if out is None and html is None:
        html = PAGE
    figures.check_formats(formats)
    drawn = [] if out is None else figures.figure_paths(out, NAMES, formats)
    figures.check_free([*drawn, *([] if html is None else [Path(html)])], overwrite)
    made = chapters(size=size, window=window, shift=shift, patch=patch, picture=picture, say=say)
    if out is not None:
        figures.write(out, {chapter.name: chapter.figure for chapter in made}, formats, overwrite)
    if html is not None:
        _write_page(Path(html), made)
        drawn.append(Path(html))
    facts = {name: value for chapter in made for name, value in chapter.facts.items()}
    return Explanation(tuple(drawn), facts)


def _write_page(path: Path, made: Sequence[Chapter]) -> None:
    from swinkit.checkpoints.files import write_atomic

    write_atomic(path, html(made))


callable_module(__name__)
