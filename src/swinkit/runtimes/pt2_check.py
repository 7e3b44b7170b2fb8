"""Whether an archive of torch.export can be given to torch, which unpickles, evaluates and executes some of what such a file may hold.

What torch 2.14 would do with a file that somebody prepared:
- unpickle: example inputs, weights and constants marked as pickled, objects, members of older formats;
- evaluate: sizes, which it hands to sympy as text; the code of guards;
- execute: names, which it puts into the source of the module it generates; and any function of torch that a node names, torch.load too.
So only what `swinkit export` writes passes: raw tensors, operations of aten and arithmetic of sizes, plain names, no metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swinkit.errors import CheckpointError

COMPILED = "data/aotinductor/"
MEMBERS = re.compile(
    r"archive_(format|version)|byteorder|\.data/(version|serialization_id)|extra/swinkit\.json|models/model\.json"
    r"|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
ARITHMETIC = "add|sub|mul|floordiv|mod|neg|pow|truediv|eq|ne|lt|le|gt|ge|and_|or_|not_"
TARGET = re.compile(rf"torch\.ops\.aten\.\w+\.\w+|_operator\.({ARITHMETIC})|torch\.sym_(min|max|not|float|int|ite)")
FUNCTIONS = {
    "Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs", "Eq", "Ne", "Piecewise", "FloorDiv", "PythonMod", "CleanDiv",
    "CeilDiv", "ModularIndexing", "Where", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan", "And", "Or", "Not", "Identity",
    "Equality", "Unequality", "True", "False", "Rational", "ExprCondPair", "positive", "integer", "nonnegative",
}  # fmt: skip
TREE = re.compile(
    r'\[1, (?:[{}\[\], ]|"type": (?:null|"builtins\.(?:tuple|list|dict)")|"context": (?:null|"null"|"\[\]")|"children_spec":)*\]'
)
NAME = re.compile(r"[\w.:+-]*")
EMPTY = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node", "guards_code")


def check_program(records: Mapping[str, bytes], path: Path) -> None:
    """Errors: CheckpointError for an archive with anything in it that `swinkit export` does not write."""
    for name in records:
        if not MEMBERS.fullmatch(name):
            _refuse(path, f"a member {name}")
    if records.get("data/sample_inputs/model.pt"):
        _refuse(path, "example inputs, which torch would unpickle")
    if records.get("archive_format") != b"pt2" or "models/model.json" not in records:
        _refuse(path, "no program")
    for config in CONFIGS:
        if any(key == "use_pickle" and value is not False for key, value in _values(_json(records, config, path))):
            _refuse(path, "pickled values")
    for key, value in _values(_json(records, "models/model.json", path)):
        if not _harmless(key, value):
            _refuse(path, f"{key} {str(value)[:80]!r}")


def _harmless(key: str, value: Any) -> bool:
    if not isinstance(value, str):
        return value is None or isinstance(value, int | float)
    if key in EMPTY:
        return not value
    if key == "expr_str":
        return _is_size(value)
    pattern = {"target": TARGET, "in_spec": TREE, "out_spec": TREE}.get(key, NAME)
    return pattern.fullmatch(value) is not None and "__class__" not in value


def _is_size(text: str) -> bool:
    """Whether text is a size as torch writes it: whole numbers, symbols and a few functions."""
    tokens = re.findall(r"\w+|\W", text)
    return all(t in FUNCTIONS or t in "(),=+-*/<>' " or re.fullmatch(r"\d+|[su]\d+", t) for t in tokens)


def _values(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a JSON document with the name that it has, and every name as a "name"."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield "name", name
            yield from _values(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _values(value, key)
    else:
        yield key, content


def _json(records: Mapping[str, bytes], name: str, path: Path) -> Any:
    try:
        return json.loads(records[name])
    except (KeyError, ValueError, RecursionError):
        _refuse(path, f"no readable {name}")


def _refuse(path: Path, what: str) -> Any:
    raise CheckpointError(f"{path} holds {what}, which `swinkit export` does not write; it is not opened. Export the model again.")
