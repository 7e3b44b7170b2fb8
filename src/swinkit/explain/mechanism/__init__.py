"""How the Swin Transformer works, in figures from the tensors of `swinkit.model`; no weights are needed."""

from __future__ import annotations

from typing import Any

from swinkit._verbs import callable_module
from swinkit.errors import InputError
from swinkit.explain.result import Explanation


def mechanism(**options: Any) -> Explanation:
    """Draw the mechanism."""
    raise InputError("Not drawn yet.")


callable_module(__name__)
