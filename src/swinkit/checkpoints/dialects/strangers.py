"""Relatives of the Swin Transformer that are other architectures, told by a tensor that only they have."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

RELATIVES = (
    (re.compile(r".*\.mlp\._moe_layer\..*"), "Swin-MoE, whose MLPs are mixtures of experts"),
    (re.compile(r".*\.spatial_mlp\..*"), "Swin-MLP, which has a spatial MLP in place of attention"),
    (re.compile(r".*\.attn\.meta_mlp\..*"), "timm's swinv2_cr, which computes its position bias in another way than Swin V2"),
    (re.compile(r".*\.blocks\.\d+\.norm3\..*"), "Swin V2-H or -G, which have one more norm after every sixth block"),
)
"""Names -> what a file with such a name holds."""


def stranger(tensors: Mapping[str, Tensor]) -> str:
    """Part of a sentence about a relative that swinkit does not compute; "" for anything else."""
    for pattern, what in RELATIVES:
        if name := next((name for name in tensors if pattern.fullmatch(name)), ""):
            return f"it seems to be {what} ({name}); swinkit computes Swin V1 and V2 only"
    for name, tensor in tensors.items():
        if tensor.ndim == 5 and name.endswith(("patch_embed.proj.weight", "patch_embed.projection.weight", "features.0.0.weight")):
            return f"it seems to be a Video Swin Transformer ({name} has a kernel of 3 axes); swinkit computes images only"
    return ""
