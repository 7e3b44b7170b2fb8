"""Docstrings as they are written in swinkit, made into what Sphinx reads.

A line "name: text" describes a parameter, "Errors: text" what is raised; `name` is code; what is indented is an example.
"""

import inspect
import re

FIELD = re.compile(r"(\*{0,2}[a-z]\w*): (.+)")
ERRORS = re.compile(r"(?:Errors|Raises): (.+)")


def setup(app):
    """The event of Sphinx that this listens to."""
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}


def convert(_app, _what, _name, thing, _options, lines):
    """Replace the lines of a docstring by reStructuredText."""
    lines[:] = restructured(list(lines), parameters(thing))


def parameters(thing):
    """The names of what a function or class takes."""
    try:
        return set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()


def restructured(lines, names):
    """The lines of a docstring as lines of reStructuredText."""
    out: list[str] = []
    state = "text"
    for line in lines:
        field, errors = FIELD.fullmatch(line), ERRORS.fullmatch(line)
        if errors:
            out, state = [*out, "", f":Errors: {inline(errors[1])}"], "field"
        elif field and field[1].lstrip("*") in names:
            out, state = [*out, "", f":param {field[1].lstrip('*')}: {inline(field[2])}"], "field"
        elif line.startswith("    "):
            out, state = [*out, *([] if state == "example" else ["", "::", ""]), line], "example"
        elif not line:
            out, state = [*out, ""], state if state == "example" else "text"
        else:
            lead = {"field": "    ", "text": "", "example": ""}[state]
            out, state = [*out, *([""] if state == "example" else []), lead + inline(line)], "field" if state == "field" else "text"
    return [*out, ""]


def inline(text):
    """One line, in which `name` is code and stars, backslashes and bars mean themselves."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{part}`" if part.startswith("`") else re.sub(r"([*\\|_])", r"\\\1", part) for part in parts)
