"""What the operations here cost, for torch.utils.flop_counter, which cannot look into them: as much as the definition's products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


def count_attention(operation: Any, products: int, qkv_at: int, window_at: int) -> None:
    """Window attention: so many products of queries and keys, padding included; where its map and its window are among the arguments."""

    def count(*given: Any, out_shape: Any = None, **_: Any) -> int:
        (batch, height, width, _, heads, dim), window = given[qkv_at], given[window_at]
        windows = batch * -(-height // window[0]) * -(-width // window[1])
        return int(products * 2 * windows * heads * (window[0] * window[1]) ** 2 * dim)

    register_flop_formula(operation)(count)


def count_mlp(forward: Any, backward: Any) -> None:
    """An MLP: two products, and on the way back two for each layer, as far as they are wanted."""

    def count(x: Shape, weight: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * _product(x, weight)

    def count_back(grad: Shape, x: Shape, hidden: Shape, weight: Shape, last: Shape, wanted: Sequence[bool], **_: Any) -> int:
        return (1 + sum(wanted[at] for at in (0, 1, 3))) * _product(x, weight)

    register_flop_formula(forward)(count)
    register_flop_formula(backward)(count_back)


def _product(x: Shape, weight: Shape) -> int:
    return 2 * math.prod(x[:-1]) * weight[0] * weight[1]
