"""Whole models with the Triton kernels inside, run by tests/test_gpu_kernels.py like gpu_cases.py."""

import pytest
import torch
import torch.nn.functional as F

from swinkit.config import SwinConfig
from swinkit.kernels import gpu
from swinkit.model import SwinTransformer, window_attention


def config(version):
    return SwinConfig(
        version=version, img_size=12, patch_size=2, num_classes=3, embed_dim=16, depths=(2,), num_heads=(1,), window_size=4,
        drop_path_rate=0.0, size_policy="dense",
    )  # fmt: skip


def twins(version):
    """The same model with the kernels and with the definition."""
    torch.manual_seed(0)
    fused = SwinTransformer(config(version), attend=gpu.attend)
    plain = SwinTransformer(config(version), attend=window_attention)
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def batch():
    torch.manual_seed(1)
    return torch.randn(2, 3, 12, 12), torch.tensor([0, 2])


def losses(model, steps):
    """The loss of a few steps of training."""
    optimizer, (x, labels), told = torch.optim.AdamW(model.parameters(), lr=1e-2), batch(), []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    return told


def test_training_goes_the_way_of_the_definition():
    fused, plain = twins(2)
    mine, theirs = losses(fused, 3), losses(plain, 3)
    assert mine == pytest.approx(theirs, rel=1e-4)
    assert mine[-1] < mine[0]


def test_a_compiled_model_has_one_graph_forward_and_backward():
    fused, plain = twins(1)
    x, labels = batch()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for model in (compiled, plain):
        F.cross_entropy(model(x), labels).backward()
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_an_export_keeps_the_operation():
    fused, plain = twins(1)
    x, _ = batch()
    program = torch.export.export(fused.eval(), (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}})
    called = [node.target for node in program.graph.nodes if node.target is torch.ops.swinkit.gpu_window_attention.default]
    assert len(called) == 2
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


def test_autocast():
    fused, plain = twins(2)
    x, _ = batch()
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = fused(x), plain(x)
    torch.testing.assert_close(mine.float(), theirs.float(), rtol=0, atol=2e-2)
