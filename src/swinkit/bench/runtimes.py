"""What can run a model here: swinkit's own ways and the peers', as a table. Importing this imports none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from swinkit.errors import ConfigError, UnknownNameError

BUILDERS = "swinkit.bench.builders"
PEER_BUILDERS = "swinkit.bench.peers"
GRAPHS = "swinkit.bench.graphs"
ONNX = ("onnxruntime", "onnx", "onnxscript")
TRANSFORMERS = tuple(f"transformers.models.{name}.modeling_{name}" for name in ("swin", "swinv2"))
EITHER = ("timm", "native")
INSTALL = "install it with: pip install 'swinkit[bench]'"


@dataclass(frozen=True)
class Runtime:
    """One way to run a model, in a process of its own."""

    name: str
    """What its rows are called."""
    build: str
    """"module:function" that makes it in its process: Job -> Engine."""
    layouts: tuple[str, ...] = ("native",)
    """Whose weights it is made from, the first that can be had: "native" or a dialect of `swinkit.convert`."""
    peer: str = ""
    """Its name among the peers; "" for swinkit's own."""
    packages: tuple[str, ...] = ()
    """What must be installed."""
    imports: tuple[str, ...] = ()
    """Modules that it brings along whatever the model is, so that they do not count as the model's memory."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    export: str = ""
    """"module:function" that writes the file it runs."""
    compiles: bool = False
    """Runs through torch.compile."""


RUNTIMES: tuple[Runtime, ...] = (
    Runtime("swinkit", f"{BUILDERS}:prepared", imports=("swinkit.prepare",)),
    Runtime("swinkit plain", f"{BUILDERS}:plain"),
    Runtime("swinkit compiled", f"{BUILDERS}:plain", compiles=True),
    Runtime("timm", f"{PEER_BUILDERS}:timm", ("timm",), "timm", ("timm",), ("timm",)),
    Runtime("timm compiled", f"{PEER_BUILDERS}:timm", ("timm",), "timm", ("timm",), ("timm",), compiles=True),
    Runtime("torchvision", f"{PEER_BUILDERS}:torchvision", ("torchvision",), "torchvision", ("torchvision",), ("torchvision",)),
    Runtime("transformers", f"{PEER_BUILDERS}:transformers", ("transformers",), "transformers", ("transformers",), TRANSFORMERS),
    Runtime("openvino", f"{GRAPHS}:openvino", EITHER, "openvino", ("openvino",), ("openvino",), export=f"{GRAPHS}:to_openvino"),
    Runtime("onnxruntime", f"{GRAPHS}:onnxruntime", EITHER, "onnxruntime", ONNX, ONNX[:1], ("float32",), f"{GRAPHS}:to_onnx"),
)
PEERS = tuple(dict.fromkeys(runtime.peer for runtime in RUNTIMES if runtime.peer))
GEMM = Runtime("gemm", "swinkit.bench.gemm:build")
"""Not a way to run a model: measures the machine beside them."""


def missing(runtime: Runtime) -> str:
    """Which packages it lacks, in a sentence; "" if none."""
    absent = [name for name in runtime.packages if find_spec(name) is None]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed; {INSTALL}." if absent else ""


def chosen(peers: str | Sequence[str], compile: bool) -> tuple[list[Runtime], dict[str, str]]:
    """(those to measure, peer -> why it is left out). peers: "auto" for those installed, or names.

    Errors: UnknownNameError for a peer that does not exist, ConfigError for one that was named and is not installed.
    """
    named = _named(peers)
    able = [runtime for runtime in RUNTIMES if (compile or not runtime.compiles) and (not runtime.peer or runtime.peer in named)]
    absent = {runtime.peer: missing(runtime) for runtime in able if missing(runtime)}
    if absent and peers != "auto":
        raise ConfigError(" ".join(absent.values()))
    return [runtime for runtime in able if not missing(runtime)], absent


def _named(peers: str | Sequence[str]) -> tuple[str, ...]:
    if peers == "auto":
        return PEERS
    names = (peers,) if isinstance(peers, str) else tuple(peers)
    for name in names:
        if name not in PEERS:
            raise UnknownNameError("peer", name, PEERS)
    return names
