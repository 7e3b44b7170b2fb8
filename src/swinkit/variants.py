"""Every Swin by name: published architectures, and presets for small images.

Names are the field's: size, patch, window and image size. A suffix `_in22k`, or timm's tag `.ms_in22k`, gives the 21,841-class head, which
is the only one that `swinv2_*_window12_192` was published with.
Sources: the configuration files of microsoft/Swin-Transformer (V1, V2), AutoFormerV2 through timm (S3). `drop_path_rate` is the one each
was trained with.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from swinkit.config import SwinConfig
from swinkit.errors import UnknownNameError

IN1K, IN22K = 1000, 21841
TAG_CLASSES = {"ms_in1k": IN1K, "ms_in22k": IN22K, "ms_in22k_ft_in1k": IN1K}
"""timm's weight tags -> classes of their head."""

T: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
S: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
B: dict[str, Any] = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
L: dict[str, Any] = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
W12_384: dict[str, Any] = {"img_size": 384, "window_size": 12}
V2: dict[str, Any] = {"version": 2, "img_size": 256}
W12_192: dict[str, Any] = {"version": 2, "img_size": 192, "window_size": 12, "num_classes": IN22K, "drop_path_rate": 0.2}
FROM_W12: dict[str, Any] = {"version": 2, "pretrained_window_sizes": (12, 12, 12, 6)}

PUBLISHED: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": T | {"drop_path_rate": 0.2},
    "swin_small_patch4_window7_224": S | {"drop_path_rate": 0.3},
    "swin_base_patch4_window7_224": B | {"drop_path_rate": 0.5},
    "swin_large_patch4_window7_224": L | {"drop_path_rate": 0.2},
    "swin_base_patch4_window12_384": B | W12_384 | {"drop_path_rate": 0.5},
    "swin_large_patch4_window12_384": L | W12_384 | {"drop_path_rate": 0.2},
    "swin_tiny_c24_patch4_window8_256": T | {"num_heads": (4, 8, 16, 32), "img_size": 256, "window_size": 8, "drop_path_rate": 0.2},
    "swin_s3_tiny_224": T | {"window_size": [7, 7, 14, 7]},
    "swin_s3_small_224": S | {"window_size": [14, 14, 14, 7]},
    "swin_s3_base_224": T | {"depths": (2, 2, 30, 2), "window_size": [7, 7, 14, 7]},
    "swinv2_tiny_window8_256": T | V2 | {"window_size": 8, "drop_path_rate": 0.2},
    "swinv2_small_window8_256": S | V2 | {"window_size": 8, "drop_path_rate": 0.3},
    "swinv2_base_window8_256": B | V2 | {"window_size": 8, "drop_path_rate": 0.5},
    "swinv2_tiny_window16_256": T | V2 | {"window_size": 16, "drop_path_rate": 0.2},
    "swinv2_small_window16_256": S | V2 | {"window_size": 16, "drop_path_rate": 0.3},
    "swinv2_base_window16_256": B | V2 | {"window_size": 16, "drop_path_rate": 0.5},
    "swinv2_base_window12_192": B | W12_192,
    "swinv2_large_window12_192": L | W12_192,
    "swinv2_base_window12to16_192to256": B | FROM_W12 | {"img_size": 256, "window_size": 16, "drop_path_rate": 0.2},
    "swinv2_large_window12to16_192to256": L | FROM_W12 | {"img_size": 256, "window_size": 16, "drop_path_rate": 0.2},
    "swinv2_base_window12to24_192to384": B | FROM_W12 | {"img_size": 384, "window_size": 24, "drop_path_rate": 0.2},
    "swinv2_large_window12to24_192to384": L | FROM_W12 | {"img_size": 384, "window_size": 24, "drop_path_rate": 0.2},
}

PUBLISHED_22K: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"drop_path_rate": 0.1},
    "swin_small_patch4_window7_224": {"drop_path_rate": 0.2},
    "swin_base_patch4_window7_224": {"drop_path_rate": 0.2},
    "swin_large_patch4_window7_224": {"drop_path_rate": 0.2},
    "swin_base_patch4_window12_384": {"drop_path_rate": 0.2},
    "swin_large_patch4_window12_384": {"drop_path_rate": 0.2},
}
"""Also published with a 22k head -> what differs then."""

TAGS: dict[str, tuple[str, ...]] = {
    "swin_tiny_patch4_window7_224": ("ms_in1k", "ms_in22k_ft_in1k", "ms_in22k"),
    "swin_small_patch4_window7_224": ("ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"),
    "swin_base_patch4_window7_224": ("ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"),
    "swin_large_patch4_window7_224": ("ms_in22k_ft_in1k", "ms_in22k"),
    "swin_base_patch4_window12_384": ("ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"),
    "swin_large_patch4_window12_384": ("ms_in22k_ft_in1k", "ms_in22k"),
    "swinv2_base_window12_192": ("ms_in22k",),
    "swinv2_large_window12_192": ("ms_in22k",),
} | {name: ("ms_in22k_ft_in1k",) for name in PUBLISHED if "12to" in name}
"""name -> the tags that weights were published under, first the one that is meant without a tag (timm's choice); the others have ms_in1k
alone."""

# Presets for small images, ours; pico has two blocks in every stage. The narrow ones have 8 channels per head: more heads see more
# neighbourhoods, which counts for more there.
PX28: dict[str, Any] = {"img_size": 28, "patch_size": 2, "window_size": 7, "depths": (2, 4)}  # maps 14, 7
PX32: dict[str, Any] = {"img_size": 32, "patch_size": 2, "window_size": 4, "depths": (2, 4, 2)}  # maps 16, 8, 4
PX32_FINE: dict[str, Any] = {"img_size": 32, "patch_size": 1, "window_size": 4, "depths": (2, 2, 4, 2)}  # maps 32, 16, 8, 4
PX64: dict[str, Any] = {"img_size": 64, "patch_size": 2, "window_size": 4, "depths": (2, 2, 4, 2)}  # maps 32, 16, 8, 4
PX96: dict[str, Any] = {"img_size": 96, "patch_size": 2, "window_size": 6, "depths": (2, 2, 6, 2)}  # maps 48, 24, 12, 6
SMALL_SIZES = {
    "patch2_window7_28": PX28,
    "patch2_window4_32": PX32,
    "patch1_window4_32": PX32_FINE,
    "patch2_window4_64": PX64,
    "patch2_window6_96": PX96,
}
SMALL_WIDTHS = {"pico": (32, 8), "nano": (48, 8), "mini": (32, 16), "micro": (64, 16)}
"""name -> channels of the first stage, channels per head"""


def _small() -> dict[str, dict[str, Any]]:
    table = {}
    for version, family in ((1, "swin"), (2, "swinv2")):
        for width, (dim, head_dim) in SMALL_WIDTHS.items():
            for geometry, size in SMALL_SIZES.items():
                depths = (2,) * len(size["depths"]) if width == "pico" else size["depths"]
                heads = tuple(dim // head_dim * 2**stage for stage in range(len(depths)))
                table[f"{family}_{width}_{geometry}"] = size | {"version": version, "embed_dim": dim, "depths": depths, "num_heads": heads}
    return table


VARIANTS: dict[str, dict[str, Any]] = (
    PUBLISHED | {f"{name}_in22k": PUBLISHED[name] | {"num_classes": IN22K} | change for name, change in PUBLISHED_22K.items()} | _small()
)
"""name -> the fields of its SwinConfig that are not the defaults."""


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell `pattern` such as "swinv2_*_256", sorted; none may match, which is no error."""
    return sorted(name for name in VARIANTS if fnmatchcase(name, pattern))


def tags_of(name: str) -> tuple[str, ...]:
    """The weight tags of a named model, first the default; none for presets."""
    return TAGS.get(name, ("ms_in1k",) if name in PUBLISHED else ())


def get_config(name: str) -> SwinConfig:
    """The configuration of a named model, with or without one of timm's weight tags after a dot.

    Errors: UnknownNameError with the close matches.
    """
    name, _, tag = name.partition(".")
    if name not in VARIANTS:
        raise UnknownNameError("model", name, VARIANTS, hint="`swinkit models` lists them all.")
    if tag and tag not in tags_of(name):
        raise UnknownNameError(f"weight tag of {name}", tag, tags_of(name))
    if TAG_CLASSES.get(tag) == IN22K and f"{name}_in22k" in VARIANTS:
        name = f"{name}_in22k"
    return SwinConfig(**VARIANTS[name])
