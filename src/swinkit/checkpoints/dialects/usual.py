"""How images are prepared for published weights whose file does not say."""

from __future__ import annotations

from typing import Any

from swinkit.config import SwinConfig, pair

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION: dict[tuple[int, ...], int] = {
    (1, 96, 6): 232, (1, 96, 18): 246, (1, 128, 18): 238, (2, 96, 6): 260, (2, 96, 18): 260, (2, 128, 18): 272,
}  # fmt: skip
"""(version, channels, blocks of the third stage) -> what torchvision resizes the shorter side to before its centre crop of 224 or 256."""


def usual_preprocess(config: SwinConfig, dialect: str) -> dict[str, Any]:
    """`Preprocess.to_dict` of the evaluation that the weights were published with; empty for images that are not RGB.

    The originals crop nine tenths of the shorter side, and everything at 384 pixels and more (their main.py and configuration files).
    """
    if config.in_chans != 3:
        return {}
    size, stages = pair(config.img_size), (config.version, config.embed_dim, *config.depths[2:3])
    crop = 0.9 if max(size) < 384 else 1.0
    if dialect == "torchvision" and TORCHVISION.get(stages, 0) >= size[0]:
        crop = size[0] / TORCHVISION[stages]
    return {"size": list(size), "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), "interpolation": "bicubic", "crop_pct": crop}
