"""Linear layers with weights laid out by oneDNN in advance, and what follows them done in the same pass.

The oneDNN operations are PyTorch's own, used by its compiler, but not a promised interface: they are tried out once per dtype, and where
they are missing or wrong the same layers run through `F.linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.kernels.forked import keep_one_thread_after_a_fork


def for_inference(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Without gradients, which oneDNN's operations do not have, and without autocast, since the dtype was chosen when packing.

    In a forked child also in one thread.
    """

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        keep_one_thread_after_a_fork()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return forward(*args, **kwargs)

    return call


@lru_cache(maxsize=4)
def onednn_works(dtype: torch.dtype) -> bool:
    """Whether prepacked linear layers with GELU and addition give in this dtype what `F.linear`, `F.gelu` and + give here."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    x, weight, bias = (torch.linspace(-1, 1, rows * 32).view(rows, 32).to(dtype) for rows in (3, 32, 1))
    with torch.inference_mode(False), torch.no_grad():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            got = _add(_gelu(x, packed, bias[0]), x, packed, bias[0])
        except (RuntimeError, TypeError, AttributeError, NotImplementedError):
            return False
        wanted = x + F.linear(F.gelu(F.linear(x, weight, bias[0])), weight, bias[0])
    return bool((got - wanted).abs().max() <= 4 * torch.finfo(dtype).eps * wanted.abs().max())


def _gelu(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu", [], "none")  # type: ignore[no-any-return]


def _add(x: Tensor, other: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, bias, "add")  # type: ignore[no-any-return]


class PackedLinear(nn.Module):
    """x W^T + b for inference, with a copy of the weight (O, I) that is made once; computes in `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.prepacked = dtype, onednn_works(dtype)
        with torch.inference_mode(False), torch.no_grad():
            weight = weight.detach().to(dtype)
            # Plain attributes: an opaque oneDNN tensor can be neither cast, moved nor saved by nn.Module.
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.prepacked else weight.clone()
            self.bias = None if bias is None else bias.detach().to(dtype, copy=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes as an ordinary matrix, which is laid out again there."""
        return type(self), (self.weight.to_dense() if self.prepacked else self.weight, self.bias, self.dtype)

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> PackedLinear:
        """The same layer, packed."""
        return cls(layer.weight, layer.bias, dtype)

    @for_inference
    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        return self.narrow(x).to(x.dtype)

    def narrow(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), left in the dtype of the layer."""
        x = x.to(self.dtype)
        if self.prepacked:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O): an exact GELU of `narrow`."""
        x = x.to(self.dtype)
        return _gelu(x, self.weight, self.bias) if self.prepacked else F.gelu(F.linear(x, self.weight, self.bias))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(..., I), (..., O) -> (..., O) in the dtype of the residual, which is not written to."""
        if self.prepacked and residual.dtype == self.dtype:
            return _add(x.to(self.dtype), residual, self.weight, self.bias)
        return residual + self.narrow(x)

    @property
    def nbytes(self) -> int:
        """Memory of weight and bias."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.weight, self.bias) if tensor is not None)


class PackedPatches(nn.Module):
    """The patch embedding's strided convolution as a linear layer over the pixels of each patch; always float32, like the pixels."""

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.patch = (proj.kernel_size[0], proj.kernel_size[1])
        self.linear = PackedLinear(proj.weight.flatten(1), proj.bias, torch.float32)

    @for_inference
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, C, H, W), a view of a map that has its channels last."""
        (ph, pw), height, width = self.patch, x.shape[2], x.shape[3]
        x = x[:, :, : height // ph * ph, : width // pw * pw].float()
        x = x.unflatten(3, (-1, pw)).unflatten(2, (-1, ph))  # B, in_chans, H, ph, W, pw
        return self.linear.narrow(x.permute(0, 2, 4, 1, 3, 5).flatten(3)).permute(0, 3, 1, 2)
