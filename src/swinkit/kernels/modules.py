"""The engines that are PyTorch modules: packed weights for oneDNN, and the model as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from swinkit.kernels import packed
from swinkit.kernels.cpu import library
from swinkit.kernels.cpu.fused import Wanted
from swinkit.kernels.forked import keep_one_thread_after_a_fork
from swinkit.model import SwinTrunk


def why_not(name: str, model: SwinTrunk, dtype: torch.dtype) -> str | None:
    """Why such an engine cannot run this model; None if it can."""
    if dtype == torch.int8:
        return f"The {name} engine does not compute in int8."
    if name == "plain":
        return None
    return packed.why_not(model, dtype)


def fast_dtype() -> torch.dtype:
    """bfloat16 where the CPU computes in it and an engine uses that, float32 otherwise."""
    missing = library.obstacle() is not None
    if not missing and library.has(library.chosen_isa(), library.BFLOAT16):
        return torch.bfloat16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast and missing else torch.float32


class ModuleNet:
    """A copy of a model that runs as a module."""

    def __init__(self, name: str, model: SwinTrunk, dtype: torch.dtype) -> None:
        self.model: Any = packed.pack(model, dtype) if name == "packed" else copy.deepcopy(model).to("cpu", torch.float32)
        self.model.eval().requires_grad_(False)
        self.autocast = name == "plain" and dtype == torch.bfloat16

    @property
    def weight_bytes(self) -> int:
        """Memory of the copy's weights."""
        return packed.weight_bytes(self.model)

    def run(self, x: Tensor, wanted: Wanted, threads: int) -> dict[str, Any]:
        """As FusedNet.run."""
        keep_one_thread_after_a_fork()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            out = self._outputs(x, wanted)
        return {name: _floats(value) for name, value in out.items()}

    def _outputs(self, x: Tensor, wanted: Wanted) -> dict[str, Any]:
        if wanted.stages:
            maps = self.model.forward_intermediates(x, wanted.stages, output_fmt="NHWC")
            return {"maps": dict(zip(wanted.stages, maps, strict=True))}
        features = self.model.forward_features(x)
        out: dict[str, Any] = {"maps": {}} | ({"features": features} if wanted.features else {})
        out |= {"pooled": self.model.forward_head(features, pre_logits=True)} if wanted.pooled else {}
        return out | ({"logits": self.model.forward_head(features)} if wanted.logits else {})


def _floats(value: Any) -> Any:
    return {name: tensor.float() for name, tensor in value.items()} if isinstance(value, dict) else value.float()
