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

from swinkit.checkpoints.opening.formats import harmless
from swinkit.checkpoints.opening.stack import Stack, full_name
from swinkit.errors import CheckpointError

_WEIGHTS = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode"
    r"|torch\.(Size|device|[A-Z][A-Za-z0-9]*Storage)"
    r"|torch\.(bool|b?float\d+|u?int\d+|complex\d+|float8_\w+)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
)
_SPECIAL = re.compile(
    r"torch\._tensor\._rebuild_from_type_v2|torch\.storage\.\w+|torch\._utils\._rebuild_\w+|torch\.serialization\._get_layout|torch\.sparse\.\w+|torch\.per_\w+"
)
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


def check_pickles(stream: IO[bytes], count: int, known: Container[str], path: Path) -> None:
    """Look through so many pickles, one after the other. Errors: CheckpointError that names what should not be there."""
    names: dict[str, None] = {}
    strings: set[str] = set()
    try:
        for _ in range(count):
            stack = Stack()
            for opcode, argument, _ in pickletools.genops(stream):
                stack.follow(opcode, argument)
                if opcode.name == "GLOBAL":
                    names[full_name(str(argument))] = None
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


def _refusal(name: str, path: Path) -> str:
    if _SPECIAL.fullmatch(name):
        return (
            f"{path} holds a sparse, quantized, nested, meta or otherwise special tensor ({name}); expected plain dense ones: convert it."
        )
    return (
        f"{path} holds more than weights: it asks for {harmless(name, 100)}, which is not known to be harmless, so nothing in it "
        "was executed; save the weights alone, as .safetensors or with torch.save(model.state_dict(), ...)."
    )
