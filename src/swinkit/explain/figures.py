"""How figures look, and how they become PNG, SVG, or a part of a page that follows its light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from swinkit.checkpoints.files import write_atomic
from swinkit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

# These four stand for a role and nothing else is drawn with them: in a page, its variables take their place.
INK, SOFT, RULE, PAPER = "#1d1f25", "#5c626e", "#d9d6cf", "#fefefd"
PAGE_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)", PAPER: "var(--paper)"}
STRONG = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#5b5fc7")
"""Lines and marks: told apart by colour-blind readers (after Okabe and Ito), at least 3 : 1 on white and on the dark page."""
FILLS = ("#a9d4f0", "#f7c98b", "#92d6bd", "#e9bcd6", "#f3e79b", "#c3c5f0", "#f2b59b", "#d4d9de")
"""Areas, in the same order of hues; text on them is DARK in either theme."""
DARK = "#16181c"
FORMATS = ("png", "svg")
DPI = 200
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9.0, "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 8.0, "axes.labelsize": 9.0, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0, "legend.fontsize": 8.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": SOFT, "ytick.color": SOFT, "axes.edgecolor": SOFT,
    "axes.facecolor": "none", "figure.facecolor": PAPER, "hatch.linewidth": 0.6, "legend.frameon": False, "svg.fonttype": "none",
    "image.interpolation": "nearest",
}  # fmt: skip


@contextmanager
def style(**more: Any) -> Iterator[None]:
    """The house style for everything drawn inside, whatever matplotlib settings a person has; `more`: svg_hashsalt for svg.hashsalt."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {name.replace("_", "."): value for name, value in more.items()})
        yield


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Let a drawing function draw in the house style."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with style():
            return draw(*args, **kwargs)

    return wrapped


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of width x height inches, to be used inside a `styled` function; options as of matplotlib's Figure."""
    # The object interface: pyplot would keep every figure alive and choose a screen to draw on.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), **{"layout": ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06), **options})


def bare(axes: Axes) -> None:
    """Leave ticks and the box out."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def render(figure: Figure, form: str, name: str = "figure") -> bytes:
    """A figure as the bytes of a PNG (200 dots per inch) or SVG file; equal figures give equal bytes.

    name: what the ids inside an SVG are derived from. Errors: InputError for another format.
    """
    check_formats([form])
    out = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with style(svg_hashsalt=name):
        _settle(figure)
        figure.savefig(out, format=form, dpi=DPI, metadata=metadata)
    return out.getvalue()


def _settle(figure: Figure) -> None:
    """Lay out once: the constrained layout starts from where it stopped before, so a second picture would differ from the first."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def inline(figure: Figure, name: str) -> str:
    """A figure as SVG for a page, in the page's colours and type and on its ground; `name` keeps its ids apart from other figures'."""
    ground = figure.get_facecolor()
    figure.set_facecolor("none")
    try:
        svg = render(figure, "svg", name).decode()
    finally:
        figure.set_facecolor(ground)
    return adopt(svg)


def adopt(svg: str) -> str:
    """An SVG file as an element of a page: no prolog, namespaces, fixed size, styles for everything or fonts; the page's colours."""
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"font-family:[^;\"]*;?", r" xmlns:xlink=\"[^\"]*\""):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    meant = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in meant else "", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    for mark, variable in PAGE_COLOURS.items():
        svg = svg.replace(mark, variable)
    return re.sub(r"\s*\n\s*", "\n", svg)


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError unless all are known."""
    for form in formats:
        if form not in FORMATS:
            raise InputError(f"The figure format is {form!r}; expected {' or '.join(FORMATS)}.")


def check_free(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise InputError if one of the paths is a folder, or exists and may not be replaced: called before anything is computed."""
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected the name of a file to write.")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; choose another place, or pass --overwrite (overwrite=True).")


def figure_paths(folder: str | Path, names: Sequence[str], formats: Sequence[str]) -> list[Path]:
    """Where `write` puts figures of these names: FOLDER/NAME.FORMAT. Errors: InputError for another format, or if FOLDER is a file."""
    check_formats(formats)
    if Path(folder).is_file():
        raise InputError(f"{folder} is a file; expected a folder for the figures.")
    return [Path(folder) / f"{name}.{form}" for name in names for form in formats]


def write(folder: str | Path, figures: Mapping[str, Figure], formats: Sequence[str] = ("png",), overwrite: bool = False) -> list[Path]:
    """Write each figure as FOLDER/NAME.FORMAT, each file whole or not at all; makes the folder. Errors: InputError, see `check_free`."""
    paths = figure_paths(folder, list(figures), formats)
    check_free(paths, overwrite)
    for path in paths:
        write_atomic(path, render(figures[path.stem], path.suffix[1:], path.stem))
    return paths
