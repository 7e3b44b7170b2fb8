"""What speaks for a class, patch by patch, in a few passes and without captum: for overlays and reports.

On the trained model of benchmarks/results/faithfulness.md this finds what the model needs, and Grad-CAM at the last map does not.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from swinkit.config import Size, pair
from swinkit.errors import InputError
from swinkit.explain.recording import check_one, twin
from swinkit.model import SwinTransformer

Floats = NDArray[np.float64]


def evidence(model: SwinTransformer, x: Tensor, target: int, steps: int = 4) -> Floats:
    """(1, C, height, width) -> (height, width): what each patch adds to the logit of a class, positive for it, negative against it.

    Integrated Gradients (Sundararajan et al. 2017) from zeros, the mean colour of the data, by the midpoint rule with `steps` steps, summed
    over channels and averaged over each patch of the model: single pixels are noise to people. All values add up to the difference of the
    logit between the picture and zeros, the better the more steps. Nothing is written to the model.
    Errors: InputError for a class or a picture that does not fit.
    """
    check_one(model, x)
    if not 0 <= target < model.num_classes:
        raise InputError(f"There is no class {target}; this model has {model.num_classes} classes, numbered from 0.")
    watched, total = twin(model), torch.zeros_like(x[0])
    shares = (torch.arange(steps, device=x.device) + 0.5) / steps
    for some in shares.split(max(1, 8 * 224 * 224 // (x.shape[2] * x.shape[3]))):
        with torch.enable_grad():
            pixels = (x.detach() * some.view(-1, 1, 1, 1).to(x)).requires_grad_()
            (gradients,) = torch.autograd.grad(watched(pixels)[:, target].sum(), pixels)
        total += gradients.sum(0)
    values = (total / steps * x[0].detach()).cpu().double().sum(0)
    return by_patch(values, pair(model.config.patch_size))


def by_patch(values: Tensor, patch: Size) -> Floats:
    """(height, width) -> the same with the mean over each patch in place of its pixels; the last patches may be cut."""
    means = F.avg_pool2d(values[None], patch, ceil_mode=True, count_include_pad=False)[0]
    whole = means.repeat_interleave(patch[0], 0).repeat_interleave(patch[1], 1)
    return np.asarray(whole[: values.shape[0], : values.shape[1]], dtype=np.float64)
