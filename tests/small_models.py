"""A small model for tests that need one, and the usual axes to run them over."""

import pytest
from torch import nn

from swinkit.config import SwinConfig
from swinkit.model import SwinTransformer

SMALL = {
    "img_size": 32,
    "patch_size": 2,
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
}
VERSIONS = pytest.mark.parametrize("version", [1, 2])
POLICIES = pytest.mark.parametrize("policy", ["official", "dense", "per_axis"])


def small(version=1, **changes):
    """A small model whose every part speaks: V2's post-norms start at zero, so they are set to one."""
    model = SwinTransformer(SwinConfig(**(SMALL | {"version": version} | changes))).eval()
    for name, parameter in model.named_parameters():
        if version == 2 and ("norm1.weight" in name or "norm2.weight" in name):
            nn.init.ones_(parameter)
        if "relative_position_bias_table" in name:
            nn.init.normal_(parameter)
    return model
