"""SwinConfig: the architecture as one frozen, validated value, and the size rules that follow from it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from swinkit.errors import ConfigError, InputError, UnknownNameError
from swinkit.fields import Size as Size
from swinkit.fields import SizeLike, check_flag, positive, rate, size, whole, wholes
from swinkit.fields import pair as pair

WindowsLike = SizeLike | Sequence[SizeLike]
SizePolicy = Literal["official", "dense", "per_axis"]
SIZE_POLICIES = get_args(SizePolicy)


@dataclass(frozen=True)
class SwinConfig:
    """What a Swin Transformer is made of; a size is an int or an (h, w) pair. Wrong values raise ConfigError with what to change."""

    version: Literal[1, 2] = 1
    """1: arXiv 2103.14030. 2: arXiv 2111.09883 (cosine attention, continuous position bias, norms after the branches)."""
    img_size: SizeLike = 224
    """The image size the windows are planned for, in pixels. Any size works at forward."""
    patch_size: SizeLike = 4
    """Pixels that become one token."""
    in_chans: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Outputs of the classifier; 0 leaves it out and the model returns pooled features."""
    embed_dim: int = 96
    """Channels of the first stage (C in the paper); each later stage has twice as many."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks in each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads in each stage."""
    window_size: SizeLike | tuple[Size, ...] = 7
    """Tokens along a window's sides (M in the paper). A list as long as `depths` gives one size per stage; a 2-tuple of ints is (h, w)."""
    pretrained_window_sizes: tuple[SizeLike, ...] = ()
    """V2: per stage, the window the position MLP was trained for; empty or 0: the stage's own."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, as a multiple of its channels."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias (in V2: queries and values)."""
    qk_scale: float | None = None
    """V1: what queries are multiplied by; None: head_dim ** -0.5."""
    drop_rate: float = 0.0
    """Dropout on embeddings, projections and the MLP."""
    attn_drop_rate: float = 0.0
    """Dropout on attention weights."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    ape: bool = False
    """Adds a learned absolute position embedding to the patches."""
    patch_norm: bool = True
    """LayerNorm after the patch embedding."""
    size_policy: SizePolicy = "official"
    """How sizes that do not fit are treated: "official" (classification), "dense" (the detection backbone) or "per_axis" (torchvision)."""

    def __post_init__(self) -> None:
        for name in ("version", "in_chans", "embed_dim"):
            self._put(name, whole(name, getattr(self, name), 1))
        self._put("num_classes", whole("num_classes", self.num_classes, 0))
        for name in ("depths", "num_heads"):
            self._put(name, wholes(name, getattr(self, name)))
        for name in ("img_size", "patch_size"):
            self._put(name, size(name, getattr(self, name)))
        self._put("window_size", _windows(self.window_size, len(self.depths)))
        self._put("pretrained_window_sizes", _pretrained(self.pretrained_window_sizes))
        self._put("mlp_ratio", positive("mlp_ratio", self.mlp_ratio))
        if self.qk_scale is not None:
            self._put("qk_scale", positive("qk_scale", self.qk_scale))
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            self._put(name, rate(name, getattr(self, name)))
        for name in ("qkv_bias", "ape", "patch_norm"):
            check_flag(name, getattr(self, name))
        self._check_together()

    def _put(self, name: str, value: object) -> None:
        """Store a field in its plain form; the dataclass is frozen to everybody else."""
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.version not in (1, 2):
            raise ConfigError(f"version is {self.version}; Swin Transformer has versions 1 and 2.")
        if self.size_policy not in SIZE_POLICIES:
            raise UnknownNameError("size_policy", str(self.size_policy), SIZE_POLICIES)
        if len(self.depths) != len(self.num_heads):
            raise ConfigError(f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}; give both one value per stage.")
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads, strict=True)):
            if dim % heads:
                raise ConfigError(
                    f"Stage {stage} has {dim} channels, which {heads} heads do not divide; change embed_dim ({self.embed_dim}) "
                    f"or num_heads ({self.num_heads}). Published models have 32 channels per head."
                )
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ConfigError(
                f"mlp_ratio {self.mlp_ratio} leaves no hidden channel for embed_dim {self.embed_dim}; give at least 1 / embed_dim."
            )
        if any(image < patch for image, patch in zip(pair(self.img_size), pair(self.patch_size), strict=True)):
            raise ConfigError(
                f"img_size {self.img_size} is smaller than one patch ({self.patch_size}); give a larger image or a smaller patch."
            )
        self._check_version()

    def _check_version(self) -> None:
        if self.version == 2 and self.qk_scale is not None:
            raise ConfigError(f"qk_scale is {self.qk_scale}, but V2 learns its scale (logit_scale); leave it out or set version=1.")
        given = self.pretrained_window_sizes
        if self.version == 1 and any(any(pair(size)) for size in given):
            raise ConfigError(f"pretrained_window_sizes is {given}, but V1 has a table and no position MLP; leave it out or set version=2.")
        if given and len(given) != len(self.depths):
            raise ConfigError(
                f"pretrained_window_sizes has {len(given)} values for {len(self.depths)} stages; give one per stage, 0 where unknown."
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def grids(self) -> tuple[Size, ...]:
        """Token maps of each stage for an image of `img_size`; merging rounds odd maps up."""
        grid = patches(pair(self.img_size), pair(self.patch_size))
        grids = [grid]
        for _ in self.depths[1:]:
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
            grids.append(grid)
        return tuple(grids)

    @property
    def asked_windows(self) -> tuple[Size, ...]:
        """Windows of each stage as configured, before the size policy."""
        if isinstance(self.window_size, tuple) and isinstance(self.window_size[0], tuple):
            return tuple(pair(size) for size in self.window_size)
        return (pair(self.window_size),) * len(self.depths)

    @property
    def windows(self) -> tuple[Size, ...]:
        """Windows of each stage as built. "official" shrinks a window that covers the smaller side of its map to that side."""
        if self.size_policy != "official":
            return self.asked_windows
        return tuple(
            (min(grid), min(grid)) if min(grid) <= min(window) else window
            for grid, window in zip(self.grids, self.asked_windows, strict=True)
        )

    @property
    def pretrained_windows(self) -> tuple[Size, ...]:
        """V2: per stage, the window that relative coordinates are normalised by."""
        given = self.pretrained_window_sizes or (0,) * len(self.depths)
        return tuple(pair(size) if pair(size)[0] > 0 else window for size, window in zip(given, self.windows, strict=True))

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and reduction of each stage's map."""
        return FeatureInfo(
            {"num_chs": dim, "reduction": _times(self.patch_size, 2**stage), "module": f"layers.{stage}", "index": stage}
            for stage, dim in enumerate(self.dims)
        )

    def stage_indices(self, indices: int | Sequence[int] | None, built: int | None = None) -> tuple[int, ...]:
        """The stages meant by `indices`: None all, an int the last so many, a list these (negative ones count from the end).

        built: how many stages there are, where it is fewer than the architecture has. Errors: InputError for stages that are not there.
        """
        stages = built or len(self.depths)
        if isinstance(indices, Sequence):
            wanted = [operator.index(index) for index in indices]
        else:
            last = stages if indices is None else operator.index(indices)
            wanted = list(range(stages))[-last:] if 1 <= last <= stages else []
        if not wanted or any(not -stages <= index < stages for index in wanted):
            raise InputError(
                f"Stage indices are {indices!r}; expected None, 1 to {stages}, or a list of numbers from {-stages} to {stages - 1}."
            )
        return tuple(index % stages for index in wanted)

    def check_format(self, output_fmt: str) -> None:
        """Raise InputError unless maps can be given in the order of axes `output_fmt`, "NCHW" or "NHWC"."""
        if output_fmt not in ("NCHW", "NHWC"):
            raise InputError(f'output_fmt is {output_fmt!r}; expected "NCHW" or "NHWC".')

    def drop_shift(self, grid: Size, window: Size) -> tuple[bool, bool]:
        """On which axes a block with a `window` on a `grid` of tokens goes without its shift (see `size_policy`)."""
        if self.size_policy == "dense":
            return (False, False)
        if self.size_policy == "per_axis":
            return (grid[0] <= window[0], grid[1] <= window[1])
        one_window = min(grid) <= min(window)
        return (one_window, one_window)

    def floors(self, image: Size) -> bool:
        """Whether the patch embedding drops the pixels of an `image` (h, w) that do not fill a patch (True) or pads them (False).

        torchvision always drops them; the original classifier does at the one size that it accepts.
        """
        return self.size_policy == "per_axis" or (self.size_policy == "official" and image == pair(self.img_size))

    def check_input(self, shape: Sequence[int], floating: bool = True) -> None:
        """Raise InputError unless `shape` is (B, in_chans, H, W) with at least one image and room for one patch, of floating point."""
        if not floating:
            raise InputError("Got images of whole numbers; expected normalised values, such as (x.float() / 255 - mean) / std.")
        if len(shape) != 4:
            raise InputError(
                f"Got a tensor of shape {tuple(shape)}; expected (batch, {self.in_chans}, height, width). Add a batch axis with x[None]."
            )
        if shape[1] != self.in_chans:
            hint = " The channels seem to be last: use x.permute(0, 3, 1, 2)." if shape[3] == self.in_chans else ""
            raise InputError(
                f"Got images with {shape[1]} channels; this model takes {self.in_chans} (batch, channels, height, width).{hint}"
            )
        if shape[0] == 0:
            raise InputError(f"Got an empty batch {tuple(shape)}; expected at least one image.")
        smallest = pair(self.patch_size) if self.size_policy == "per_axis" else (1, 1)
        if shape[2] < smallest[0] or shape[3] < smallest[1]:
            raise InputError(
                f"Got images of {shape[2]} x {shape[3]} pixels; the smallest this model takes is {smallest[0]} x {smallest[1]}."
            )

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, `changes` by name, checked again. Errors: ConfigError; UnknownNameError for another name."""
        _check_fields(type(self), changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """`values` of `to_dict`, where a flat list of two window sizes is (h, w), a list of lists one per stage. Errors: as `replace`."""
        _check_fields(cls, values)
        given = dict(values)
        for name in ("img_size", "patch_size", "window_size"):
            if isinstance(given.get(name), list) and len(given[name]) == 2 and all(isinstance(size, int) for size in given[name]):
                given[name] = tuple(given[name])
        return cls(**given)


class FeatureInfo(tuple[dict[str, Any], ...]):
    """What each map of a backbone is: one dict per map, and timm's accessors."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[SizeLike]:
        """Pixels per token of each map."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """The module each map comes from."""
        return [info["module"] for info in self]


def patches(image: Size, patch: Size) -> Size:
    """Whole patches that fit into an image."""
    return image[0] // patch[0], image[1] // patch[1]


def _check_fields(cls: type[SwinConfig], values: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise UnknownNameError("SwinConfig field", name, known)


def _windows(value: Any, stages: int) -> SizeLike | tuple[Size, ...]:
    """A tuple of two ints is a pair; any other sequence has one size per stage and is stored as pairs."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and not any(isinstance(size, Sequence) for size in value)
    if is_pair or not isinstance(value, Sequence):
        return size("window_size", value)
    if isinstance(value, str) or len(value) != stages:
        raise ConfigError(
            f"window_size is {value!r}; expected a whole number, a (height, width) pair, or a list of {stages} of these, one per stage."
        )
    return tuple(pair(size(f"window_size[{stage}]", side)) for stage, side in enumerate(value))


def _pretrained(values: Any) -> tuple[SizeLike, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"pretrained_window_sizes is {values!r}; expected a list with one size per stage, 0 where unknown.")
    return tuple(size(f"pretrained_window_sizes[{stage}]", value, 0) for stage, value in enumerate(values))


def _times(size: SizeLike, factor: int) -> SizeLike:
    return (size[0] * factor, size[1] * factor) if isinstance(size, tuple) else size * factor


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
