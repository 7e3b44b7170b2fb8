"""Tutorials: where a page includes a script with cells, the site shows its text as text and its code as code."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r"^```\{literalinclude\} (\S*examples/tutorial_\w+\.py)\n:language: python\n```$", re.MULTILINE)


def setup(app):
    """The event of Sphinx that this listens to."""
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}


def expand(app, docname, source):
    """The page with the cells of a script in place of the include."""

    def cells(include):
        path = (DOCS / docname).parent / include[1]
        app.env.note_dependency(str(path))
        return "\n".join(cell(text) for text in re.split(r"^# %% ?", path.read_text(encoding="utf-8"), flags=re.MULTILINE) if text.strip())

    source[0] = INCLUDE.sub(cells, source[0])


def cell(text):
    """Markdown of one cell: "[markdown]" and comments, or code."""
    if text.startswith("[markdown]"):
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines()[1:]) + "\n"
    return f"```py\n{text.strip()}\n```\n"
