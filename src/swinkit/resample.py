"""Tables of numbers in another size: what `resize` computes, one function per kind.

Half precision is computed in float32 and rounded once; what needs an inverse is computed in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swinkit.config import Size


def bicubic(maps: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) -> (B, C, *size): F.interpolate without aligned corners and without antialiasing."""
    return F.interpolate(_wide(maps), size=size, mode="bicubic").to(maps.dtype)


def geometric(maps: Tensor, size: Size) -> Tensor:
    """(B, K, 2h-1, 2w-1) of a window (h, w) -> (B, K, *size): a cubic spline through values at positions in geometric progression.

    On each axis the old offsets 0, 1, 2, 3 ... are put at 0, 1, 1+q, 1+q+q^2 ... and mirrored, with q such that the longest reaches the
    longest new one; the new values are those of the spline at the whole numbers. In a smaller window q is 1: the middle of the table.
    """
    wide = _wide(maps)
    rows, columns = (_geometric_weights(old, new).to(wide) for old, new in zip(maps.shape[2:], size, strict=True))
    return (rows @ wide @ columns.T).to(maps.dtype)


def _geometric_weights(old: int, new: int) -> Tensor:
    """(new, old) float64: how much each old offset counts for each new one, on one axis."""
    reach, wanted = old // 2, new // 2
    half = (progression(reach, wanted) ** torch.arange(reach, dtype=torch.float64, device="cpu")).cumsum(0)
    positions = torch.cat((-half.flip(0), half.new_zeros(1), half))
    return spline_weights(positions, torch.arange(-wanted, wanted + 1, dtype=torch.float64, device="cpu"))


def progression(terms: int, total: int) -> float:
    """The q of at least 1 for which 1 + q + ... + q^(terms-1) is `total`; 1 where there is none."""
    if terms < 2 or total <= terms:
        return 1.0
    low, high = 1.0, float(total)
    for _ in range(100):
        q = (low + high) / 2
        low, high = (low, q) if sum(q**term for term in range(terms)) > total else (q, high)
    return low


def spline_weights(known: Tensor, asked: Tensor) -> Tensor:
    """(asked, known) float64: the values of the interpolating cubic spline at `asked`, as weights of the values at the n `known` positions.

    The spline is "not a knot": the second and the last but one position are no knots. Below four positions it is the polynomial through
    all of them. Beyond the ends it keeps the end's value.
    """
    degree = min(3, len(known) - 1)
    if degree == 0:
        return known.new_ones(len(asked), 1)
    knots = torch.cat((known[:1].expand(degree + 1), known[2:-2], known[-1:].expand(degree + 1)))
    asked = asked.clamp(known[0], known[-1])
    weights: Tensor = torch.linalg.solve(_basis(known, knots, degree), _basis(asked, knots, degree), left=False)
    return weights


def _basis(x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """(len(x), len(knots) - degree - 1): the B-splines over `knots`, by the recursion of Cox and de Boor."""
    interval = torch.bucketize(x, knots, right=True).sub(1).clamp(degree, len(knots) - degree - 2)
    basis, x = F.one_hot(interval, len(knots) - 1).to(x), x[:, None]
    for d in range(1, degree + 1):
        width = knots[d:] - knots[:-d]
        rising = torch.where(width > 0, (x - knots[:-d]) / width.clamp(min=1e-300), 0.0)
        falling = torch.where(width > 0, (knots[d:] - x) / width.clamp(min=1e-300), 0.0)
        basis = rising[:, :-1] * basis[:, :-1] + falling[:, 1:] * basis[:, 1:]
    return basis


def resize_patch_kernel(kernel: Tensor, patch: Size) -> Tensor:
    """(C, in_chans, h, w) -> (C, in_chans, *patch): the kernel whose answer to a resized patch is closest to the old one's to the patch.

    Pseudo-inverse resize (FlexiViT, arXiv 2303.03013, equation 4). A larger kernel gives the very same answers to patches that were
    resized (bicubic, antialiased).
    """
    old = (kernel.shape[2], kernel.shape[3])
    if old == patch:
        return kernel
    pixels = torch.eye(old[0] * old[1], dtype=torch.float64, device="cpu").unflatten(1, old)[:, None]
    resized = F.interpolate(pixels, size=patch, mode="bicubic", antialias=True).flatten(1)  # old pixels, new pixels
    wide = _wide(kernel)
    new: Tensor = (wide.flatten(2) @ torch.linalg.pinv(resized).T.to(wide)).unflatten(2, patch)
    return new.to(kernel.dtype)


def adapt_channels(kernel: Tensor, in_chans: int) -> Tensor:
    """(C, n, h, w) -> (C, in_chans, h, w): one channel gets the sum of all; more or fewer repeat them in turn, times n / in_chans.

    So a grey image means what it meant three times over in RGB, and answers keep their magnitude. timm's `adapt_input_conv`, from any n.
    """
    old = kernel.shape[1]
    if in_chans == old:
        return kernel
    wide = _wide(kernel)
    if in_chans == 1:
        return wide.sum(1, keepdim=True).to(kernel.dtype)
    return (wide[:, torch.arange(in_chans, device=wide.device) % old] * (old / in_chans)).to(kernel.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
