"""Docstrings as they are written in swinkit, made into what Sphinx reads.

"name: text" at the start of a sentence or after a semicolon describes a parameter, "Errors: text" what is raised; `name` is code; what is
indented is an example.
"""

import inspect
import re

MARK = re.compile(r"(?:^|(?<=[.;)] ))(\*{0,2}[a-z]\w*(?:, [a-z]\w*)*|Errors|Raises): ")


def setup(app):
    """The event of Sphinx that this listens to."""
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}


def convert(_app, _what, _name, thing, _options, lines):
    """Replace the lines of a docstring by reStructuredText."""
    lines[:] = restructured("\n".join(lines), parameters(thing))


def parameters(thing):
    """The names of what a function or class takes."""
    try:
        return set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()


def restructured(text, names):
    """A docstring as lines of reStructuredText."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("    "):
            out += ["::", "", *block.split("\n"), ""]
        else:
            out += [line for lines in pieces(re.sub(r"\n(?=    )", "\n\n", block), names) for line in lines]
    return out


def pieces(block, names):
    """The sentences, parameters and errors of a paragraph, each as lines."""
    text = " ".join(block.split())
    known = names | {"Errors", "Raises"}
    marks = [mark for mark in MARK.finditer(text) if {name.strip(" *") for name in mark[1].split(",")} <= known]
    before = text[: marks[0].start()] if marks else text
    if before:
        yield [inline(before), ""]
    for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=False):
        said = inline(text[mark.end() : end].strip().removesuffix(";"))
        if mark[1] in ("Errors", "Raises"):
            yield [f":Errors: {said}"]
        else:
            yield [f":param {name.strip(' *')}: {said}" for name in mark[1].split(",")]
    if marks:
        yield [""]


def inline(text):
    """A sentence, in which `name` is code and stars, backslashes, bars and underscores mean themselves."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{part}`" if part.startswith("`") else re.sub(r"([*\\|_])", r"\\\1", part) for part in parts)
