"""What a Swin Transformer of a configuration holds: names and shapes, and the constants that some dialects store beside the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from swinkit.config import Size, SwinConfig
from swinkit.model import SwinTransformer, log_spaced_offsets, relative_position_index, seam_mask, seam_sides

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: SwinConfig, out_indices: Sequence[int] | None = None) -> Shapes:
    """Our names -> shapes, of a classifier, or of a backbone that returns the maps of the stages in `out_indices`."""
    shapes = dict(_of_classifier(config))
    if out_indices is None:
        return shapes
    last = max(out_indices)
    shapes = {name: shape for name, shape in shapes.items() if _in_backbone(name, last)}
    if config.size_policy == "dense":
        for stage in out_indices:
            shapes |= {f"norm{stage}.weight": (config.dims[stage],), f"norm{stage}.bias": (config.dims[stage],)}
        if config.ape:
            shapes["absolute_pos_embed"] = (1, config.embed_dim, *config.grids[0])
    return shapes


@lru_cache(maxsize=8)
def _of_classifier(config: SwinConfig) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in SwinTransformer(config).state_dict().items()}


def _in_backbone(name: str, last: int) -> bool:
    if name.startswith("layers."):
        stage = int(name.split(".")[1])
        return stage < last or (stage == last and ".downsample." not in name)
    return not name.startswith(("norm.", "head."))


def constants(config: SwinConfig, masks: bool) -> Iterator[tuple[int, int, str, Tensor]]:
    """(stage, block, name, tensor) of what the original's modules keep as buffers, although it follows from the configuration.

    masks: with `attn_mask` for blocks that shift, as the original classifier; dense backbones and the peers make it at forward.
    """
    for stage, depth in enumerate(config.depths):
        window, grid = config.windows[stage], config.grids[stage]
        index = relative_position_index(window)
        offsets = log_spaced_offsets(window, config.pretrained_windows[stage]).view(1, 2 * window[0] - 1, 2 * window[1] - 1, 2)
        for block in range(depth):
            yield stage, block, "attn.relative_position_index", index.clone()
            if config.version == 2:
                yield stage, block, "attn.relative_coords_table", offsets.clone()
            if masks and block % 2 and not any(config.drop_shift(grid, window)) and min(window) > 1:
                yield stage, block, "attn_mask", additive_mask(grid, window)


def additive_mask(grid: Size, window: Size) -> Tensor:
    """(G, N, N) float32: 0 where two tokens of a window of the shifted map see each other and -100 where not."""
    seen = seam_mask(seam_sides(grid, window, (window[0] // 2, window[1] // 2)))
    return torch.zeros(seen.shape).masked_fill(~seen, -100.0)
