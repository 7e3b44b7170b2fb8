"""A Swin Transformer in the C++ library: its weights packed once, then whole blocks in one pass."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.config import Size, SwinConfig, pair, patches
from swinkit.kernels.cpu import library
from swinkit.model import PatchMerging, SwinBlock, SwinTransformer, SwinTrunk

PANEL = 32
"""Channels of a map are padded to multiples of this in the library."""
LARGEST_WINDOW = 32
POSITIONS = 8
"""How many token grids keep their resized position embedding."""
DTYPES = {torch.float32: library.FLOAT32, torch.bfloat16: library.BFLOAT16, torch.int8: library.INT8}

NEEDS = {torch.bfloat16: "bfloat16 with AVX512-BF16", torch.int8: "int8 with AVX512-VNNI and AVX512-BF16 together"}


def why_not(model: SwinTrunk, dtype: torch.dtype) -> str | None:
    """Why the library cannot run this model in this dtype; None if it can."""
    obstacle = library.obstacle()
    if obstacle:
        return obstacle
    if dtype not in DTYPES:
        return f"The C++ library computes in float32, bfloat16 and int8, not in {str(dtype).removeprefix('torch.')}."
    isa = library.chosen_isa()
    if not library.has(isa, DTYPES[dtype]):
        return f"The C++ library computes in {NEEDS[dtype]} only, and runs with {isa} here."
    config = model.config
    for stage, window in enumerate(config.windows[: len(model.layers)]):
        dim = config.dims[stage] // config.num_heads[stage]
        if dim % 8:
            return f"Stage {stage} has {dim} channels per head; the C++ library takes multiples of 8."
        if max(window) > LARGEST_WINDOW:
            return f"Stage {stage} has a window of {window[0]} x {window[1]}; the C++ library takes sides up to {LARGEST_WINDOW}."
    return None


class _Weights:
    """Pointers to float32 copies of tensors, alive as long as this object."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def __call__(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self.kept.append(tensor.detach().to("cpu", torch.float32).contiguous())
        return self.kept[-1].data_ptr()


def _check(status: int) -> None:
    if status == library.NO_MEMORY:
        raise MemoryError("There is not enough memory for this model and batch; give smaller images or a smaller batch_size.")
    if status != library.OK:
        raise RuntimeError(f"The C++ library refused its arguments (status {status}); this is a defect of swinkit.")


def _block(pointer: _Weights, block: SwinBlock) -> library.BlockWeights:
    attn, mlp = block.attn, block.mlp
    scale = attn.scale()
    scales = torch.full((attn.heads,), scale) if isinstance(scale, float) else scale.flatten()
    window = block.window
    tensors: dict[str, Tensor | None] = {
        f"norm{i}_{part}": getattr(norm, part) for i, norm in ((1, block.norm1), (2, block.norm2)) for part in ("weight", "bias")
    }
    tensors |= {"qkv_weight": attn.qkv.weight, "qkv_bias": attn.qkv_bias(), "proj_weight": attn.proj.weight, "proj_bias": attn.proj.bias}
    tensors |= {f"{name}_{part}": getattr(getattr(mlp, name), part) for name in ("fc1", "fc2") for part in ("weight", "bias")}
    tensors |= {"position": attn.bias(), "scale": scales}
    sizes = {"version": attn.version, "channels": attn.qkv.in_features, "heads": attn.heads, "hidden": mlp.fc1.out_features}
    return library.BlockWeights(
        **sizes, window_h=window[0], window_w=window[1], **{name: pointer(tensor) for name, tensor in tensors.items()}
    )


def _merging(lib: ctypes.CDLL, net: int, pointer: _Weights, merging: PatchMerging) -> None:
    channels = merging.reduction.in_features // 4
    norm, reduction = merging.norm, merging.reduction
    _check(lib.swk_merge(net, merging.version, channels, pointer(norm.weight), pointer(norm.bias), pointer(reduction.weight)))


def _fill(lib: ctypes.CDLL, net: int, model: SwinTrunk) -> None:
    embed, patch, pointer = model.patch_embed, model.patch_embed.patch, _Weights()
    norm = embed.norm if isinstance(embed.norm, nn.LayerNorm) else None
    affine = (None, None) if norm is None else (pointer(norm.weight), pointer(norm.bias))
    weight, bias = embed.proj.weight, embed.proj.bias
    _check(lib.swk_embed(net, weight.shape[1], *patch, weight.shape[0], pointer(weight.flatten(1)), pointer(bias), *affine))
    for stage in model.layers:
        for block in stage.blocks:
            pointer = _Weights()
            _check(lib.swk_block(net, ctypes.byref(_block(pointer, cast(SwinBlock, block)))))
        if stage.downsample is not None:
            _merging(lib, net, _Weights(), stage.downsample)
    if isinstance(model, SwinTransformer):
        pointer = _Weights()
        head = model.head if isinstance(model.head, nn.Linear) else None
        classifier = (None, None) if head is None else (pointer(head.weight), pointer(head.bias))
        norm = model.norm
        _check(lib.swk_head(net, model.num_features, model.num_classes, pointer(norm.weight), pointer(norm.bias), *classifier))


@dataclass(frozen=True)
class Wanted:
    """Which outputs a run has: maps before merging of these stages, features after the last norm, pooled features, logits."""

    stages: tuple[int, ...] = ()
    features: bool = False
    pooled: bool = False
    logits: bool = False


class FusedNet:
    """The packed weights of one model and what runs them. Holds no reference to the model; free of state, so threads may share it."""

    def __init__(self, model: SwinTrunk, dtype: torch.dtype) -> None:
        self.lib, self.config, self.isa = library.load(), model.config, library.chosen_isa()
        self.stages = len(model.layers)
        self.half_windows: list[list[Size]] = [[cast(SwinBlock, block).half_window for block in stage.blocks] for stage in model.layers]
        table = model.absolute_pos_embed
        self.table = None if table is None else table.detach().float().cpu().clone()
        self.positions: OrderedDict[Size, Tensor] = OrderedDict()
        self.lock = threading.Lock()
        self.net = self.lib.swk_new(library.isa_number(self.isa), DTYPES[dtype])
        if not self.net:
            raise MemoryError("There is not enough memory for the packed weights.")
        # Not when the process ends: a daemon thread may still be in a run.
        weakref.finalize(self, self.lib.swk_free, self.net).atexit = False
        with torch.no_grad():
            _fill(self.lib, self.net, model)

    @property
    def weight_bytes(self) -> int:
        """Memory of the packed weights."""
        return int(self.lib.swk_bytes(self.net))

    def run(self, x: Tensor, wanted: Wanted, threads: int) -> dict[str, Any]:
        """(B, in_chans, height, width) float32, contiguous -> what is wanted, by name; "maps" by stage, (B, H, W, C)."""
        config, size = self.config, (x.shape[2], x.shape[3])
        grids, floors = self._grids(size)
        shifts = self._shifts(grids)
        last, dim, batch = grids[-1], config.dims[self.stages - 1], x.shape[0]
        maps = {stage: _room(batch, *grids[stage], config.dims[stage]) for stage in wanted.stages}
        out: dict[str, Any] = {"maps": maps}
        out |= {"features": _room(batch, *last, dim)} if wanted.features else {}
        out |= {"pooled": _room(batch, dim)} if wanted.pooled else {}
        out |= {"logits": _room(batch, config.num_classes)} if wanted.logits else {}
        pointers = (ctypes.c_void_p * self.stages)(*(maps[stage].data_ptr() if stage in maps else None for stage in range(self.stages)))
        position = self._position(grids[0])
        results = {name: tensor.data_ptr() for name, tensor in out.items() if name != "maps"}
        job = library.Job(
            pixels=x.data_ptr(), batch=batch, height=size[0], width=size[1], floors=floors, shifts=ctypes.addressof(shifts),
            position=None if position is None else position.data_ptr(), maps=ctypes.addressof(pointers), threads=threads, **results,
        )  # fmt: skip
        _check(self.lib.swk_run(self.net, ctypes.byref(job)))
        return out

    def _grids(self, image: Size) -> tuple[list[Size], bool]:
        floors = self.config.floors(image)
        patch = pair(self.config.patch_size)
        grid = patches(image, patch) if floors else (-(-image[0] // patch[0]), -(-image[1] // patch[1]))
        grids = [grid]
        for _ in range(self.stages - 1):
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
            grids.append(grid)
        return grids, floors

    def _shifts(self, grids: Sequence[Size]) -> ctypes.Array[ctypes.c_int]:
        """One (h, w) pair per block."""
        pairs = [shift_of(self.config, stage, half, grid) for stage, grid in enumerate(grids) for half in self.half_windows[stage]]
        return (ctypes.c_int * (2 * len(pairs)))(*(side for shift in pairs for side in shift))

    def _position(self, grid: Size) -> Tensor | None:
        """(H, W, C padded) for this token grid; the last few are kept."""
        if self.table is None:
            return None
        with self.lock:
            if grid not in self.positions:
                self.positions[grid] = resized_position(self.table, self.config.grids[0], grid)
                while len(self.positions) > POSITIONS:
                    self.positions.popitem(last=False)
            self.positions.move_to_end(grid)
            return self.positions[grid]


def _room(*shape: int) -> Tensor:
    """For the library to write to, whatever device and dtype PyTorch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def shift_of(config: SwinConfig, stage: int, half: Size, grid: Size) -> Size:
    """How far a block's windows move on a map of `grid` tokens, as SwinBlock.shift says."""
    if not any(half):
        return (0, 0)
    dropped = config.drop_shift(grid, config.windows[stage])
    return (0 if dropped[0] else half[0], 0 if dropped[1] else half[1])


def resized_position(table: Tensor, built_for: Size, grid: Size) -> Tensor:
    """(1, N, C) or (1, C, H, W) -> (H, W, C padded to panels), bicubic, as SwinTrunk.add_position does it."""
    position = table if table.ndim == 4 else table.transpose(1, 2).unflatten(2, built_for)
    if tuple(position.shape[2:]) != grid:
        position = F.interpolate(position, size=grid, mode="bicubic")
    return F.pad(position[0].permute(1, 2, 0), (0, -position.shape[1] % PANEL)).contiguous()


def describe(dtype: torch.dtype) -> str:
    """Instruction set and dtype, for people."""
    isa = "avx512_vnni" if dtype == torch.int8 else library.chosen_isa()
    return f"{isa.replace('_', '-').upper()}, {str(dtype).removeprefix('torch.')}"
