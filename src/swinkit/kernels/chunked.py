"""The definition of window attention a band of windows at a time, for maps whose scores would not fit in memory together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from swinkit.config import Size
from swinkit.model import window_attention

MOST_SCORES = 2**28
"""Scores at a time; a gibibyte in float32."""


def attend(
    qkv: Tensor,
    bias: Tensor,
    *,
    window: Size,
    shift: Size,
    scale: float | Tensor,
    cosine: bool = False,
    pad: Tensor | float = 0.0,
    dropout_p: float = 0.0,
    most_scores: int = MOST_SCORES,
) -> Tensor:
    """`model.window_attention` with the same arguments and result, whose scores (B, G, K, N, N) are never there as a whole.

    In training the scores of a band are computed again for its backward pass.
    """
    batch, height, width, _, heads, _ = qkv.shape
    tokens, down, across = window[0] * window[1], -(-height // window[0]), -(-width // window[1])
    rows = most_scores // max(batch * across * heads * tokens * tokens, 1)
    if rows >= down:
        return window_attention(
            qkv, bias, window=window, shift=shift, scale=scale, cosine=cosine, pad=pad, dropout_p=dropout_p
        )  # fmt: skip
    pieces = [
        checkpoint(
            window_attention, band, bias, window=window, shift=moved, scale=scale, cosine=cosine, pad=pad, dropout_p=dropout_p,
            use_reentrant=False,
        )
        for band, moved in _bands(qkv, window, shift, max(rows, 1) * window[0])
    ]  # fmt: skip
    if shift[0]:  # the first rows came last, on the other side of the seam
        pieces = [pieces[-1][:, : shift[0]], *pieces[:-1], pieces[-1][:, shift[0] :]]
    return torch.cat(pieces, dim=1)


def _bands(qkv: Tensor, window: Size, shift: Size, rows: int) -> Iterator[tuple[Tensor, Size]]:
    """Maps of some rows of windows each, and how far their windows move.

    All but the last lie between two window borders of the shifted map. The last row of windows is the one on the seam: it joins the
    last rows of the map with the first.
    """
    height, top = qkv.shape[1], shift[0]
    end = (-(-height // window[0]) - 1) * window[0] + top if top else height
    for start in range(top, end, rows):
        yield qkv[:, start : min(start + rows, end)], (0, shift[1])
    if top:
        yield torch.cat((qkv[:, :top], qkv[:, end:]), dim=1), shift
