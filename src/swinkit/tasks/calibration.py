"""How far a model's confidence can be believed: accuracy against confidence, in bins of equal width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CALIBRATION_BINS = 15
TICKS = 2**36
"""Confidences are summed as whole numbers of 1/TICKS: the sum is the same whatever the batches, up to 2**27 images in a bin."""


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose confidence lies in [lower, upper), the last bin's in [lower, 1]; all values from 0 to 1.

    `confidence` is their mean confidence, `accuracy` the part of them that is right; both are None in a bin without images.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


class Calibration:
    """Sums over batches: images, right answers and confidence of each bin, on the CPU."""

    def __init__(self, bins: int = CALIBRATION_BINS) -> None:
        self.bins = bins
        self._count = torch.zeros(bins, dtype=torch.int64)
        self._right = torch.zeros(bins, dtype=torch.int64)
        self._confidence = torch.zeros(bins, dtype=torch.int64)

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """Add a batch: confidence (B,) float64 from 0 to 1, right (B,) bool."""
        place = (confidence * self.bins).long().clamp(max=self.bins - 1)
        self._count += place.bincount(minlength=self.bins)
        self._right += place[right].bincount(minlength=self.bins)
        self._confidence.index_add_(0, place, (confidence * TICKS).round().long())

    def compute(self) -> tuple[CalibrationBin, ...]:
        """The bins, lowest confidence first."""
        sums = zip(self._count.tolist(), self._right.tolist(), self._confidence.tolist(), strict=True)
        return tuple(_bin(place, self.bins, *of_bin) for place, of_bin in enumerate(sums))


def _bin(place: int, bins: int, count: int, right: int, ticks: int) -> CalibrationBin:
    means = (ticks / TICKS / count, right / count) if count else (None, None)
    return CalibrationBin(place / bins, (place + 1) / bins, count, *means)


def expected_error(bins: Sequence[CalibrationBin]) -> float:
    """The expected calibration error, 0 to 1: how far accuracy is from confidence in a bin, averaged over images; 0 without images."""
    gaps = [one.count * abs(one.accuracy - one.confidence) for one in bins if one.accuracy is not None and one.confidence is not None]
    return sum(gaps) / max(sum(one.count for one in bins), 1)
