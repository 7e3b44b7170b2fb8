"""The page at `/`: index.html, page.css and page.js put together as one text that loads nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

PARTS = {"css": "page.css", "js": "page.js"}


def page(models: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML, with `{{nonce}}` where the nonce of the Content-Security-Policy belongs.

    models: entries of `GET /models` (name, about, classes, img_size, explains, embeds), the first one chosen. None: the page asks
    `GET /models` itself, with the visitor's token where the server wants one, so that nothing about the models is told without it.
    The policy has to allow styles and scripts of that nonce, images from `blob:` and `data:`, and connections to 'self'.
    """
    return _pieces()[0] + _as_json(models) + _pieces()[1]


@cache
def _pieces() -> tuple[str, str]:
    """What stands before and after the models."""
    folder = files(__name__)
    texts = {name: folder.joinpath(file).read_text("utf-8").rstrip() for name, file in PARTS.items()}
    frame = folder.joinpath("index.html").read_text("utf-8")
    whole = re.sub(r"\{\{(css|js)\}\}", lambda found: texts[found[1]], frame)
    before, _, after = whole.partition("{{models}}")
    return before, after


def _as_json(models: Sequence[Mapping[str, Any]]) -> str:
    """JSON that cannot end its script element, nor be taken for a place to fill in: `<`, `&` and `{{` occur in strings alone."""
    text = json.dumps([dict(model) for model in models])
    return text.replace("<", "\\u003c").replace("&", "\\u0026").replace("{{", "{\\u007b")
