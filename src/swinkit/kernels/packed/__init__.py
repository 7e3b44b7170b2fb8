"""The engine "packed": a model made ready for inference on a CPU with PyTorch's own operations.

Linear layers run through oneDNN with weights laid out in advance, GELU and residual additions in the same pass; position biases are
evaluated once; a few windows at a time go through a whole block. The plain model stays the definition of what is computed.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import nn

from swinkit.errors import InputError
from swinkit.kernels.packed.block import PackedAttention, PackedBlock
from swinkit.kernels.packed.linear import PackedLinear, PackedPatches
from swinkit.model import SwinBlock, SwinTrunk

M = TypeVar("M", bound=SwinTrunk)
DTYPES = (torch.float32, torch.bfloat16)


def why_not(model: SwinTrunk, dtype: torch.dtype) -> str | None:
    """Why `pack` would not serve here, in a sentence; None if it does."""
    if dtype not in DTYPES:
        return f"Packed weights are float32 or bfloat16, not {str(dtype).removeprefix('torch.')}."
    if any(parameter.is_meta for parameter in model.parameters()):
        return "The model is on the meta device and has no weights that could be packed."
    if not torch.backends.mkldnn.is_available():
        return "This build of PyTorch has no oneDNN."
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "PyTorch's oneDNN computes in bfloat16 with AVX-512 or better only, which this CPU has not."
    return None


def pack(model: M, dtype: torch.dtype = torch.float32) -> M:
    """A copy of a SwinTransformer or SwinBackbone for inference on the CPU, with the same methods; the original stays as it is.

    Takes and gives float32; linear layers and attention compute in `dtype`, float32 or bfloat16. Norms, the residual stream, the patch
    embedding and the classifier are float32 in both. No gradients, and later changes of the original do not reach the copy.
    Errors: InputError with the reason of `why_not`.
    """
    reason = why_not(model, dtype)
    if reason:
        raise InputError(f"{reason} Use the model as it is.")
    packed = copy.deepcopy(model).requires_grad_(False).to("cpu", torch.float32)
    packed.pos_drop = nn.Dropout(0.0)
    packed.patch_embed.proj = PackedPatches(packed.patch_embed.proj)  # type: ignore[assignment]
    for stage in packed.layers:
        stage.grad_checkpointing = False
        stage.blocks = nn.ModuleList(PackedBlock(cast(SwinBlock, block), dtype) for block in stage.blocks)
        if stage.downsample is not None:
            stage.downsample.reduction = PackedLinear.of(stage.downsample.reduction, dtype)  # type: ignore[assignment]
    head = getattr(packed, "head", None)
    if isinstance(head, nn.Linear):
        packed.head = PackedLinear.of(head, torch.float32)
    return packed.eval()


def weight_bytes(model: SwinTrunk) -> int:
    """Memory of the weights of a model, packed or not; a packed one also keeps position biases at their full size."""
    layers = sum(module.nbytes for module in model.modules() if isinstance(module, PackedLinear))
    biases = sum(module.bias.nbytes for module in model.modules() if isinstance(module, PackedAttention))
    return layers + biases + sum(parameter.nbytes for parameter in model.parameters())
