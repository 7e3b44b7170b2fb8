"""From the two sides' rates to one sentence."""

from __future__ import annotations

from collections.abc import Mapping

WORTH = 1.05
"""A change of workers is advised from this gain on; noise is of that size."""


def expected(loading: Mapping[int, float], training: float, workers: int, on_cpu: bool) -> float:
    """Images per second of training with so many workers, from the rates of its two sides alone.

    Without workers the two take turns. With workers a GPU runs beside them, while on the CPU they still share the processors.
    """
    if workers and not on_cpu:
        return min(loading[workers], training)
    return 1 / (1 / loading[workers] + 1 / training)


def verdict(loading: Mapping[int, float], training: float, asked: int, on_cpu: bool) -> str:
    """Which side is slower with the `asked` number of workers, and what to do.

    loading: workers -> images per second of the data; training: images per second of the model.
    """
    hopes = {workers: expected(loading, training, workers, on_cpu) for workers in loading}
    best = min(workers for workers, hope in hopes.items() if WORTH * hope >= max(hopes.values()))
    side = "data" if loading[asked] < training else "model"
    numbers = {"data": f"{loading[asked]:,.0f} images/s with --workers {asked}", "model": f"{training:,.0f} images/s"}
    other = "model" if side == "data" else "data"
    return f"The slower side is the {side}: {numbers[side]}, against {numbers[other]} of the {other}; {_advice(hopes, asked, best, side)}."


def _advice(hopes: Mapping[int, float], asked: int, best: int, side: str) -> str:
    if hopes[best] >= WORTH * hopes[asked]:
        return f"use --workers {best} (about {hopes[best]:,.0f} images/s together, instead of {hopes[asked]:,.0f})"
    if side == "data":
        return "other numbers of workers do not help: store the images at little more than the size trained on, or augment less"
    return f"the data keeps up (about {hopes[asked]:,.0f} images/s together)"
