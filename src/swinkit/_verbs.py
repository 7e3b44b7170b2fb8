"""Verbs as functions of the package: `swinkit.train(...)`, although `swinkit.train` is also the module that holds it."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """A module that can be called like the function that has its name, and is documented like it."""

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return inspect.getdoc(self._function)

    @property
    def _function(self) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def callable_module(name: str) -> None:
    """Let the module `name` be called; importing a submodule would otherwise hide a function of the same name in the package."""
    sys.modules[name].__class__ = _Verb
