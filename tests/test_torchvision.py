"""The same weights in torchvision give the same logits under size_policy="per_axis", at 224 and at sizes that nothing divides."""

import re

import pytest
import torch
import torchvision

from swinkit import create_model

RULES = (
    (r"features\.0\.0\.", "patch_embed.proj."),
    (r"features\.0\.2\.", "patch_embed.norm."),
    (r"features\.(\d+)\.(\d+)\.(?=norm|attn|mlp)", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"features\.(\d+)\.(?=norm|reduction)", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample."),
    (r"mlp\.0\.", "mlp.fc1."),
    (r"mlp\.3\.", "mlp.fc2."),
)


def renamed(state):
    ours = {}
    for name, tensor in state.items():
        if name.endswith(("relative_position_index", "relative_coords_table")):
            continue
        for pattern, new in RULES:
            name = re.sub("^" + pattern if pattern.startswith("features") else pattern.replace("mlp", r"(?<!cpb_)mlp"), new, name)
        ours[name] = tensor
    for name in [name for name in ours if name.endswith("qkv.bias") and name.replace("qkv.bias", "logit_scale") in ours]:
        q, _, v = ours.pop(name).chunk(3)
        ours[name.replace("qkv.bias", "q_bias")], ours[name.replace("qkv.bias", "v_bias")] = q, v
    return ours


@pytest.mark.parametrize(("theirs", "ours"), [("swin_t", "swin_tiny_patch4_window7_224"), ("swin_v2_t", "swinv2_tiny_window8_256")])
@pytest.mark.parametrize("size", [(224, 224), (193, 250), (97, 301), (66, 45)])
def test_same_logits(theirs, ours, size):
    peer = torchvision.models.get_model(theirs).eval()
    for name, parameter in peer.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.1)
    model = create_model(ours, size_policy="per_axis").eval()
    model.load_state_dict(renamed(peer.state_dict()))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted, got = peer(x), model(x)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
