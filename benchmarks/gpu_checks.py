"""What benchmarks/gpu.py checks while it compiles, a line of JSON for each; and window attention by FlexAttention, which it measures.

python benchmarks/gpu_checks.py [--dry-run]
"""

import copy
import json
import os
import sys

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

from swinkit.kernels import gpu
from swinkit.model import Mlp, SwinTransformer, from_windows, pad_map, seam_sides, to_windows, unit, window_attention
from swinkit.variants import get_config

TINY = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2,), "num_heads": (1,), "num_classes": 4}
BOUND = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2.5e-2}
CASES = [
    # map, window, shift, heads, channels, cosine
    ((14, 14), (7, 7), (3, 3), 3, 32, False),
    ((13, 10), (7, 7), (3, 3), 2, 32, False),
    ((16, 16), (8, 8), (4, 4), 3, 32, True),
    ((15, 9), (8, 8), (4, 4), 2, 24, True),
    ((32, 32), (16, 16), (8, 8), 2, 32, True),
    ((21, 30), (12, 12), (6, 6), 2, 64, False),
    ((24, 48), (24, 24), (0, 12), 2, 32, True),
]


def flex_attend(qkv, bias, *, window, shift, scale, cosine=False, pad=0.0, dropout_p=0.0):
    """The door to attention by FlexAttention: windows as short sequences, bias and mask in its score_mod."""
    H, W = qkv.shape[1:3]
    qkv = pad_map(qkv, window, pad)
    grid = (qkv.shape[1], qkv.shape[2])
    sides = seam_sides(grid, window, shift, qkv.device)
    windows = sides.shape[0]
    q, k, v = to_windows(qkv.roll((-shift[0], -shift[1]), (1, 2)), window).flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = (unit(q), unit(k)) if cosine else (q, k)

    def score(s, b, h, i, j):
        s = s + bias[h, i, j]
        return torch.where(sides[b % windows, i] == sides[b % windows, j], s, s - 100.0) if any(shift) else s

    options = {"FORCE_USE_FLEX_ATTENTION": True}  # short sequences would be taken for decoding, which cannot look tables up
    out = flex_attention(q * scale, k, v, score_mod=score, scale=1.0, kernel_options=options)
    out = from_windows(out.transpose(1, 2).flatten(2).unflatten(0, (-1, windows)), window, grid)
    return out.roll(shift, (1, 2))[:, :H, :W]


def errors(bench, dtype, grid, window, shift, heads, dim, cosine):
    """The largest difference of the output and of each gradient from the definition in float64, as parts of the largest value."""
    torch.manual_seed(0)
    tokens, device = window[0] * window[1], bench.device
    scale = 1 + 4 * torch.rand(heads, 1, 1, device=device)
    tensors = [torch.randn(2, *grid, 3, heads, dim, device=device).to(dtype), torch.randn(heads, tokens, tokens, device=device)]
    tensors += [torch.randn(3, heads, dim, device=device).to(dtype).float(), scale]
    grad = torch.randn(2, *grid, heads * dim, device=device).to(dtype)
    told = []
    for attend, kind in ((gpu.attend, None), (gpu.attend, None), (window_attention, torch.float64)):
        qkv, bias, pad, scale = (tensor.to(kind or tensor.dtype, copy=True).requires_grad_() for tensor in tensors)
        out = attend(qkv, bias, window=window, shift=shift, scale=scale if cosine else dim**-0.5, cosine=cosine, pad=pad)
        grads = torch.autograd.grad(out, (qkv, bias, *((scale,) if cosine else ())), grad.to(out.dtype))
        told.append((out.detach(), *grads))
    assert all(torch.equal(once, again) for once, again in zip(told[0], told[1], strict=True)), "differs from run to run"
    return [((mine - wide).abs().max() / wide.abs().max()).item() for mine, wide in zip(told[0], told[2], strict=True)]


def check_kernels(bench):
    for dtype, bound in BOUND.items():
        for case in CASES[: 2 if bench.dry else None]:
            grid, window, shift, *rest = case

            def work(dtype=dtype, bound=bound, case=(grid, window, shift, *rest)):
                worst = errors(bench, dtype, *case)
                limits = [bound] * 3 + [20 * bound]  # the gradient of scale is a sum of many terms that nearly cancel
                assert all(error < limit for error, limit in zip(worst, limits, strict=False)), f"{worst} is more than {bound}"
                return {"largest difference": f"{max(worst):.1e}", "from run to run": "none"}

            bench.step(f"window {window[0]} x {window[1]}, map {grid[0]} x {grid[1]}, {str(dtype)[6:]}", work)


def mlp_errors(bench, dtype, channels):
    """The largest difference of the output and of each gradient of an MLP from the definition in float64, as parts of the largest value."""
    torch.manual_seed(0)
    mlp = Mlp(channels, 4 * channels, 0.0, gpu.attend).to(bench.device, dtype)
    x, grad = (torch.randn(3, 7, 11, channels, device=bench.device).to(dtype) for _ in range(2))
    told = []
    for layer in (mlp, copy.deepcopy(mlp).double()):
        leaf = x.to(layer.fc1.weight.dtype, copy=True).requires_grad_()
        out = layer(leaf)
        told.append((out.detach(), *torch.autograd.grad(out, (leaf, *layer.parameters()), grad.to(out.dtype))))
    return [((mine - wide).abs().max() / wide.abs().max()).item() for mine, wide in zip(*told, strict=True)]


def check_mlps(bench):
    for dtype in (torch.float16, torch.bfloat16):
        for channels in (96, 128) if bench.dry else (96, 128, 192, 384, 1024):

            def work(dtype=dtype, channels=channels):
                worst = max(mlp_errors(bench, dtype, channels))
                assert worst < BOUND[dtype], worst
                return {"largest difference": f"{worst:.1e}"}

            bench.step(f"MLP of {channels} channels, {str(dtype)[6:]}", work)


def check_operations(bench):
    def opcheck():
        from swinkit.kernels.gpu import mlp_ops, ops  # noqa: F401 (which register the operations)

        arguments = (torch.randn(1, 5, 4, 3, 2, 16), torch.randn(2, 16, 16), torch.randn(3, 2, 16), torch.rand(2, 1, 1))
        arguments = [tensor.to(bench.device).requires_grad_() for tensor in arguments]
        torch.library.opcheck(torch.ops.swinkit.gpu_window_attention.default, (*arguments, 1.0, [4, 4], [2, 2], True))
        shapes = ((5, 32), (128, 32), (128,), (32, 128), (32,))
        arguments = [torch.randn(shape, device=bench.device, dtype=torch.bfloat16).requires_grad_() for shape in shapes]
        torch.library.opcheck(torch.ops.swinkit.gpu_mlp.default, (*arguments, True))
        return {"opcheck": "passed"}

    def export():
        model = small(bench, gpu.attend).eval()
        program = torch.export.export(model, (images(bench, model, 2),))
        names = [str(node.target) for node in program.graph.nodes if "gpu_window_attention" in str(node.target)]
        assert len(names) == sum(model.config.depths)
        return {"operations kept": len(names)}

    def training():
        fused, plain = small(bench, gpu.attend), small(bench, window_attention)
        plain.load_state_dict(fused.state_dict())
        told = {}
        for dtype, bound in ((None, 2e-2), (torch.bfloat16, 0.1)):
            ends = [losses(bench, copy.deepcopy(model), 2 if bench.dry else 20, dtype)[-1] for model in (fused, plain)]
            assert abs(ends[0] - ends[1]) < bound * max(abs(ends[1]), 0.1), ends
            kind = str(dtype or torch.float32)[6:]
            told |= {f"last loss in {kind}": f"{ends[0]:.5f}", f"of the definition in {kind}": f"{ends[1]:.5f}"}
        return told

    def one_graph():
        model = small(bench, gpu.attend)
        run = torch.compile(model, fullgraph=True, backend="aot_eager" if bench.dry else "inductor")
        for dtype in (None, torch.bfloat16):
            with torch.autocast(bench.device, dtype, enabled=dtype is not None):
                out = run(images(bench, model, 2))
            F.cross_entropy(out.float(), torch.zeros(2, dtype=torch.int64, device=bench.device)).backward()
        return {"graph breaks": 0}

    def flex():
        grid, window, shift, heads, dim, cosine = CASES[3]
        shape = (2, *grid, 3, heads, dim)
        qkv, bias = torch.randn(shape, device=bench.device), torch.randn(heads, 64, 64, device=bench.device)
        options = {"window": window, "shift": shift, "scale": torch.rand(heads, 1, 1, device=bench.device), "cosine": cosine}
        run = flex_attend if bench.dry else torch.compile(flex_attend)
        difference = (run(qkv, bias, **options) - window_attention(qkv, bias, **options)).abs().max().item()
        assert difference < 1e-2, difference  # it may multiply in tf32
        return {"largest difference": f"{difference:.1e}"}

    bench.step("opcheck", opcheck)
    bench.step("export", export)
    bench.step("training", training)
    bench.step("torch.compile", one_graph)
    bench.step("FlexAttention as measured", flex)
    if not bench.dry:
        bench.step("AOTInductor", lambda: packaged(bench))


class Checks:
    """Runs a check and prints what it found or how it failed."""

    def __init__(self, dry):
        self.dry, self.device = dry, "cpu" if dry else "cuda"

    def step(self, name, work):
        try:
            found = work()
        except Exception as problem:
            found = {"failed": f"{type(problem).__name__}: {str(problem).strip()[:300]}"}
        torch._dynamo.reset()
        print(json.dumps({name: found}), flush=True)


def packaged(bench):
    """AOTInductor: the exported model without Python, in bfloat16 and for any batch."""
    model = small(bench, gpu.attend).eval().bfloat16()
    x = images(bench, model, 5).bfloat16()
    with torch.no_grad():
        program = torch.export.export(model, (x[:2],), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}})
        made = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program))
        return {"largest difference": f"{(made(x) - model(x)).abs().max().item():.1e}"}


def main():
    bench = Checks("--dry-run" in sys.argv)
    check_operations(bench)
    check_mlps(bench)
    check_kernels(bench)


def small(bench, attend):
    torch.manual_seed(0)
    return SwinTransformer(
        get_config("swin_tiny_patch4_window7_224").replace(drop_path_rate=0.0, **(TINY if bench.dry else {})), attend=attend
    ).to(bench.device)


def images(bench, model, batch):
    side = model.config.img_size if hasattr(model, "config") else model.patch_embed.img_size
    height, width = (side, side) if isinstance(side, int) else side
    torch.manual_seed(1)
    return torch.randn(batch, 3, height, width, device=bench.device)


def losses(bench, model, steps, dtype=None):
    x, told = images(bench, model, 8), []
    optimizer, labels = torch.optim.AdamW(model.parameters(), lr=3e-4), torch.arange(8, device=bench.device) % 4
    for _ in range(steps):
        with torch.autocast(bench.device, dtype, enabled=dtype is not None):
            out = model(x)
        loss = F.cross_entropy(out.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    return told


if __name__ == "__main__":
    main()
