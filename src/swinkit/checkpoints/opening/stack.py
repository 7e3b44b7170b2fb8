"""What a pickle would build, followed opcode by opcode without building it: a stack of descriptions.

It exists for what no list of names can tell. A tensor of one number repeated 2^31 times takes no memory, until torch's unpickler is made to
loop over it: as the size of something, as the state of something, as the arguments of a call. And tuples that hold one tuple twice, which
holds another twice, and so on, take no memory; but to hash the outermost, as the key of a dictionary, takes for ever.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

_LARGEST_TUPLE = 1_000_000
_LARGEST_CALL = 1_000_000
_TENSORS = {f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2")}
_PARAMETERS = {f"torch._utils._rebuild_{kind}" for kind in ("parameter", "parameter_with_state")}
# Torch's unpickler calls these with a file's arguments; the stand-ins do nothing with theirs.
_CALLED = _TENSORS | {"collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "_codecs.encode"}
_CALLED |= {"builtins.set", "builtins.complex", "torch.nn.parameter.Parameter"}


@dataclass(eq=False)
class Value:
    """What is known of an object: how it came to be, what it holds, and how many objects one would visit to hash it."""

    kind: str
    parts: list[Value] = field(default_factory=list)
    size: int = 1

    def holds_tensor(self) -> bool:
        """Whether a tensor is in it, at any depth."""
        seen, todo = {id(self)}, [self]
        while todo:
            value = todo.pop()
            if value.kind == "tensor":
                return True
            fresh = [part for part in value.parts if id(part) not in seen]
            seen |= {id(part) for part in fresh}
            todo += fresh
            if len(seen) > _LARGEST_CALL:
                raise ValueError("a call with more than a million objects")
        return False


class Stack:
    """The unpickler's stack and memo, of descriptions. Errors: ValueError or LookupError for what must not be unpickled."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[object, Value] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Do to the descriptions what the opcode does to the values."""
        if opcode.name == "MARK":
            self.marks.append(len(self.values))
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            self.values.append(self.memo[argument])
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.values[-1]
        else:
            taken = self._pop(opcode.stack_before)
            self.values += [_result(opcode.name, argument, taken)] * len(opcode.stack_after)

    def _pop(self, before: list[pickletools.StackObject]) -> list[Value]:
        start = len(self.values) - len(before)
        if pickletools.markobject in before:
            start = self.marks.pop() - before.index(pickletools.markobject)
        if start < 0:
            raise ValueError("more is taken from the stack than is there")
        taken = self.values[start:]
        del self.values[start:]
        return taken


def _result(opcode: str, argument: object, taken: list[Value]) -> Value:
    if opcode == "GLOBAL":
        return Value(full_name(str(argument)))
    if opcode in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        return _tuple(taken)
    if opcode in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
        taken[0].parts += taken[1:]
        return taken[0]
    if opcode in ("REDUCE", "NEWOBJ"):
        return _call(*taken)
    if opcode == "BUILD":
        return _build(*taken)
    if opcode == "BINPERSID" and taken[0].holds_tensor():
        raise ValueError("a storage named by a tensor")
    return Value(opcode)


def _tuple(parts: list[Value]) -> Value:
    size = 1 + sum(part.size for part in parts)
    if size > _LARGEST_TUPLE:
        raise ValueError("tuples within tuples without end")
    return Value("tuple", parts, size)


def _call(function: Value, arguments: Value) -> Value:
    if arguments.kind not in ("tuple", "EMPTY_TUPLE"):
        raise ValueError("arguments that are no tuple")
    if function.kind in _CALLED and arguments.holds_tensor():
        raise ValueError(f"a tensor among the arguments of {function.kind}")
    kind = "tensor" if function.kind in _TENSORS | _PARAMETERS else f"result of {function.kind}"
    return Value(kind, arguments.parts, arguments.size)


def _build(value: Value, state: Value) -> Value:
    if value.kind == "tensor" or (state.kind != "EMPTY_DICT" and state.holds_tensor()):
        raise ValueError("a tensor where a state belongs")
    value.parts.append(state)
    return value


def full_name(argument: str) -> str:
    """The name that GLOBAL asks for, as torch reads it: names of Python 2 become those of Python 3."""
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"
