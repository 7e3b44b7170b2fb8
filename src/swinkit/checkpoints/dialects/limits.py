"""What a dialect cannot express of a model, so that its own code would compute other numbers: refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from swinkit.checkpoints.native import SavedModel
from swinkit.config import Size, SizePolicy, SwinConfig, pair


def reasons(saved: SavedModel, dialect: str) -> list[str]:
    """Why the peer's code cannot be this model; empty where it can."""
    return list(LIMITS[dialect](saved))


def _original(saved: SavedModel) -> Iterator[str]:
    config = saved.config
    yield from _square(config, "the original code")
    if saved.out_indices is None:
        yield from _other_sizes(config, "official", "the original classifier")
        for stage, (grid, window) in enumerate(zip(config.grids, config.windows, strict=True)):
            odd = stage + 1 < len(config.depths) and (grid[0] % 2 or grid[1] % 2)
            if odd or grid[0] % window[0] or grid[1] % window[1]:
                yield (
                    f"stage {stage}'s map of {grid[0]} x {grid[1]} tokens is no multiple of its window {window[0]} x {window[1]} or of 2, "
                    "and the original classifier pads nothing"
                )
    elif config.version == 2:
        yield "it is a V2 backbone, which the original detection code has not"
    yield from _unnormed_backbone(saved, "the original detection code norms every map")


def _timm(saved: SavedModel) -> Iterator[str]:
    config = saved.config
    yield from _classifier_only(saved, "timm")
    yield from _no_position(config, "timm")
    yield from _standard_scale(config, "timm")
    if not config.patch_norm:
        yield "there is no norm after the patch embedding, which timm always has"
    if config.size_policy != "dense":
        yield from _other_sizes(config.replace(window_size=list(config.windows)), "per_axis", "timm")
        if any(w > g for sizes in zip(config.grids, config.windows, strict=True) for g, w in zip(*sizes, strict=True)):
            yield "a window is larger than its map, to which timm shrinks it"
    for stage, (grid, window) in enumerate(zip(config.grids, config.windows, strict=True)):
        if any(side % part for side, part in zip(grid, window, strict=True)):
            yield (
                f"stage {stage}'s map of {grid[0]} x {grid[1]} tokens is no multiple of its window {window[0]} x {window[1]}, where timm "
                "pads after the shift and lets tokens of opposite edges see each other"
            )


def _torchvision(saved: SavedModel) -> Iterator[str]:
    config = saved.config
    yield from _classifier_only(saved, "torchvision")
    yield from _no_position(config, "torchvision")
    yield from _standard_scale(config, "torchvision")
    if config.in_chans != 3:
        yield f"the images have {config.in_chans} channels and torchvision's stem takes 3"
    if not config.num_classes:
        yield "there is no classifier, which torchvision always has"
    if not config.patch_norm:
        yield "there is no norm after the patch embedding, which torchvision always has"
    if not config.qkv_bias:
        yield "queries and values have no bias, which torchvision's always have"
    if sum(config.depths) == 1:
        yield "it has one block, and torchvision divides by the number of blocks less one"
    if config.version == 2 and config.pretrained_windows != config.windows:
        yield "its window differs from the one it was pretrained with, and torchvision's V2 knows one window only"
    if len(set(config.windows)) > 1:
        yield f"the stages have different windows ({_windows(config)}) and torchvision has one for all"
    yield from _other_sizes(config, "per_axis", "torchvision")


def _transformers(saved: SavedModel) -> Iterator[str]:
    config = saved.config
    backbone = saved.out_indices is not None
    yield from _standard_scale(config, "transformers")
    if not config.patch_norm:
        yield "there is no norm after the patch embedding, which transformers always has"
    if config.version == 2 and config.ape:
        yield "it has an absolute position embedding, with which transformers' V2 does not run"
    if len({side for window in config.asked_windows for side in window}) > 1:
        yield f"its windows ({_windows(config)}) are not one square for all stages, which is all that transformers' window_size can say"
    elif config.version == 1 and set(config.windows) != {config.asked_windows[0]}:
        yield "a window shrank to its map, and transformers' V1 keeps the bias table of the whole window"
    if config.version == 2 and (_oblong(config.img_size) or any(h != w for h, w in config.pretrained_windows)):
        yield "image or pretraining window are not square, where transformers' V2 uses one side for both"
    yield from _floored_maps(config) if config.version == 2 else ()
    yield from _padded_image(config, "transformers")
    if backbone and config.version == 1:
        yield from _unnormed_backbone(saved, "transformers' SwinBackbone norms every map")
    else:
        yield from _other_sizes(config, "official", "transformers")


def _mmpretrain(saved: SavedModel) -> Iterator[str]:
    config = saved.config
    yield from _classifier_only(saved, "mmpretrain", "mmdet is the layout for backbones")
    if config.size_policy == "dense":
        yield "its size policy is dense, by which mmpretrain's one last norm is read as a backbone's"
    if _windows_oblong(config):
        yield f"its windows ({_windows(config)}) are not squares, which is all that mmpretrain has"
    yield from _padded_image(config, "mmpretrain")
    yield from _other_sizes(config.replace(window_size=list(config.windows)), "official", "mmpretrain")


def _mmdet(saved: SavedModel) -> Iterator[str]:
    config = saved.config
    if config.version == 2:
        yield "mmdetection and mmsegmentation have no Swin V2"
    if saved.out_indices is None:
        yield 'mmdetection and mmsegmentation have backbones only: load it with features_only=True and size_policy="dense" and save that'
    elif config.size_policy != "dense":
        yield f"its size policy is {config.size_policy}; the backbones of mmdetection and mmsegmentation are dense"
    if len(set(config.asked_windows)) > 1 or _windows_oblong(config):
        yield f"its windows ({_windows(config)}) are not one square for all stages, which is all that they have"


LIMITS: dict[str, Callable[[SavedModel], Iterator[str]]] = {
    "original": _original,
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "mmpretrain": _mmpretrain,
    "mmdet": _mmdet,
}
"""dialect -> the reasons against it."""


def _square(config: SwinConfig, who: str) -> Iterator[str]:
    if _windows_oblong(config) or len(set(config.asked_windows)) > 1:
        yield f"its windows ({_windows(config)}) are not one square for all stages, which is all that {who} has"


def _classifier_only(
    saved: SavedModel, who: str, otherwise: str = "original, transformers and mmdet have layouts for backbones"
) -> Iterator[str]:
    if saved.out_indices is not None:
        yield f"it is a backbone, and {who}'s layout is a classifier's; {otherwise}"


def _no_position(config: SwinConfig, who: str) -> Iterator[str]:
    if config.ape:
        yield f"it has an absolute position embedding, which {who} has not"


def _standard_scale(config: SwinConfig, who: str) -> Iterator[str]:
    if config.qk_scale is not None:
        yield f"its qk_scale is {config.qk_scale}, and {who} has head_dim ** -0.5 only"


def _unnormed_backbone(saved: SavedModel, but: str) -> Iterator[str]:
    if saved.out_indices is not None and saved.config.size_policy != "dense":
        yield f"it is a backbone whose maps are not normed, and {but}"


def _padded_image(config: SwinConfig, who: str) -> Iterator[str]:
    image, patch = pair(config.img_size), pair(config.patch_size)
    if config.floors(image) and (image[0] % patch[0] or image[1] % patch[1]):
        yield f"the image of {image[0]} x {image[1]} pixels is no multiple of its patches: the rest is left out here, and {who} pads it"


def _floored_maps(config: SwinConfig) -> Iterator[str]:
    """transformers' V2 rounds odd maps down when it chooses windows, although merging rounds them up."""
    for stage, (grid, window) in enumerate(zip(config.grids, config.windows, strict=True)):
        side = config.grids[0][0] // 2**stage
        theirs = min(side, config.asked_windows[stage][0])
        if (theirs, side <= theirs) != (window[0], any(config.drop_shift(grid, window))):
            yield (
                f"stage {stage} has an odd map before it, after which transformers' V2 takes its {grid[0]} x {grid[1]} tokens for "
                f"{side} x {side} and chooses another window or shift"
            )


def _other_sizes(config: SwinConfig, policy: SizePolicy, who: str) -> Iterator[str]:
    """Whether windows or shifts at img_size come out otherwise under the policy that the peer follows."""
    theirs = config.replace(size_policy=policy)
    for stage, (grid, window) in enumerate(zip(config.grids, config.windows, strict=True)):
        if (window, config.drop_shift(grid, window)) != (theirs.windows[stage], theirs.drop_shift(grid, theirs.windows[stage])):
            yield (
                f"window {window[0]} x {window[1]} covers a side of stage {stage}'s map of {grid[0]} x {grid[1]} tokens, which {who} "
                f"treats in another way than the size policy {config.size_policy}"
            )


def _oblong(size: int | Size) -> bool:
    height, width = pair(size)
    return height != width


def _windows_oblong(config: SwinConfig) -> bool:
    return any(h != w for h, w in config.asked_windows)


def _windows(config: SwinConfig) -> str:
    return ", ".join(f"{h} x {w}" for h, w in dict.fromkeys(config.windows))
