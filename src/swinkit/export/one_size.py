"""The trunk for images of one size: everything that follows from the size is computed when it is made.

Where windows divide the map, tokens never go back to the map's order between blocks: one gather leads from the windows of a block to those
of the next, and patch merging collects its neighbours from wherever they are. The images of a large batch go through early stages in turns.

    B images | H W token grid | L = H * W | G windows per map | N tokens per window
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from swinkit.config import Size
from swinkit.export.embedding import Embedding, grid_of
from swinkit.export.layers import Block, Form, Merging, constant
from swinkit.export.places import Grid, Places, halves, merging, places, shift_of
from swinkit.export.turns import Turns
from swinkit.model import PatchMerging, SwinBlock, SwinStage, SwinTrunk

TABLE_LIMIT = 256 * 2**20
"""Bytes of a block's position bias and mask up to which they are stored for every window; beyond, they are put together at run time."""
Order = Tensor | None
"""(L,) int64: the token of the map at each place of a row of tokens; None: the map's own order."""


class OneSize(nn.Module):
    """(B, in_chans, height, width) -> (B, L, C) and grid of each wanted stage, before merging."""

    def __init__(self, model: SwinTrunk, wanted: Sequence[int], size: Size, form: Form, turns: Turns) -> None:
        super().__init__()
        self.turns, self.embedding = turns, Embedding(model, size)
        self.early, self.late = Steps(), Steps()
        grid, order = grid_of(model.config, size), None
        for number, stage in enumerate(model.layers):
            steps = self.early if number < turns.stages else self.late
            plans = [Plan(block, grid) for block in blocks_of(stage)]
            for plan in plans:
                steps.go(order, plan.order)
                steps.append(plan.step(replace(form, one_image=turns.one_image(number))))
                order = plan.order
            if number in wanted:
                steps.go(order, None)
                steps.append(Keep(grid))
                order = None
            if stage.downsample is not None:
                merged = halves(grid)
                following = Plan(blocks_of(model.layers[number + 1])[0], merged).order
                order = steps.merge(stage.downsample, grid, order, following)
                grid = merged

    def forward(self, images: Tensor) -> list[tuple[Tensor, Grid]]:
        """(B, in_chans, height, width) -> (B, L, C) and grid of each wanted stage, before merging."""
        if not self.turns.stages:
            return self.late(self.embedding(images)[0])[1]
        parts = [self.early(self.embedding(part)[0]) for part in images.split(self.turns.at_a_time)]
        found = [(torch.cat([x for x, _ in maps]), maps[0][1]) for maps in zip(*(maps for _, maps in parts), strict=True)]
        return found + self.late(torch.cat([x for x, _ in parts]))[1]


class Steps(nn.ModuleList):
    """What is done to tokens, one after the other."""

    def go(self, order: Order, wanted: Order) -> None:
        """Lead tokens from one order to another."""
        index = _way(order, wanted)
        if index is not None:
            self.append(Gather(index))

    def merge(self, module: PatchMerging, grid: Size, order: Order, wanted: Order) -> Order:
        """Merge tokens that lie in `order` into `wanted`, an order of the merged map."""
        index, real = merging(grid)
        if wanted is not None:
            index, real = (part.unflatten(0, (-1, 4))[wanted].flatten(0, 1) for part in (index, real))
        if order is not None:
            index = order.argsort()[index]
        self.append(MergeStep(Merging(module), index, real))
        return wanted

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Grid]]]:
        """(B, L, C) -> what comes out, and the maps to keep with their grids."""
        found = []
        for step in self:
            if isinstance(step, Keep):
                found.append((x, step.grid))
            else:
                x = step(x)
        return x, found


class Plan:
    """How a block runs on maps of one size."""

    def __init__(self, block: SwinBlock, grid: Size) -> None:
        self.block = block
        window, half = block.window, block.half_window
        self.shift = shift_of(grid, window, half, block.config.size_policy)
        self.places, self.sides = places(grid, window, self.shift)
        padded = any(length % side for length, side in zip(grid, window, strict=True))
        in_place = bool((self.places.index == torch.arange(len(self.places.index))).all())
        self.padded = padded
        self.order: Order = None if padded or in_place else self.places.index
        """In which order it takes and gives its tokens."""

    def step(self, form: Form) -> nn.Module:
        """The block with what it needs to know."""
        shifted = any(self.shift)
        return BlockStep(Block(self.block, form), self.places if self.padded else None, self.sides if shifted else None)


def blocks_of(stage: SwinStage) -> list[SwinBlock]:
    """The blocks of a stage, with their type."""
    return list(stage.blocks)  # type: ignore[arg-type]


def _way(order: Order, wanted: Order) -> Order:
    """The gather that leads from one order to another; None: they are the same."""
    if order is None:
        return wanted
    index = order.argsort()
    index = index if wanted is None else index[wanted]
    return None if bool((index == torch.arange(len(index))).all()) else index


class Keep(nn.Module):
    """Here the map of a stage is complete, in the map's order."""

    def __init__(self, grid: Size) -> None:
        super().__init__()
        self.grid = grid


class Gather(nn.Module):
    """Tokens in another order."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.index = constant(index)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)"""
        return x.index_select(1, self.index)


class BlockStep(nn.Module):
    """A block, the places of a padded map, and the table of shifted windows."""

    def __init__(self, block: Block, where: Places | None, sides: Tensor | None) -> None:
        super().__init__()
        self.block, self.padded = block, where is not None
        if where is not None:
            self.index, self.real, self.back = constant(where.index), constant(where.real), constant(where.back)
        table = None if sides is None or len(sides) * block.attn.bias.nbytes > TABLE_LIMIT else block.attn.table(sides)
        self.table, self.sides = constant(table), constant(sides if table is None else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)"""
        table = self.block.attn.table(self.sides) if self.sides is not None else self.table
        where = Places(self.index, self.real, self.back) if self.padded else None
        return self.block(x, where, table)


class MergeStep(nn.Module):
    """Patch merging, and where the neighbours are."""

    def __init__(self, merge: Merging, index: Tensor, real: Tensor) -> None:
        super().__init__()
        self.merge, self.index = merge, constant(index)
        self.real = constant(None if bool(real.all()) else real)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L', 2C)"""
        return self.merge(x, self.index, self.real)
