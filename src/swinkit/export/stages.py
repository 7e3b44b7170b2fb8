"""The blocks of one resolution and the merging after them, for maps of any size or of one.

    B images | L tokens of a map | C channels | G windows | N tokens per window
"""

from __future__ import annotations

from torch import Tensor, nn

from swinkit.config import Size, SizePolicy
from swinkit.export.layers import Block, Merging, constant
from swinkit.export.places import Grid, Places, halves, merging, places, shift_of
from swinkit.model import SwinStage

TABLE_LIMIT = 256 * 2**20
"""Bytes of a block's position bias and mask up to which they are stored for every window; beyond, they are put together at run time."""


class Stage(nn.Module):
    """For maps of any size: where tokens lie and what they may see follows from the size at run time."""

    def __init__(self, stage: SwinStage, policy: SizePolicy) -> None:
        super().__init__()
        self.policy = policy
        self.blocks = nn.ModuleList(Block(block) for block in stage.blocks)
        self.merging = None if stage.downsample is None else Merging(stage.downsample)  # type: ignore[arg-type]

    def run_blocks(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, L, C) -> (B, L, C), the map before merging."""
        known: dict[Size, Places] = {}
        for number, block in enumerate(self.blocks):
            if block.half_window not in known:
                known[block.half_window] = self.places(number, grid)
            where = known[block.half_window]
            x = block(x, where, self.table(number, where))
        return x

    def merge(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, L, C) -> (B, L', 2C) and the merged map's grid, or the same after the last stage."""
        return (x, grid) if self.merging is None else (self.merging(x, *self.neighbours(grid)), halves(grid))

    def places(self, number: int, grid: Grid) -> Places:
        """Where tokens lie in the windows of a block."""
        block = self.blocks[number]
        shift = shift_of(grid, block.window, block.half_window, self.policy)
        return places(grid, block.window, shift, block.attn.heads, block.attn.weight.device)

    def table(self, number: int, where: Places) -> Tensor | None:
        """(G, K, N, N): position bias and mask of a block that shifts, else None."""
        block = self.blocks[number]
        return block.attn.table(where.sides) if any(block.half_window) else None  # type: ignore[no-any-return]

    def neighbours(self, grid: Grid) -> tuple[Tensor, Tensor | None]:
        """Where the four neighbours of each merged token are."""
        return merging(grid, self.blocks[0].attn.weight.device)


class StoredStage(Stage):
    """For maps of one size: places and tables are computed when it is made."""

    def __init__(self, stage: SwinStage, policy: SizePolicy, grid: Size) -> None:
        super().__init__(stage, policy)
        self.kinds = nn.ModuleDict()
        self.tables = nn.ModuleList()
        for number, block in enumerate(self.blocks):
            where = super().places(number, grid)
            shifts = any(shift_of(grid, block.window, block.half_window, policy))
            stored = shifts and len(where.sides) * block.attn.bias.nbytes <= TABLE_LIMIT
            self.kinds[_kind(block)] = _Stored(*where.into, None if where.real.all() else where.real, where.back, where.sides)  # type: ignore[union-attr]
            self.tables.append(_Stored(super().table(number, where) if stored else None))
            block.shifts = shifts
        if self.merging is not None:
            index, real = super().neighbours(grid)
            self.merged = _Stored(index, None if real is None or real.all() else real)

    def places(self, number: int, grid: Grid) -> Places:
        """What was stored for such blocks."""
        query, key, value, real, back, sides = self.kinds[_kind(self.blocks[number])]()
        return Places((query, key, value), real, back, sides)

    def table(self, number: int, where: Places) -> Tensor | None:
        """What was stored; put together only where that would take too much."""
        (table,) = self.tables[number]()
        return super().table(number, where) if table is None and self.blocks[number].shifts else table

    def neighbours(self, grid: Grid) -> tuple[Tensor, Tensor | None]:
        """What was stored."""
        return self.merged()  # type: ignore[no-any-return]


class _Stored(nn.Module):
    """Values that go into the artefact as they are."""

    def __init__(self, *tensors: Tensor | None) -> None:
        super().__init__()
        self.names = [f"part{number}" for number in range(len(tensors))]
        for name, tensor in zip(self.names, tensors, strict=True):
            self.register_buffer(name, tensor)

    def forward(self) -> tuple[Tensor | None, ...]:
        """The values."""
        return tuple(getattr(self, name) for name in self.names)


def _kind(block: nn.Module) -> str:
    return "shifted" if any(block.half_window) else "regular"  # type: ignore[arg-type]
