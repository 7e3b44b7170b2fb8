"""What docstrings promise: every public function names its parameters and its errors, every tensor has a shape, every method a sentence."""

import inspect
import re
from types import ModuleType

import pytest

import swinkit
from swinkit import errors

SHAPE = re.compile(r"\((?:B|N|G|C|K|H|h|height)\b[^()]*\)")
ERRORS = re.compile(r"\b(?:Errors: |Raises? |no error|[Ee]rrors)")
OBVIOUS = {"self", "cls", "x", "args", "kwargs"}
"""x is the tensor whose shape the docstring begins with."""


def public_functions():
    """(name, function) of all that `swinkit.__all__` offers to call; classes count as their constructor."""
    for name in sorted(set(swinkit.__all__) - {"__version__", "bench"}):
        thing = getattr(swinkit, name)
        yield name, thing._function if isinstance(thing, ModuleType) else thing
    yield "bench.data", swinkit.bench.data
    yield "bench.model", swinkit.bench.model


def public_methods():
    """(name, function) of the methods and properties that swinkit's public classes have of their own."""
    for name, cls in public_functions():
        for attribute in dir(cls) if inspect.isclass(cls) else ():
            raw = inspect.getattr_static(cls, attribute)
            function = getattr(raw, "__func__", getattr(raw, "fget", raw))
            ours = inspect.isfunction(function) and function.__module__.startswith("swinkit")
            if ours and (attribute == "__call__" or not attribute.startswith("_")):
                yield f"{name}.{attribute}", function


def undocumented(function):
    """Parameters that a docstring does not name. Dataclasses document their fields where they stand."""
    doc = inspect.getdoc(function) or ""
    if hasattr(function, "__dataclass_fields__"):
        return []
    return [name for name in inspect.signature(function).parameters if name not in OBVIOUS and not re.search(rf"\b{name}\b", doc)]


def takes_or_gives_tensors(function):
    hints = [str(hint) for name, hint in function.__annotations__.items() if name != "self"]
    return any(re.search(r"\bTensor\b", hint) for hint in hints)


@pytest.mark.parametrize(("name", "function"), list(public_functions()), ids=lambda value: value if isinstance(value, str) else "")
def test_functions_name_their_parameters_and_errors(name, function):
    assert undocumented(function) == []
    if not hasattr(function, "__dataclass_fields__"):
        assert ERRORS.search(inspect.getdoc(function)), f"{name} does not say what it raises"


@pytest.mark.parametrize(("name", "function"), list(public_methods()), ids=lambda value: value if isinstance(value, str) else "")
def test_methods_name_their_parameters_and_shapes(name, function):
    doc = inspect.getdoc(function)
    assert doc, name
    assert [p for p in undocumented(function) if p not in ("pre_logits", "output_fmt")] == []
    if takes_or_gives_tensors(function):
        assert SHAPE.search(doc), f"{name} takes or gives a tensor and states no shape"


def test_fields_of_the_configuration_are_documented():
    """Each with a string after it, which Sphinx reads."""
    source = inspect.getsource(swinkit.SwinConfig)
    for name in swinkit.SwinConfig.__dataclass_fields__:
        assert re.search(rf"^    {name}: .*\n    \"\"\"", source, flags=re.MULTILINE), name


def test_errors_that_docstrings_name_exist():
    known = {name for name in dir(errors) if name.endswith("Error")}
    for name, function in [*public_functions(), *public_methods()]:
        named = set(re.findall(r"\b([A-Z]\w+Error)\b", inspect.getdoc(function)))
        assert named <= known, name


def test_verbs_are_documented_like_their_functions():
    assert swinkit.train.__doc__ == inspect.getdoc(swinkit.train._function)
    assert "recipe:" in swinkit.train.__doc__


def test_an_undocumented_parameter_is_found():
    def function(size, other):
        """Takes a size."""

    assert undocumented(function) == ["other"]
