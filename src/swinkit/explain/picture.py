"""A model on a picture."""

from __future__ import annotations

from typing import Any

from swinkit.errors import InputError
from swinkit.explain.result import Explanation


def explain_picture(model: Any, picture: Any, **options: Any) -> Explanation:
    """See `swinkit.explain.explain`."""
    raise InputError("Models cannot be explained on a picture in this version; `swinkit explain mechanism` needs neither.")
