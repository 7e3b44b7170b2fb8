"""How the kernels are laid out: fixed choices by window, dtype and kernel, so that results and exported graphs do not vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swinkit.config import Size

WHOLE = 64
"""Tokens of the largest window that is kept on the chip as a whole."""
PROGRAMS = 2048
"""Programs at least, where there are as many windows: some for each of the 100 to 150 processors of a large GPU, several times over."""
MOST_WINDOWS = 16
"""Windows of one program at most. The bias, and in the backward pass its gradient, are moved once for all of them."""


def power(count: int) -> int:
    """The next power of two, at least the 16 that a matrix unit takes."""
    return max(16, 1 << (count - 1).bit_length())


@dataclass(frozen=True)
class Call:
    """What one call computes: sizes of the map and the windows, and how the windows are dealt out to programs."""

    batch: int
    height: int
    width: int
    heads: int
    dim: int
    window: Size
    shift: Size

    @classmethod
    def of(cls, qkv: Tensor, window: Sequence[int], shift: Sequence[int]) -> Call:
        """The call for qkv (B, H, W, 3, K, D)."""
        batch, height, width, _, heads, dim = qkv.shape
        return cls(batch, height, width, heads, dim, (window[0], window[1]), (shift[0], shift[1]))

    @property
    def tokens(self) -> int:
        """Tokens per window."""
        return self.window[0] * self.window[1]

    @property
    def whole(self) -> bool:
        """Whether a window is kept on the chip as a whole."""
        return self.tokens <= WHOLE

    @property
    def windows(self) -> int:
        """Windows of all maps together."""
        return self.batch * -(-self.height // self.window[0]) * -(-self.width // self.window[1])

    @property
    def padded(self) -> bool:
        """Whether some windows reach over the end of the map."""
        return bool(self.height % self.window[0] or self.width % self.window[1])

    def per(self, blocks: int) -> int:
        """Windows of one program, where each window takes `blocks` programs per head."""
        return max(1, min(MOST_WINDOWS, self.windows * self.heads * blocks // PROGRAMS))

    def parts(self, blocks: int) -> int:
        """Programs per head and block."""
        return -(-self.windows // self.per(blocks))

    def programs(self, blocks: int) -> int:
        """Programs of a kernel."""
        return self.heads * blocks * self.parts(blocks)

    def numbers(self, blocks: int) -> tuple[int, ...]:
        """windows, per, H, W, shift_y, shift_x of a kernel."""
        return self.windows, self.per(blocks), self.height, self.width, *self.shift

    def flags(self, cosine: bool, factors: bool) -> dict[str, Any]:
        """What a kernel is compiled for."""
        return {
            "K": self.heads, "D": self.dim, "MH": self.window[0], "MW": self.window[1], "BLOCK_D": power(self.dim),
            "COSINE": cosine, "SHIFTED": any(self.shift), "PADDED": self.padded, "FACTORS": factors,
            "HUGE": self.height * self.width * 3 * self.heads * self.dim >= 2**31,
        }  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """Sizes of blocks, how many of them a window takes per head, warps per program, stages of loads under way."""

    sizes: dict[str, int]
    blocks: int
    num_warps: int
    num_stages: int

    def options(self) -> dict[str, int]:
        """What a kernel's call takes besides its arguments."""
        return {**self.sizes, "num_warps": self.num_warps, "num_stages": self.num_stages}


HALF, SINGLE = 0, 1
HOPPER = 9
"""The major compute capability from which matrix units read shared memory themselves, which leaves registers for loads under way."""

WARPS_AND_STAGES = {
    # kernel for whole windows: half precision, float32
    "forward": ((4, 3), (8, 1)),
    "backward": ((4, 3), (8, 1)),
}
BLOCKS = {
    # kernel for blocks of windows: queries, keys, warps and stages in half precision, then in float32
    "forward": ((64, 64, 4, 1), (64, 32, 8, 1)),
    "queries": ((64, 64, 4, 2), (64, 32, 8, 1)),
    "keys": ((64, 64, 4, 1), (32, 64, 8, 1)),
    "pairs": ((64, 64, 8, 1), (64, 32, 8, 1)),
}
ONE_STAGE_BEFORE_HOPPER = ("backward",)
"""Kernels whose registers would not suffice for loads under way. The number of stages changes no result."""


def launch(kernel: str, call: Call, dtype: torch.dtype, capability: int = HOPPER) -> Launch:
    """The layout of a kernel for a call on a GPU of a major compute capability."""
    precision = SINGLE if dtype == torch.float32 else HALF
    if call.whole:
        warps, stages = WARPS_AND_STAGES[kernel][precision]
        stages = 1 if capability < HOPPER and kernel in ONE_STAGE_BEFORE_HOPPER else stages
        return Launch({"BLOCK_N": power(call.tokens)}, 1, warps, stages)
    q, k, warps, stages = BLOCKS[kernel][precision]
    rows, columns = -(-call.tokens // q), -(-call.tokens // k)
    return Launch({"BLOCK_Q": q, "BLOCK_K": k}, {"keys": columns, "pairs": rows * columns}.get(kernel, rows), warps, stages)


TILES = {
    # kernel for an MLP: channels up to which it holds, then tokens, hidden channels, channels at a time, warps, stages
    "expand": ((128, 64, 64, 32, 4, 3), (256, 64, 128, 64, 4, 3), (None, 128, 128, 64, 8, 3)),
    "contract_backward": ((128, 64, 64, 32, 4, 3), (None, 64, 128, 64, 4, 3)),
}
"""The fastest of a dozen on an H200, at the sizes of Swin-T and a batch of 256."""


def tiles(kernel: str, channels: int) -> Launch:
    """The layout of a kernel for an MLP with so many channels, in half precision."""
    m, f, c, warps, stages = next(sizes for most, *sizes in TILES[kernel] if most is None or channels <= most)
    return Launch({"BLOCK_M": m, "BLOCK_F": f, "BLOCK_C": c}, 1, warps, stages)
