"""A small model for tests that need one, and the usual axes to run them over."""

import threading

import pytest
import torch
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


def check_threads(model, batch):
    """Two threads that call a model with several sizes get what one gets."""
    sizes = [(27, 35), (32, 32), (10, 50), (64, 20)]
    wanted = {size: model(torch.full((batch, 3, *size), 0.5)) for size in sizes}
    wrong = []

    def work():
        for size in sizes * 5:
            if not torch.equal(model(torch.full((batch, 3, *size), 0.5)), wanted[size]):
                wrong.append(size)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def small(version=1, **changes):
    """A small model whose every part speaks: V2's post-norms start at zero, so they are set to one."""
    model = SwinTransformer(SwinConfig(**(SMALL | {"version": version} | changes))).eval()
    for name, parameter in model.named_parameters():
        if version == 2 and ("norm1.weight" in name or "norm2.weight" in name):
            nn.init.ones_(parameter)
        if "relative_position_bias_table" in name:
            nn.init.normal_(parameter)
    return model
