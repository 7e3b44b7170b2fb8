"""Reading a pickle's opcodes without running them: what would it import?

torch's weights-only unpickler calls nothing of a file's choosing, but it does call its own functions with a file's arguments, and some
of those take memory without bound (a bytearray of any size, a repeated tensor made dense). So a pickle may name what a plain tensor is
made of, and what is answered with a stand-in; anything else is refused before torch sees it.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Container
from pathlib import Path
from typing import IO

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from swinkit.checkpoints.formats import harmless
from swinkit.errors import CheckpointError

_WEIGHTS = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode"
    r"|torch\.(Size|device|Tensor|nn\.parameter\.Parameter|[A-Z][A-Za-z0-9]*Storage|storage\.(Untyped|Typed)Storage)"
    r"|torch\.(bool|b?float\d+|u?int\d+|complex\d+|float8_\w+)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)|torch\._tensor\._rebuild_from_type_v2"
)
_SPECIAL = re.compile(r"torch\._utils\._rebuild_\w+|torch\.serialization\._get_layout|torch\.sparse\.\w+|torch\.per_\w+")
# Bytes are pickled as text and the codec latin1. These make bytes longer, and can be applied again and again.
_GROWING = {
    "hex",
    "hex_codec",
    "base64",
    "base64_codec",
    "base_64",
    "uu",
    "uu_codec",
    "quopri",
    "quopri_codec",
    "quoted_printable",
    "quotedprintable",
}

_LARGEST_TUPLE = 1_000_000


def check_pickles(stream: IO[bytes], count: int, known: Container[str], path: Path) -> None:
    """Look through so many pickles, one after the other. Errors: CheckpointError that names what should not be there."""
    names: dict[str, None] = {}
    strings: set[str] = set()
    try:
        for _ in range(count):
            size = _Sizes()
            for opcode, argument, _ in pickletools.genops(stream):
                size.follow(opcode, argument)
                if opcode.name == "GLOBAL":
                    names[_full_name(str(argument))] = None
                elif isinstance(argument, str) and len(argument) < 20:
                    strings.add(re.sub(r"[- ]", "_", argument.lower()))
    except Exception as error:  # pickletools raises several kinds on broken pickles
        raise CheckpointError(
            f"{path} is broken or cut off ({harmless(error) or type(error).__name__}); download or save it again."
        ) from None
    for name in names:
        if not _WEIGHTS.fullmatch(name) and name not in known:
            raise CheckpointError(_refusal(name, path))
    if "_codecs.encode" in names and strings & _GROWING:
        raise CheckpointError(_refusal(f"_codecs.encode with {min(strings & _GROWING)}", path))


class _Sizes:
    """How many objects one would visit in each value on the unpickler's stack.

    Tuples that hold one tuple twice, which holds another twice, and so on, take no memory; but to hash the outermost, as the key of a
    dictionary, takes for ever.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[object, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Do to the sizes what the opcode does to the values."""
        if opcode.name == "MARK":
            self.marks.append(len(self.stack))
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        else:
            popped = self._pop(opcode.stack_before)
            hashable = opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ")
            self.stack += [1 + sum(popped) if hashable else 1] * len(opcode.stack_after)
            if self.stack and self.stack[-1] > _LARGEST_TUPLE:
                raise ValueError("tuples within tuples without end")

    def _pop(self, taken: list[pickletools.StackObject]) -> list[int]:
        start = len(self.stack) - len(taken)
        if pickletools.markobject in taken:
            start = self.marks.pop() - taken.index(pickletools.markobject)
        if start < 0:
            raise ValueError("more is taken from the stack than is there")
        popped = self.stack[start:]
        del self.stack[start:]
        return popped


def _full_name(argument: str) -> str:
    """As torch reads it: names of Python 2 become those of Python 3."""
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _refusal(name: str, path: Path) -> str:
    if _SPECIAL.fullmatch(name):
        return f"{path} holds a sparse, quantized, nested or meta tensor ({name}); expected plain dense ones: convert it before saving."
    return (
        f"{path} holds more than weights: it asks for {harmless(name, 100)}, which is not known to be harmless, so nothing in it "
        "was executed; save the weights alone, as .safetensors or with torch.save(model.state_dict(), ...)."
    )
