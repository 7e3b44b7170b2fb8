"""What lies inside a model: the learned position bias as heat maps, feature maps as colours, and the effective receptive field.

K heads | M window side | C channels | H W token grid
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swinkit.config import Size, pair
from swinkit.errors import InputError
from swinkit.explain.recording import Place, twin
from swinkit.kernels import choose
from swinkit.model import SwinTransformer, log_spaced_offsets

Floats = NDArray[np.float64]


def position_bias(model: SwinTransformer, place: Place, window: Size | None = None) -> Floats:
    """(K, 2M - 1, 2M - 1): what a head adds to the score by where the key lies from the query; the middle is the query itself.

    [k, M - 1 + dy, M - 1 + dx] is the bias for a key dy rows below and dx columns right of its query.
    window: (M, M) of another size: V2's bias is a function of the offset and has values for any; V1's table does not.
    Errors: InputError for a block that is not there, and for another window of a V1 model.
    """
    attention = _attention(model, place)
    own = attention.window
    wanted = own if window is None else window
    if attention.version == 1 and wanted != own:
        raise InputError(f"V1's bias is a table for windows of {own[0]} x {own[1]}; for {wanted[0]} x {wanted[1]}, resize the model first.")
    with torch.no_grad():
        table = attention.relative_position_bias_table if attention.version == 1 else _continuous(attention, wanted)
        maps = table.cpu().double().T.unflatten(1, (2 * wanted[0] - 1, 2 * wanted[1] - 1))
    # The model's offset is from the key to the query; seen from the query, the key lies the other way.
    seen: Floats = maps.flip(1, 2).cpu().numpy()
    return seen


def _continuous(attention: Any, window: Size) -> Tensor:
    """((2M-1)^2, K): V2's MLP over all offsets of a window, in units of the window that it was trained for (V2 equation 3 and 4)."""
    offsets = log_spaced_offsets(window, attention.trained_window).to(attention.logit_scale)
    table: Tensor = 16 * attention.cpb_mlp(offsets).sigmoid()
    return table


def _attention(model: SwinTransformer, place: Place) -> Any:
    depths = model.config.depths
    if not (0 <= place[0] < len(depths) and 0 <= place[1] < depths[place[0]]):
        raise InputError(f"There is no block {place[0]}.{place[1]} (stage.block, from 0); the stages have {depths} blocks.")
    return model.layers[place[0]].blocks[place[1]].attn


def as_colours(features: Tensor) -> Floats:
    """(H, W, C) -> (H, W, 3) in [0, 1]: the three strongest principal components as red, green and blue.

    Like colours mean like features within this map; the colours of two maps have nothing to do with each other.
    """
    flat = features.cpu().double().flatten(0, 1)
    flat = flat - flat.mean(0)
    _, _, axes = torch.linalg.svd(flat, full_matrices=False)
    axes = axes[:3]
    # A component has no sign of its own: make the largest loading positive.
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    values = flat @ (axes * signs).T
    low, high = (values.quantile(q, dim=0) for q in (0.01, 0.99))
    colours = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    # A map of one or two tokens has fewer components.
    whole: Tensor = torch.nn.functional.pad(colours, (0, 3 - colours.shape[1])).unflatten(0, features.shape[:2])
    return np.asarray(whole.cpu(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """`values` (height, width) >= 0, sum one: the share of each input pixel in the gradient of the middle token of the last map."""

    values: Floats
    centre: tuple[float, float]
    """(y, x) in pixels of the middle of that token: not the picture's, where a map has an even number of tokens."""

    def side(self, share: float = 0.5) -> int:
        """The side in pixels of the smallest square around `centre` that holds this share of the gradient; it may reach over the edge."""
        longest = int(2 * max(self.values.shape))
        for side in range(1, longest):
            top, left = (round(centre - side / 2) for centre in self.centre)
            if float(self.values[max(top, 0) : top + side, max(left, 0) : left + side].sum()) >= share:
                return side
        return longest


def receptive_field(model: SwinTransformer, x: Tensor) -> ReceptiveField:
    """(B, C, height, width) -> the effective receptive field (Luo et al. 2016), averaged over the B pictures.

    The gradient of the middle token of the last map (its channels weighted at random, always alike) with respect to the pixels: its size,
    summed over colours. One picture's is noisy; see `variations`. Errors: InputError for a picture that does not fit.
    """
    model.config.check_input(x.shape, x.is_floating_point())
    watched, total, grid = twin(model), np.zeros(x.shape[2:]), (1, 1)
    for one in x:
        pixels = one[None].detach().clone().requires_grad_()
        with torch.enable_grad():
            features = watched.forward_intermediates(pixels, 1, output_fmt="NHWC")[0]
            grid = (features.shape[1], features.shape[2])
            middle = watched.norm(features)[0, grid[0] // 2, grid[1] // 2]
            # After a LayerNorm without scale, channels sum to a constant; fixed random weights see all of them.
            weights = torch.randn(len(middle), generator=torch.Generator().manual_seed(0)).to(middle)
            (gradient,) = torch.autograd.grad((middle * weights).sum(), pixels)
        total += gradient[0].cpu().double().abs().sum(0).numpy()
    side = [patch * 2 ** (len(model.layers) - 1) for patch in pair(model.config.patch_size)]
    y, across = (_middle(length // 2 * own, own, whole) for length, own, whole in zip(grid, side, total.shape, strict=True))
    return ReceptiveField(total / max(total.sum(), 1e-300), (y, across))


def _middle(start: int, length: int, whole: int) -> float:
    """Of a token that starts at a pixel, as far as it lies on the picture."""
    return (start + min(start + length, whole)) / 2


def variations(x: Tensor) -> Tensor:
    """(1, C, height, width) -> (8, C, height, width): a picture and its mirror images, and those moved by half around the edges."""
    mirrored = [x, x.flip(3), x.flip(2), x.flip(2, 3)]
    moved = [one.roll((x.shape[2] // 2, x.shape[3] // 2), dims=(2, 3)) for one in mirrored]
    return torch.cat([*mirrored, *moved])


def randomly_initialised(model: SwinTransformer, seed: int = 0) -> SwinTransformer:
    """A new model of the same architecture, in eval mode, on the same device and in the same dtype; torch's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = SwinTransformer(model.config, choose().attend).eval()
    return new.to(model.norm.weight)
