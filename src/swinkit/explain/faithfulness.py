"""Are maps faithful? Deletion and insertion curves (Petsiuk et al. 2018): what the model says while the picture goes, or comes.

B pictures | P patches of a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swinkit.config import Size, pair
from swinkit.errors import InputError
from swinkit.model import SwinTransformer

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Mean probability of the explained class after each step, from nothing to everything replaced; (steps + 1,) each."""

    deletion: Floats
    insertion: Floats

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, 0 to 1: low where the map finds what the model needs."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, 0 to 1: high where the map finds what is enough."""
        return area(self.insertion)


def area(curve: Floats) -> float:
    """(steps + 1,) at equal distances from 0 to 1 -> the area under it (trapezoids)."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def curves(
    model: SwinTransformer, x: Tensor, targets: Sequence[int], orders: NDArray[np.int64], steps: int = 14, side: int | Size | None = None
) -> Curves:
    """Pictures (B, C, height, width), the class to follow on each, and an order (B, P) of their patches, most important first.

    A patch has `side` pixels (None: the model's own patches) and is replaced by zeros, the mean colour of the data; deletion takes patches
    away in this order, insertion adds them to an empty picture. Errors: InputError where the sides or the counts do not fit.
    """
    cell = pair(side if side is not None else model.config.patch_size)
    grid = _grid((x.shape[2], x.shape[3]), cell)
    if orders.shape != (len(x), grid[0] * grid[1]) or len(targets) != len(x):
        raise InputError(
            f"Got orders {orders.shape} and {len(targets)} classes for {len(x)} pictures; expected one class and {grid[0] * grid[1]} "
            "patches a picture."
        )
    ranks = torch.from_numpy(orders.argsort(1)).to(x.device).unflatten(1, grid)  # when each patch comes
    deletion, insertion = [], []
    for step in range(steps + 1):
        chosen = (ranks < round(step * grid[0] * grid[1] / steps)).repeat_interleave(cell[0], 1).repeat_interleave(cell[1], 2)[:, None]
        deletion.append(_mean_probability(model, x.where(~chosen, 0), targets))
        insertion.append(_mean_probability(model, x.where(chosen, 0), targets))
    return Curves(np.array(deletion), np.array(insertion))


def _grid(image: Size, cell: Size) -> Size:
    if image[0] % cell[0] or image[1] % cell[1]:
        raise InputError(
            f"Patches of {cell[0]} x {cell[1]} do not divide a picture of {image[0]} x {image[1]} pixels; choose another side."
        )
    return image[0] // cell[0], image[1] // cell[1]


def _mean_probability(model: SwinTransformer, x: Tensor, targets: Sequence[int], at_once: int = 128) -> float:
    wanted = torch.as_tensor(targets)[:, None]
    with torch.no_grad():
        parts = [
            model(x[start : start + at_once]).cpu().double().softmax(1).gather(1, wanted[start : start + at_once])
            for start in range(0, len(x), at_once)
        ]
    return float(torch.cat(parts).mean())


def order_of(values: Floats, side: int | Size) -> NDArray[np.int64]:
    """A map (height, width) -> its patches (P,), the one with the highest mean first; of equals, the first in reading order."""
    cell = pair(side)
    grid = _grid((values.shape[0], values.shape[1]), cell)
    means = values.reshape(grid[0], cell[0], grid[1], cell[1]).mean((1, 3)).ravel()
    return np.argsort(-means, kind="stable")


def centre_order(image: Size, side: int | Size) -> NDArray[np.int64]:
    """Patches (P,) from the middle outwards: what a map has to beat where objects are centred."""
    y, x = ((np.arange(length) + 0.5) / length - 0.5 for length in image)
    return order_of(-np.hypot(y[:, None], x[None, :]), side)
