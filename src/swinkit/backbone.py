"""SwinBackbone: the stages as a pyramid of feature maps, for detection, segmentation and anything that wants more than one scale."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from swinkit.config import FeatureInfo, SwinConfig
from swinkit.model import Attend, SwinTrunk, window_attention


class SwinBackbone(SwinTrunk):
    """(B, in_chans, height, width) -> one (B, C, H, W) map per stage in `out_indices`, taken before patch merging.

    Under size_policy="dense" this is the original detection and segmentation backbone: each map goes through a LayerNorm of its own
    (`norm0` ...) and the absolute position embedding is a (1, C, H, W) map. Under the other policies the maps are un-normed, as timm's.
    Stages after the last wanted one are not built.
    config: a `SwinConfig`; attend: anything with the signature of `window_attention`. Errors: InputError for stages that are not there,
    and, when called, for a batch that is empty, of other channels or smaller than a patch.
    """

    def __init__(self, config: SwinConfig, out_indices: int | Sequence[int] | None = None, attend: Attend = window_attention) -> None:
        wanted = tuple(sorted(set(config.stage_indices(out_indices))))
        dense = config.size_policy == "dense"
        super().__init__(config, attend, stages=max(wanted) + 1, ape_as_map=dense)
        self.out_indices = wanted
        for stage in wanted if dense else ():
            self.add_module(f"norm{stage}", nn.LayerNorm(config.dims[stage]))
        self.init_weights()

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and reduction of each map."""
        return FeatureInfo(self.config.feature_info[stage] for stage in self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, height, width) -> [(B, C, H, W), ...], finest first."""
        maps = self.forward_intermediates(x, self.out_indices, output_fmt="NHWC")
        if self.config.size_policy == "dense":
            maps = [self.get_submodule(f"norm{stage}")(m) for stage, m in zip(self.out_indices, maps, strict=True)]
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps]
