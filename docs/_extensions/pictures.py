"""The pictures of "How it works", drawn by `swinkit.explain.mechanism` from the live code whenever the site is built.

The pages name smaller copies in images/how-it-works, which GitHub shows; the site shows those drawn for it. To make the copies again:

    python docs/_extensions/pictures.py
"""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
COPIES = DOCS / "images" / "how-it-works"
DRAWN = DOCS / "_generated" / "how-it-works"
SETTINGS = {"size": 224, "window": 7, "shift": 3}
WIDTH, COLOURS = 1100, 160


def setup(app):
    """The events of Sphinx that this listens to."""
    app.connect("builder-inited", lambda _: draw())
    app.connect("source-read", use_drawn)
    return {"parallel_read_safe": True}


def draw():
    """Draw the pictures, if the code that draws them is newer than they are."""
    import swinkit

    source = Path(swinkit.__file__).parent
    code = max(path.stat().st_mtime for path in (source / "model.py", *(source / "explain").rglob("*.py")))
    drawn = [path.stat().st_mtime for path in DRAWN.glob("*.png")]
    if len(drawn) < len(swinkit.explain.mechanism.NAMES) or min(drawn) < code:
        swinkit.explain.mechanism.draw(DRAWN, overwrite=True, **SETTINGS)


def use_drawn(_app, _docname, source):
    """A page with the pictures that were drawn for the site in place of the copies."""
    for before in ("../images/how-it-works/", "images/how-it-works/"):
        source[0] = source[0].replace(f"({before}", "(/_generated/how-it-works/")


def small(path):
    """A drawn picture as its copy has it: narrower, in few colours."""
    from PIL import Image

    with Image.open(path) as drawn:
        picture = drawn.convert("RGB")
    size = (WIDTH, round(picture.height * WIDTH / picture.width))
    return picture.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS, dither=Image.Dither.NONE)


if __name__ == "__main__":
    draw()
    COPIES.mkdir(parents=True, exist_ok=True)
    for path in sorted(DRAWN.glob("*.png")):
        small(path).save(COPIES / path.name, optimize=True)
