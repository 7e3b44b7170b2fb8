"""The Swin Transformer, V1 and V2, from pixels to logits, in reading order.

Paper sections are those of "Swin Transformer" (arXiv 2103.14030) and, where marked V2, "Swin Transformer V2" (arXiv 2111.09883).
Parameter names are the original authors', so an original checkpoint loads as it is.

    B batch | H W token grid | C channels | K heads | D channels per head | M window side | G windows per map | N tokens per window
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swinkit.config import FeatureInfo, Size, SwinConfig, pair

Attend = Callable[..., Tensor]
"""Anything with the signature of `window_attention`; its `feed` and `embed`, if any, do what Mlp and PatchEmbed do, or give None."""


def to_windows(x: Tensor, window: Size) -> Tensor:
    """(B, H, W, ...) -> (B, G, N, ...): window partition (3.2). The window divides the map."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # B, H/M, M, W/M, M, ...
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, window: Size, grid: Size) -> Tensor:
    """(B, G, N, ...) -> (B, H, W, ...), the inverse of `to_windows` for a map of `grid` tokens."""
    x = x.unflatten(2, window).unflatten(1, (grid[0] // window[0], grid[1] // window[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def pad_map(x: Tensor, window: Size, fill: Tensor | float = 0.0) -> Tensor:
    """(B, H, W, ...) -> (B, H', W', ...), the next multiples of the window; new tokens, bottom and right, hold `fill` (...)."""
    B, H, W, *rest = x.shape
    bottom, right = -H % window[0], -W % window[1]
    fill = fill.to(x) if isinstance(fill, Tensor) else x.new_full((), fill)
    if right:
        x = torch.cat((x, fill.expand(B, H, right, *rest)), dim=2)
    if bottom:
        x = torch.cat((x, fill.expand(B, bottom, W + right, *rest)), dim=1)
    return x


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Remember what depends only on sizes and a device: outside the modules, so that nothing of it is saved or copied.

    Remembered tensors are never inference tensors (training may come next); tracing, fake tensors and torch.func get their own.
    """
    remembered = lru_cache(maxsize=64)(make)

    @wraps(make)
    def get(*key: Any) -> Tensor:
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0
        if traced or torch._C._functorch.peek_interpreter_stack() is not None:
            return make(*key)
        with torch.inference_mode(False), torch.no_grad():
            return remembered(*key)

    return get


def seam_sides(grid: Size, window: Size, shift: Size, device: torch.device | None = None) -> Tensor:
    """(G, N) int64: on which side of the seam each token of each window lies, after the map was rolled by `-shift` (3.2, figure 4).

    Rolling glues opposite edges of the map together; the glue line is the seam.
    """
    side = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    for axis, (length, moved) in enumerate(zip(grid, shift, strict=True)):
        wrapped = torch.arange(length, device=device) >= length - moved
        side = 2 * side + wrapped.view(1, *(-1 if a == axis else 1 for a in range(2)))
    return to_windows(side.expand(1, *grid), window)[0]


def seam_mask(sides: Tensor) -> Tensor:
    """(G, N) -> (G, N, N) bool: may two tokens of a window see each other? They may on the same side of the seam."""
    return sides[:, :, None] == sides[:, None, :]


def relative_position_index(window: Size, device: torch.device | None = None) -> Tensor:
    """(N, N) int64: the row of the bias table that holds the offset from token j to token i (3.2, equation 4).

    The axes get different strides, so that the offsets (2, 1) and (1, 2) do not collide.
    """
    token = torch.cartesian_prod(*(torch.arange(side, device=device) for side in window))
    offset = token[:, None] - token[None, :]  # N, N, 2
    index = torch.zeros_like(offset[..., 0])
    for axis, side in enumerate(window):
        index = index * (2 * side - 1) + offset[..., axis] + side - 1
    return index


def log_spaced_offsets(window: Size, trained: Size, device: torch.device | None = None) -> Tensor:
    """((2M-1)^2, 2) float32: every offset of a window in units of the window the MLP was trained for, log-spaced (V2 equation 4)."""
    axes = [torch.arange(1 - side, side, device=device).float() / max(unit - 1, 1) for side, unit in zip(window, trained, strict=True)]
    offset = 8 * torch.cartesian_prod(*axes)
    return offset.sign() * (offset.abs() + 1).log2() / math.log2(8)


_sides, _index, _offsets = constant(seam_sides), constant(relative_position_index), constant(log_spaced_offsets)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; half precision is widened, because squares overflow and the epsilon vanishes in it."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=-1).to(x.dtype)


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    window: Size,
    shift: Size,
    scale: float | Tensor,
    cosine: bool = False,
    pad: Tensor | float = 0.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attention inside shifted windows of a whole map: softmax(scale * q k^T + bias + mask) v. Every kernel is tested against this.

    qkv (B, H, W, 3, K, D), unpadded and unshifted; bias (K, N, N); window, shift in tokens; scale a float (V1), (K, 1, 1) (V2, `cosine`);
    pad (3, K, D): q, k, v of tokens that fill the map up to whole windows, and are keys; dropout_p -> (B, H, W, K * D). Errors: torch's.
    """
    H, W = qkv.shape[1:3]
    qkv = pad_map(qkv, window, pad)
    grid = (qkv.shape[1], qkv.shape[2])
    if any(shift):
        qkv = qkv.roll((-shift[0], -shift[1]), dims=(1, 2))
    q, k, v = to_windows(qkv, window).permute(3, 0, 1, 4, 2, 5)  # each B, G, K, N, D
    if cosine:
        q, k = unit(q), unit(k)
    scores = q * scale @ k.transpose(-2, -1)  # B, G, K, N, N
    if scores.dtype == torch.float16:
        scores = scores.clamp(-3e4, 3e4)  # an overflowed score would make the softmax NaN
    if any(shift):
        mask = seam_mask(_sides(grid, window, shift, bias.device))[:, None]
        bias = torch.where(mask, bias, bias - 100)  # G, K, N, N: the originals' additive mask
    out = F.dropout((scores + bias).softmax(-1).to(v.dtype), dropout_p) @ v
    out = from_windows(out.transpose(2, 3).flatten(3), window, grid)  # B, H', W', C
    if any(shift):
        out = out.roll(shift, dims=(1, 2))
    return out[:, :H, :W]


class WindowAttention(nn.Module):
    """W-MSA and SW-MSA (3.2; V2 3.2-3.3): the projections, the position bias and the scale around one call of `attend`."""

    def __init__(self, config: SwinConfig, stage: int, attend: Attend) -> None:
        super().__init__()
        dim, self.heads = config.dims[stage], config.num_heads[stage]
        self.version, self.attend, self.attn_drop = config.version, attend, config.attn_drop_rate
        self.window, self.trained_window = config.windows[stage], config.pretrained_windows[stage]
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias and config.version == 1)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(config.drop_rate)
        if config.version == 1:
            self.qk_scale = config.qk_scale or (dim // self.heads) ** -0.5
            offsets = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(offsets, self.heads), std=0.02))
        else:
            self.logit_scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10.0)))
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, self.heads, bias=False))
            self.q_bias = nn.Parameter(torch.zeros(dim)) if config.qkv_bias else None
            self.v_bias = nn.Parameter(torch.zeros(dim)) if config.qkv_bias else None

    def bias(self) -> Tensor:
        """(K, N, N): the relative position bias, gathered from V1's table or from V2's MLP over all offsets."""
        if self.version == 1:
            table = self.relative_position_bias_table
        else:
            offsets = _offsets(self.window, self.trained_window, self.logit_scale.device)
            table = 16 * self.cpb_mlp(offsets.to(self.logit_scale.dtype)).sigmoid()
        index = _index(self.window, table.device)
        return table.index_select(0, index.flatten()).unflatten(0, index.shape).permute(2, 0, 1)

    def scale(self) -> float | Tensor:
        """What the scores are multiplied by: V1 a constant, V2 one learned factor per head (K, 1, 1), at most 100 (V2 equation 2)."""
        return self.qk_scale if self.version == 1 else self.logit_scale.clamp(max=math.log(100.0)).exp()

    def qkv_bias(self) -> Tensor | None:
        """(3C,): the bias of the qkv projection; V2's keys have none, since cosine attention would hardly feel it."""
        if self.version == 1 or self.q_bias is None or self.v_bias is None:
            return self.qkv.bias if self.version == 1 else None
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))

    def forward(self, x: Tensor, shift: Size) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C). A padded token is zero before the projection, so the projection's bias after it."""
        qkv_bias = self.qkv_bias()
        qkv = (self.qkv(x) if self.version == 1 else F.linear(x, self.qkv.weight, qkv_bias)).unflatten(-1, (3, self.heads, -1))
        out = self.attend(
            qkv,
            self.bias(),
            window=self.window,
            shift=shift,
            scale=self.scale(),
            cosine=self.version == 2,
            pad=qkv.new_zeros(qkv.shape[3:]) if qkv_bias is None else qkv_bias.view(qkv.shape[3:]),
            dropout_p=self.attn_drop if self.training else 0.0,
        )
        return self.proj_drop(self.proj(out))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int, drop: float, attend: Attend = window_attention) -> None:
        super().__init__()
        self.fc1, self.fc2, self.drop = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Dropout(drop)
        self.feed = getattr(attend, "feed", None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        fast = self.feed(self, x) if self.feed else None
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x))))) if fast is None else fast


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, leaves a branch out for some samples and scales it up for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = branch.new_empty(branch.shape[0], *(1,) * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * keep.div_(1 - self.rate)


class SwinBlock(nn.Module):
    """Window attention and an MLP, each on a residual branch; every second block shifts its windows by half (equation 3)."""

    def __init__(self, config: SwinConfig, stage: int, index: int, drop_path: float, attend: Attend) -> None:
        super().__init__()
        dim, self.config = config.dims[stage], config
        self.window = config.windows[stage]
        self.half_window = (self.window[0] // 2, self.window[1] // 2) if index % 2 else (0, 0)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(config, stage, attend)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.drop_rate, attend)
        self.drop_path = DropPath(drop_path)

    def shift(self, grid: Size) -> Size:
        """How far the windows of this block move on a map of `grid` tokens, by the size policy."""
        if not any(self.half_window):
            return (0, 0)
        dropped = self.config.drop_shift(grid, self.window)
        return (0 if dropped[0] else self.half_window[0], 0 if dropped[1] else self.half_window[1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C). V1 normalises before each branch, V2 after it."""
        shift = self.shift((x.shape[1], x.shape[2]))
        if self.config.version == 1:
            x = x + self.drop_path(self.attn(self.norm1(x), shift))
            return x + self.drop_path(self.mlp(self.norm2(x)))
        x = x + self.drop_path(self.norm1(self.attn(x, shift)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchEmbed(nn.Module):
    """Patch partition and linear embedding (3.1), as one strided convolution."""

    def __init__(self, config: SwinConfig, attend: Attend = window_attention) -> None:
        super().__init__()
        self.config, self.patch, self.embed = config, pair(config.patch_size), getattr(attend, "embed", None)
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, kernel_size=self.patch, stride=self.patch)
        self.norm = nn.LayerNorm(config.embed_dim) if config.patch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, H, W, C)."""
        height, width = x.shape[2:]
        if not self.config.floors((height, width)):
            x = F.pad(x, (0, -width % self.patch[1], 0, -height % self.patch[0]))
        fast = self.embed(self, x) if self.embed else None
        return self.norm(self.proj(x).permute(0, 2, 3, 1) if fast is None else fast)


class PatchMerging(nn.Module):
    """Patch merging (3.1): one token of each 2 x 2 neighbours, its 4C channels halved; an odd map gets a row or column of zeros."""

    def __init__(self, dim: int, version: int) -> None:
        super().__init__()
        self.version = version
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim if version == 1 else 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H/2, W/2, 2C)."""
        x = pad_map(x, (2, 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B, H/2, row, W/2, column, C
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # the originals' order: rows change fastest
        return self.reduction(self.norm(x)) if self.version == 1 else self.norm(self.reduction(x))


class SwinStage(nn.Module):
    """Blocks on maps of one resolution, then patch merging (but not after the last stage)."""

    def __init__(self, config: SwinConfig, stage: int, attend: Attend, last: bool) -> None:
        super().__init__()
        before, total = sum(config.depths[:stage]), sum(config.depths)
        rates = [config.drop_path_rate * (before + index) / max(total - 1, 1) for index in range(config.depths[stage])]
        self.blocks = nn.ModuleList(SwinBlock(config, stage, index, rate, attend) for index, rate in enumerate(rates))
        self.downsample = None if last else PatchMerging(config.dims[stage], config.version)
        self.grad_checkpointing = False

    def run_blocks(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), the map before merging."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing and torch.is_grad_enabled() else block(x)
        return x

    def merge(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H/2, W/2, 2C), or the same map after the last stage."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> what the next stage takes."""
        return self.merge(self.run_blocks(x))


class SwinTrunk(nn.Module):
    """Patch embedding, position embedding and stages: what the classifier and the backbones share."""

    layers: Sequence[SwinStage]

    def __init__(self, config: SwinConfig, attend: Attend = window_attention, stages: int | None = None, ape_as_map: bool = False) -> None:
        super().__init__()
        stages = stages or len(config.depths)
        self.config = config
        self.labels: tuple[str, ...] = ()
        """Names of the classes, kept with the weights."""
        self.preprocess: dict[str, Any] = {}
        """How images are prepared for this model, kept with the weights."""
        self.origin: dict[str, str] = {}
        """What the weights were made from and their licence, as far as known, kept with the weights."""
        self.patch_embed = PatchEmbed(config, attend)
        shape = (1, config.embed_dim, *config.grids[0]) if ape_as_map else (1, math.prod(config.grids[0]), config.embed_dim)
        self.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02)) if config.ape else None
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.layers = nn.ModuleList(SwinStage(config, stage, attend, last=stage == stages - 1) for stage in range(stages))  # type: ignore[assignment]

    def init_weights(self) -> None:
        """The originals' initialisation: truncated normal linear layers; V2's blocks start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, SwinBlock) and self.config.version == 2:
                for norm in (module.norm1, module.norm2):
                    nn.init.zeros_(norm.weight)

    def add_position(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C): adds the absolute position embedding, if there is one, resized to the map (bicubic)."""
        table = self.absolute_pos_embed
        if table is None:
            return self.pos_drop(x)
        position = table if table.ndim == 4 else table.transpose(1, 2).unflatten(2, self.config.grids[0])  # 1, C, H, W
        if position.shape[2:] != x.shape[1:3]:
            position = F.interpolate(position, size=(x.shape[1], x.shape[2]), mode="bicubic")
        return self.pos_drop(x + position.permute(0, 2, 3, 1))

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, H, W, C), the tokens that the first stage takes. Errors: InputError for other images."""
        self.config.check_input(x.shape, x.is_floating_point())
        return self.add_position(self.patch_embed(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, output_fmt: Literal["NCHW", "NHWC"] = "NCHW"
    ) -> list[Tensor]:
        """(B, in_chans, height, width) -> the maps before merging of the stages in `indices` (an int: the last so many; None: all).

        A list, like timm's with intermediates_only=True; un-normed, in the order of output_fmt. Errors: InputError.
        """
        wanted = self.config.stage_indices(indices, len(self.layers))
        self.config.check_format(output_fmt)
        maps, x = [], self.embed(x)
        for stage in self.layers[: max(wanted)]:
            maps.append(stage.run_blocks(x))
            x = stage.merge(maps[-1])
        maps.append(self.layers[max(wanted)].run_blocks(x))
        return [maps[i].permute(0, 3, 1, 2) if output_fmt == "NCHW" else maps[i] for i in wanted]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass and compute the rest again: less memory, a third more time. enable: or no more."""
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that describe positions and scales, which the originals train without weight decay."""
        words = ("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp")
        return {name for name, _ in self.named_parameters() if any(word in name for word in words)}


class SwinTransformer(SwinTrunk):
    """The classifier: the trunk, a final norm, the average over the map and a linear layer (3.1, figure 3).

    config: sizes; attend: `window_attention`, or the like. Errors: InputError for a batch that is empty, of other channels, below a patch.
    """

    def __init__(self, config: SwinConfig, attend: Attend = window_attention) -> None:
        super().__init__(config, attend)
        self.num_features = config.dims[-1]
        self.norm = nn.LayerNorm(self.num_features)
        self.head = self._classifier()
        self.init_weights()

    def _classifier(self) -> nn.Module:
        return nn.Linear(self.num_features, self.config.num_classes) if self.config.num_classes else nn.Identity()

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0: none."""
        return self.config.num_classes

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and reduction of each stage's map."""
        return self.config.feature_info

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, H, W, C) after the last norm."""
        x = self.embed(x)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the pooled (B, C) with `pre_logits` or without a classifier."""
        x = x.mean(dim=(1, 2))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, untrained classifier of `num_classes` outputs (0: none) in place of the old one. Errors: ConfigError below 0."""
        self.config, self.labels = self.config.replace(num_classes=num_classes), ()
        self.head = self._classifier().to(self.norm.weight)
        for parameter in self.head.parameters():
            nn.init.trunc_normal_(parameter, std=0.02) if parameter.ndim > 1 else nn.init.zeros_(parameter)
