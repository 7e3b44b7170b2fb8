"""The original authors' numbers: outputs of every stage and gradients, in float64 and float32."""

import numpy as np
import pytest
import torch

import golden_cases as golden
from swinkit.backbone import SwinBackbone
from swinkit.model import SwinTransformer, relative_position_index, seam_mask, seam_sides

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def load(name, cls):
    case = golden.CASES[name]
    model = golden.fill(cls(golden.config_of(case)))
    shapes = {parameter: tuple(p.shape) for parameter, p in model.named_parameters()}
    assert golden.formula.parameters_digest(shapes) == case["parameters"]["sha256"], "names and shapes of the original's parameters"
    return case, model


@DTYPES
@pytest.mark.parametrize("name", golden.names("classification_v1", "classification_v2"))
def test_classification(name, dtype):
    case, model = load(name, SwinTransformer)
    model.to(dtype)
    has_gradients = "gradients" in case
    x = golden.image(case, dtype).requires_grad_(has_gradients)
    with torch.set_grad_enabled(has_gradients):
        maps = [model.embed(x)]
        for stage in model.layers:
            maps.append(stage(maps[-1]))
        pooled = model.forward_head(model.norm(maps[-1]), pre_logits=True)
        logits = model.head(pooled)
    for stage, got in enumerate(maps[1:]):
        golden.compare(case, f"stage{stage}", got.flatten(1, 2), dtype)
    golden.compare(case, "features", pooled, dtype)
    golden.compare(case, "logits", logits, dtype)
    if has_gradients:
        (logits * torch.from_numpy(golden.formula.formula_input(logits.shape, seed=7)).to(dtype)).sum().backward()
        compare_gradients(case, model, x, dtype)


def compare_gradients(case, model, x, dtype):
    parameters = dict(model.named_parameters())
    for name in case["arrays"]:
        if name.startswith("grad."):
            tensor = x if name == "grad.input" else parameters[name.removeprefix("grad.")]
            golden.compare(case, name, tensor.grad, dtype)
    norms = torch.stack([parameters[name].grad.double().norm() for name in sorted(parameters)])
    golden.compare(case, "grad_l2", norms, dtype)


@DTYPES
@pytest.mark.parametrize("name", golden.names("dense_backbone"))
def test_dense_backbone(name, dtype):
    case, model = load(name, SwinBackbone)
    with torch.no_grad():
        maps = model.to(dtype)(golden.image(case, dtype))
    for stage, got in zip(case["config"]["out_indices"], maps, strict=True):
        golden.compare(case, f"out{stage}", got, dtype)


TABLES = np.load(golden.FOLDER / "tables.npz")


@pytest.mark.parametrize("side", [4, 7])
def test_relative_position_index(side):
    assert np.array_equal(relative_position_index((side, side)).numpy(), TABLES[f"relative_position_index.w{side}"])


@pytest.mark.parametrize(
    ("name", "grid"),
    [("attn_mask.14x14.w7.s3", (14, 14)), ("attn_mask.dense.10x10.w7.s3", (14, 14)), ("attn_mask.dense.10x17.w7.s3", (14, 21))],
)
def test_mask(name, grid):
    mask = seam_mask(seam_sides(grid, (7, 7), (3, 3)))
    assert np.array_equal(mask.numpy(), TABLES[name] == 0)
    assert set(np.unique(TABLES[name])) == {-100.0, 0.0}
