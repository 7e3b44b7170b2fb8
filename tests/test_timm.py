"""timm's models on maps that windows divide: the same outputs and gradients, V1 and V2, non-square maps, windows as timm resolved them."""

import random

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer as TimmV1
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmV2

from swinkit import SwinConfig, SwinTransformer

NOT_OURS = ("relative_position_index", "relative_coords_table", "k_bias")


def renamed(tensors):
    """timm keeps each merging at the start of the next stage."""
    ours = {}
    for name, tensor in tensors.items():
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.", f"layers.{stage - 1}.", 1)
        if not name.endswith(NOT_OURS):
            ours[name.replace("head.fc.", "head.")] = tensor
    return ours


def random_shape(seed):
    draw = random.Random(seed)
    window, patch, stages = draw.choice([2, 3, 4]), draw.choice([1, 2, 3]), draw.choice([1, 2])
    side = window * 2 ** (stages - 1) * patch
    return {
        "img_size": (side * draw.choice([1, 2]), side * draw.choice([1, 2, 3])),
        "patch_size": patch,
        "in_chans": 2,
        "num_classes": 3,
        "embed_dim": 8,
        "depths": [draw.choice([1, 2, 3]) for _ in range(stages)],
        "num_heads": [2, 4][:stages],
        "window_size": window,
        "mlp_ratio": draw.choice([1.5, 4.0]),
        "qkv_bias": draw.random() < 0.5,
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("version", "peer_class"), [(1, TimmV1), (2, TimmV2)])
def test_same_outputs_and_gradients(version, peer_class, seed):
    shape = random_shape(seed)
    peer = peer_class(**shape, drop_path_rate=0.0).double().eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    windows = [tuple(stage.blocks[0].window_size) for stage in peer.layers]
    config = SwinConfig(version=version, size_policy="per_axis", **shape | {"window_size": windows})
    model = SwinTransformer(config).double().eval()
    model.load_state_dict(renamed(peer.state_dict()))
    x = torch.randn(2, 2, *shape["img_size"], dtype=torch.float64)
    wanted, got = peer(x), model(x)
    torch.testing.assert_close(got, wanted, atol=1e-6 * wanted.abs().max().item(), rtol=0)
    wanted.sum().backward()
    got.sum().backward()
    theirs = renamed({name: parameter.grad for name, parameter in peer.named_parameters()})
    for name, parameter in model.named_parameters():
        scale = theirs[name].abs().max().item() + 1e-6
        torch.testing.assert_close(parameter.grad, theirs[name], atol=1e-5 * scale, rtol=0)
