"""A model made ready for inference on the CPU: the same call and the same outputs, several times faster.

    fast = swinkit.prepare(model)
    logits = fast(images)

B images | H W token grid | C channels
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from swinkit._compiler import outside_graphs
from swinkit._verbs import callable_module
from swinkit.backbone import SwinBackbone
from swinkit.config import FeatureInfo
from swinkit.errors import ConfigError, InputError
from swinkit.kernels import modules
from swinkit.kernels.affine import Affine
from swinkit.kernels.cpu import fused
from swinkit.kernels.cpu.fused import Wanted
from swinkit.kernels.forked import keep_one_thread_after_a_fork
from swinkit.model import SwinTransformer, SwinTrunk
from swinkit.standard import difference
from swinkit.watch import Watch

EngineName = Literal["auto", "fused", "packed", "plain"]
ENGINES = ("fused", "packed", "plain")
"""The fastest first."""


@dataclass(frozen=True)
class Engine:
    """What runs a prepared model."""

    name: str
    """"fused": swinkit's C++ library. "packed": PyTorch's oneDNN operations with packed weights. "plain": the model as it is."""
    dtype: torch.dtype
    reason: str
    """Why this engine and not a faster one, in a sentence."""
    weight_bytes: int
    """Memory of its own copy of the weights."""


class Net(Protocol):
    """The weights of one model in the form that an engine wants."""

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""

    def run(self, x: Tensor, wanted: Wanted, threads: int) -> dict[str, Any]:
        """(B, in_chans, height, width) float32, contiguous -> what is wanted, by name, float32; "maps" by stage, (B, H, W, C)."""


def prepare(model: nn.Module, *, dtype: torch.dtype | None = None, batch_size: int | None = None, engine: EngineName = "auto") -> Prepared:
    """`model`, a SwinTransformer or a SwinBackbone, made ready for inference on the CPU. The model itself stays as it is.

    dtype: torch.bfloat16 or torch.float32, what is computed in; None: bfloat16 where the CPU has it, else float32. Sums, norms and the
    residual stream are float32 in both, and outputs have the dtype of the images. torch.int8, never chosen by itself, has the linear layers
    of blocks and merging in int8, weights scaled per output and activations per token as they come (no calibration), and the rest in
    bfloat16; only "fused" has it, on CPUs with AVX512-VNNI and AVX512-BF16. Measure your model's accuracy before you rely on it.
    batch_size: the most images that go through at once, which bounds memory; None: a number that suits the caches.
    engine: "fused", "packed" or "plain"; "auto" takes the first of them that can run this model here, and `.engine` says why.

    The weights are copied, so `model = prepare(model)` leaves one copy in memory. As long as the original lives, changes of its weights
    are noticed at the next call and taken over. Of writes that PyTorch does not count (through `.data`, by optimisers with fused=True),
    those that leave the first number of every tensor as it is go unnoticed.
    Errors: InputError for another kind of module, or one with layers replaced or hooked; ConfigError for a dtype, engine or batch_size
    that cannot be.
    """
    model = cast(nn.Module, getattr(model, "_orig_mod", model))
    if isinstance(model, Prepared):
        raise InputError("This model is prepared already; prepare the original.")
    if not isinstance(model, SwinTrunk):
        raise InputError(f"Got a {type(model).__name__}; expected a SwinTransformer or a SwinBackbone.")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"batch_size is {batch_size!r}; expected a whole number of at least 1, or None.")
    return Prepared(model, dtype, batch_size, engine)


def check(model: SwinTrunk) -> None:
    """Errors: InputError if something else than the model's own modules cannot run it."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError("The model is on the meta device and has no weights; load them first.")
    problem = difference(model)
    if problem:
        raise InputError(f"{problem} It cannot be prepared; use the model itself. (reset_classifier gives it another number of classes.)")


def choose(model: SwinTrunk, dtype: torch.dtype | None, wanted: str) -> tuple[str, torch.dtype, str]:
    """Name, dtype and reason of the engine for a model. Errors: ConfigError if it is one that cannot run it."""
    if wanted not in ("auto", *ENGINES):
        raise ConfigError(f"engine is {wanted!r}; expected auto, {', '.join(ENGINES)}.")
    if dtype not in (None, torch.float32, torch.bfloat16, torch.int8):
        raise ConfigError(
            f"dtype is {dtype}; expected torch.float32, torch.bfloat16, torch.int8, or None for bfloat16 where the CPU has it."
        )
    dtype = dtype or modules.fast_dtype()
    reasons: list[str] = []
    for name in ENGINES if wanted == "auto" else (wanted,):
        obstacle = _obstacle(name, model, dtype)
        if obstacle is None:
            return name, dtype, " ".join([*reasons, _advantage(name, dtype)])
        reasons.append(obstacle)
    raise ConfigError(f"engine={wanted!r} cannot run this model: {' '.join(reasons)}")


def _obstacle(name: str, model: SwinTrunk, dtype: torch.dtype) -> str | None:
    if name == "fused":
        return fused.why_not(model, dtype)
    return modules.why_not(name, model, dtype)


def _advantage(name: str, dtype: torch.dtype) -> str:
    if name == "fused":
        return f"Whole blocks in one pass of swinkit's C++ library ({fused.describe(dtype)})."
    return {"packed": "PyTorch's oneDNN operations with packed weights.", "plain": "The model as it is."}[name]


class Prepared(nn.Module):
    """A model as `prepare` returns it: called like the original, for inference on the CPU only, safe to call from several threads.

    model, dtype, batch_size, engine: as of `prepare`, with its errors.
    """

    def __init__(self, model: SwinTrunk, dtype: torch.dtype | None, batch_size: int | None, engine: EngineName) -> None:
        super().__init__()
        self._arguments = {"dtype": dtype, "batch_size": batch_size, "engine": engine}
        self._lock = threading.Lock()
        self._original = weakref.ref(model)
        self.batch_size = batch_size
        with torch.autocast("cpu", enabled=False):
            self._take_over(model)
        super().train(False)

    def _take_over(self, model: SwinTrunk) -> None:
        """Copy the weights, and remember of what."""
        watch = Watch(model)
        check(model)
        name, dtype, reason = choose(model, self._arguments["dtype"], self._arguments["engine"])  # type: ignore[arg-type]
        net: Net = fused.FusedNet(model, dtype) if name == "fused" else modules.ModuleNet(name, model, dtype)
        self.config, self.labels, self.preprocess, self.origin = model.config, model.labels, model.preprocess, model.origin
        self.out_indices = model.out_indices if isinstance(model, SwinBackbone) else ()
        self.feature_info: FeatureInfo = model.feature_info  # type: ignore[assignment]
        self.num_features = model.config.dims[len(model.layers) - 1]
        self.num_classes = model.config.num_classes if isinstance(model, SwinTransformer) else 0
        self._stages, self._classifies = len(model.layers), isinstance(model, SwinTransformer)
        self._after = Affine.of(model)
        self._watch, self._net = watch, net
        self.engine = Engine(name, dtype, reason, net.weight_bytes + self._after.bytes)

    @outside_graphs
    def refresh(self) -> bool:
        """Take over changed weights of the original, if it still lives; True if there were any. Every call does it."""
        keep_one_thread_after_a_fork()
        model = self._original()
        if model is None or not self._watch.changed():
            return False
        with self._lock, torch.autocast("cpu", enabled=False):
            if self._watch.changed():
                self._take_over(model)
        return True

    @outside_graphs
    def _run(self, x: Tensor, wanted: Wanted | None = None) -> dict[str, Any]:
        """All images, some at a time; outputs in the dtype of `x`. wanted None: what `forward` returns."""
        self.refresh()
        wanted = wanted or self._usual()
        _check_untraced(x)
        self._check(x)
        net, threads, parts = self._net, torch.get_num_threads(), []
        with torch.inference_mode(False), torch.no_grad():
            images = x.detach().to(torch.float32).contiguous()
            for part in images.chunk(-(-len(images) // self._at_once(threads))):
                parts.append(net.run(part, wanted, threads))
            return _joined(parts, x.dtype)

    def _check(self, x: Tensor) -> None:
        self.config.check_input(x.shape, x.is_floating_point())
        if x.device.type != "cpu":
            raise InputError(f"Got images on {x.device}; a prepared model runs on the CPU. Use images.cpu(), or the original model.")
        if x.requires_grad and torch.is_grad_enabled():
            raise InputError("Got images that require gradients; a prepared model has none. Use torch.no_grad(), or the original model.")

    def _at_once(self, threads: int) -> int:
        return self.batch_size or max(8, 2 * threads)

    def forward(self, x: Tensor) -> Any:
        """(B, in_chans, height, width) -> what the original returns: (B, num_classes), or a list of (B, C, H, W)."""
        out = self._run(x)
        if self._classifies:
            return out["logits"] if "logits" in out else out["pooled"]
        return [self._after.norm_map(stage, m).permute(0, 3, 1, 2).contiguous() for stage, m in out["maps"].items()]

    def _usual(self) -> Wanted:
        if not self._classifies:
            return Wanted(stages=self.out_indices)
        return Wanted(logits=True) if self.num_classes else Wanted(pooled=True)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, H, W, C) after the last norm. Errors: InputError for a backbone."""
        self._needs_classifier("forward_features")
        return cast(Tensor, self._run(x, Wanted(features=True))["features"])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the pooled (B, C) with `pre_logits` or without a classifier."""
        self._needs_classifier("forward_head")
        self.refresh()
        pooled = x.mean(dim=(1, 2))
        return pooled if pre_logits else self._after.classify(pooled)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, C): `forward_head(forward_features(x), pre_logits=True)` in one pass."""
        self._needs_classifier("pooled")
        return cast(Tensor, self._run(x, Wanted(pooled=True))["pooled"])

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, output_fmt: Literal["NCHW", "NHWC"] = "NCHW"
    ) -> list[Tensor]:
        """(B, in_chans, height, width) -> the maps before merging of the stages in `indices`, as the original's method.

        Errors: InputError for images, indices or an output_fmt that cannot be.
        """
        stages = self.config.stage_indices(indices, self._stages)
        self.config.check_format(output_fmt)
        maps = self._run(x, Wanted(stages=tuple(sorted(set(stages)))))["maps"]
        return [maps[stage].permute(0, 3, 1, 2) if output_fmt == "NCHW" else maps[stage] for stage in stages]

    def _needs_classifier(self, method: str) -> None:
        if not self._classifies:
            raise InputError(f"{method} needs a SwinTransformer, and this is a backbone; call it for its maps.")

    def train(self, mode: bool = True) -> Prepared:
        """There is nothing to train. Errors: ConfigError for mode=True."""
        if mode:
            raise ConfigError("A prepared model is for inference; train the original.")
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Errors: ConfigError; the weights are packed for this machine."""
        raise ConfigError("A prepared model has no weights to save; save the original.")

    def extra_repr(self) -> str:
        """What runs it, for `print`."""
        return f"engine={self.engine.name}, dtype={str(self.engine.dtype).removeprefix('torch.')}"

    def __reduce__(self) -> Any:
        """For another process: the original goes there and is prepared again. Errors: TypeError if the original is gone."""
        model = self._original()
        if model is None:
            raise TypeError("A prepared model is made for this process and its original is gone; send the original, and prepare it there.")
        return _again, (model, self._arguments)


def _again(model: nn.Module, arguments: dict[str, Any]) -> Prepared:
    prepared = prepare(model, **arguments)
    # Nobody else has this model, and without it the copy could not be copied in turn.
    object.__setattr__(prepared, "_kept", model)
    return prepared


def _check_untraced(x: Tensor) -> None:
    if (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
    ):
        raise InputError("A prepared model cannot be traced, exported or mapped; do that with the original.")


def _joined(parts: Sequence[dict[str, Any]], dtype: torch.dtype) -> dict[str, Any]:
    first = parts[0]
    out: dict[str, Any] = {"maps": {stage: _cat([part["maps"][stage] for part in parts], dtype) for stage in first["maps"]}}
    return out | {name: _cat([part[name] for part in parts], dtype) for name in first if name != "maps"}


def _cat(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return (tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))).to(dtype)


callable_module(__name__)
