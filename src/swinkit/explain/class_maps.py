"""Where the evidence for a class lies: class activation, Grad-CAM, Integrated Gradients (through captum) and occlusion.

B batch | C channels | H W token grid
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from swinkit.config import Size, pair
from swinkit.errors import ConfigError, InputError
from swinkit.explain.recording import check_one, twin
from swinkit.model import SwinTransformer

Floats = NDArray[np.float64]


class _AsChannelsFirst(nn.Module):
    """(B, H, W, C) -> the same; `maps` sees it as (B, C, H, W), the layout that captum averages over."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.maps(x.permute(0, 3, 1, 2))
        return seen.permute(0, 2, 3, 1)


def class_activation(model: SwinTransformer, x: Tensor, target: int) -> Floats:
    """(1, C, height, width) -> (height, width): what each place of the last map adds to the logit of a class, >= 0.

    Class activation mapping (Zhou et al. 2016). Swin averages its last map before a linear head, so this equals Grad-CAM at the last norm
    up to a factor, without a backward pass and without captum. Errors: InputError for a class or a picture that does not fit.
    """
    _check(model, x, target)
    with torch.no_grad():
        features = (model if not model.training else twin(model)).forward_features(x)[0]
        head: Any = model.head
        evidence = features.cpu().double() @ head.weight[target].cpu().double()  # some GPUs have no float64
    return upsampled(evidence.relu(), stride(model, len(model.layers) - 1), (x.shape[2], x.shape[3]))


def grad_cam(model: SwinTransformer, x: Tensor, target: int, stage: int | None = None) -> Floats:
    """(1, C, height, width) -> (height, width) >= 0: Grad-CAM (Selvaraju et al. 2017) by captum.

    stage: the map before merging of a stage from 0; None: the map after the last norm. Any input size: tokens that lie on padding are cut
    off with it. Errors: ConfigError without captum; InputError for a class, a stage or a picture that does not fit.
    """
    _check(model, x, target)
    watched, layer = twin(model), _AsChannelsFirst()
    last = len(model.layers) - 1
    if stage is None:
        watched.norm = nn.Sequential(watched.norm, layer)  # type: ignore[assignment]
    elif 0 <= stage <= last:
        watched.layers[stage].blocks.append(layer)
    else:
        raise InputError(f"There is no stage {stage}; this model has stages 0 to {last}.")
    # Gradients of the picture: the weights may be frozen.
    pixels = x.detach().clone().requires_grad_()
    attribution = _captum("LayerGradCam")(watched, layer.maps).attribute(pixels, target=target, relu_attributions=True)
    return upsampled(attribution[0, 0].detach().cpu().double(), stride(model, last if stage is None else stage), (x.shape[2], x.shape[3]))


def integrated_gradients(model: SwinTransformer, x: Tensor, target: int, steps: int = 32) -> tuple[Floats, float]:
    """(1, C, height, width) -> ((height, width), remainder): Integrated Gradients (Sundararajan et al. 2017) by captum, from zeros.

    Zeros are the mean colour of the data. Values are summed over channels and have signs; all of them add up to the difference of the
    class's logit between the picture and the zeros, but for the remainder, which shrinks with `steps`.
    Errors: as of `grad_cam`.
    """
    _check(model, x, target)
    method = _captum("IntegratedGradients")(twin(model))
    values, delta = method.attribute(x, target=target, n_steps=steps, internal_batch_size=_at_once(x), return_convergence_delta=True)
    return values[0].detach().cpu().double().sum(0).numpy(), float(delta[0])


def occlusion(
    model: SwinTransformer, x: Tensor, target: int, window: int | Size | None = None, on_batch: Callable[[int, int], None] | None = None
) -> Floats:
    """(1, C, height, width) -> (height, width): how much the probability of a class falls where a rectangle hides the picture.

    The rectangle has the mean colour of the data, (height, width) pixels of `window` (None: a quarter of each side) and moves by half of
    itself; a pixel gets the mean over the rectangles on it (Zeiler and Fergus 2014). Errors: InputError for a window that does not fit.
    """
    _check(model, x, target)
    image = (x.shape[2], x.shape[3])
    side = pair(window) if window is not None else (max(image[0] // 4, 1), max(image[1] // 4, 1))
    if not all(0 < own <= length for own, length in zip(side, image, strict=True)):
        raise InputError(
            f"The occluding window is {side[0]} x {side[1]} pixels; expected 1 x 1 up to the picture's {image[0]} x {image[1]}."
        )
    places = list(_places(image, side))
    drops = _drops(twin(model), x, target, places, on_batch or (lambda _done, _total: None))
    total, count = np.zeros(image), np.zeros(image)
    for place, drop in zip(places, drops, strict=True):
        total[place] += drop
        count[place] += 1
    return total / count


def _places(image: Size, side: Size) -> Iterator[tuple[slice, slice]]:
    """Rectangles of `side` at every half side, the last at the edge."""
    starts = [sorted({*range(0, length - own, max(own // 2, 1)), length - own}) for length, own in zip(image, side, strict=True)]
    return ((slice(y, y + side[0]), slice(x, x + side[1])) for y in starts[0] for x in starts[1])


def _drops(
    model: SwinTransformer, x: Tensor, target: int, places: list[tuple[slice, slice]], on_batch: Callable[[int, int], None]
) -> list[float]:
    with torch.no_grad():
        whole = float(model(x).cpu().double().softmax(1)[0, target])
        left: list[float] = []
        for start in range(0, len(places), _at_once(x)):
            chosen = places[start : start + _at_once(x)]
            hidden = x.repeat(len(chosen), 1, 1, 1)
            for one, (rows, columns) in zip(hidden, chosen, strict=True):
                one[:, rows, columns] = 0
            left += model(hidden).cpu().double().softmax(1)[:, target].tolist()
            on_batch(len(left), len(places))
    return [whole - one for one in left]


def upsampled(tokens: Tensor, side: Size, image: Size) -> Floats:
    """(H, W) -> (height, width): bilinear, over the area that tokens of `side` pixels cover, cut to the picture."""
    whole = (tokens.shape[0] * side[0], tokens.shape[1] * side[1])
    smooth = F.interpolate(tokens[None, None], size=whole, mode="bilinear", align_corners=False)[0, 0]
    rest = (0, max(0, image[1] - whole[1]), 0, max(0, image[0] - whole[0]))
    return F.pad(smooth[: image[0], : image[1]], rest).cpu().numpy()


def stride(model: SwinTransformer, stage: int) -> Size:
    """(height, width) in pixels of a token of a stage."""
    patch = pair(model.config.patch_size)
    return patch[0] * 2**stage, patch[1] * 2**stage


def _at_once(x: Tensor) -> int:
    """Pictures in a batch of bounded memory: 32 of 224 x 224."""
    return max(1, 32 * 224 * 224 // (x.shape[2] * x.shape[3]))


def _check(model: SwinTransformer, x: Tensor, target: int) -> None:
    check_one(model, x)
    if not 0 <= target < model.num_classes:
        raise InputError(f"There is no class {target}; this model has {model.num_classes} classes, numbered from 0.")


def _captum(name: str) -> Any:
    try:
        attr = importlib.import_module("captum.attr")
    except ImportError:
        raise ConfigError(f"{name} needs captum, which is missing: pip install 'swinkit[explain]'.") from None
    return getattr(attr, name)
