"""Every published way of naming a Swin Transformer's tensors, as tables: our names on the left, theirs on the right.

Our names are the original authors' own. What a table does not mention is named alike. The order of the tables is the order of preference
where two fit equally well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from swinkit.checkpoints.dialects.changes import KEYLESS_BIAS, SAME, SPLIT, UNFOLD, Change
from swinkit.checkpoints.dialects.patterns import Pattern

BLOCK, MERGING = "layers.{s}.blocks.{b}", "layers.{s}.downsample"
OUTSIDE_BLOCKS = (
    "patch_embed.proj.{p}",
    "patch_embed.norm.{p}",
    "absolute_pos_embed",
    f"{MERGING}.norm.{{p}}",
    f"{MERGING}.reduction.weight",
    "norm{s}.{p}",
    "norm.{p}",
    "head.{p}",
)
BOTH_VERSIONS = ("norm1.{p}", "norm2.{p}", "attn.proj.{p}", "mlp.fc1.{p}", "mlp.fc2.{p}")
IN_A_BLOCK = {
    1: (*BOTH_VERSIONS, "attn.qkv.{p}", "attn.relative_position_bias_table"),
    2: (*BOTH_VERSIONS, "attn.qkv.weight", "attn.q_bias", "attn.v_bias", "attn.logit_scale", "attn.cpb_mlp.0.{p}", "attn.cpb_mlp.2.weight"),
}
"""Names inside a block, by version."""


@dataclass(frozen=True)
class Row:
    """Tensors of ours and the tensors of theirs that hold the same numbers."""

    ours: tuple[Pattern, ...]
    theirs: tuple[Pattern, ...]
    change: Change = SAME


Special = tuple[tuple[str, ...], tuple[str, ...], Change]
"""Names of ours, names of theirs (in a block both are relative to it) and how the tensors change."""


@dataclass(frozen=True)
class Dialect:
    """One table."""

    name: str
    """What it is called on the command line."""
    title: str
    """What it is called in a sentence."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Modules: ours -> theirs."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Modules inside a block: ours -> theirs."""
    special: Mapping[int, tuple[Special, ...]] = field(default_factory=dict)
    """By version: what is stored in another form, not only under another name."""
    prefixes: tuple[str, ...] = ()
    """What may stand before the names of the stages, but not before those in `beside`."""
    beside: tuple[str, ...] = ()
    policy: str = "official"
    """How the peer treats sizes that do not fit (see SwinConfig.size_policy)."""
    versions: tuple[int, ...] = (1, 2)
    written: bool = True
    """False: a spelling that is read only."""

    @property
    def stem(self) -> str:
        """The name of the patch projection, by which a file is recognised."""
        return f"{self.names.get('patch_embed.proj', 'patch_embed.proj')}.weight"

    def rows(self, version: int) -> list[Row]:
        """The whole table for a version."""
        special = [
            (tuple(f"{BLOCK}.{n}" if in_block else n for n in ours), tuple(f"{self._block}.{n}" if in_block else n for n in theirs), change)
            for ours, theirs, change in self.special.get(version, ())
            for in_block in [ours[0].startswith(("attn.", "mlp."))]
        ]
        done = {name for ours, _, _ in special for name in ours}
        plain = [(name, _renamed(name, self.names)) for name in OUTSIDE_BLOCKS]
        plain += [(f"{BLOCK}.{leaf}", f"{self._block}.{_renamed(leaf, self.leaves)}") for leaf in IN_A_BLOCK[version]]
        rows = [Row((Pattern(ours),), (Pattern(theirs),)) for ours, theirs in plain if ours not in done and theirs]
        return rows + [Row(tuple(map(Pattern, ours)), tuple(map(Pattern, theirs)), change) for ours, theirs, change in special]

    @property
    def _block(self) -> str:
        return self.names.get(BLOCK, BLOCK)


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with its longest beginning that the table knows replaced; "" there means that the dialect has no such thing."""
    known = [start for start in table if name == start or name.startswith(f"{start}.")]
    if not known:
        return name
    start = max(known, key=len)
    return table[start] + name[len(start) :] if table[start] else ""


NEVER = ""
"""The dialect has no such tensor."""

ORIGINAL = Dialect("original", "microsoft/Swin-Transformer", prefixes=("encoder.",))
ORIGINAL_SIMMIM_V2 = replace(ORIGINAL, title="microsoft's SimMIM", leaves={"attn.cpb_mlp": "attn.rpe_mlp"}, versions=(2,), written=False)

TIMM = Dialect("timm", "timm", {MERGING: "layers.{s+1}.downsample", "head": "head.fc", "absolute_pos_embed": NEVER, "norm{s}": NEVER})
TIMM_FEATURES = replace(
    TIMM,
    title="timm with features_only",
    names={**TIMM.names, BLOCK: "layers_{s}.blocks.{b}", MERGING: "layers_{s+1}.downsample", "norm": NEVER, "head": NEVER},
    written=False,
)

TORCHVISION = Dialect(
    "torchvision",
    "torchvision",
    {
        "patch_embed.proj": "features.0.0",
        "patch_embed.norm": "features.0.2",
        BLOCK: "features.{2s+1}.{b}",
        MERGING: "features.{2s+2}",
        "absolute_pos_embed": NEVER,
        "norm{s}": NEVER,
    },
    {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"},
    {2: ((("attn.q_bias", "attn.v_bias"), ("attn.qkv.bias",), KEYLESS_BIAS),)},
    policy="per_axis",
)

_SELF = "attention.self"


def _three(layers: tuple[str, str, str], parameter: str) -> Special:
    return (f"attn.qkv.{parameter}",), tuple(f"{layer}.{parameter}" for layer in layers), SPLIT


def _cosine_bias(queries: str, values: str) -> tuple[Special, ...]:
    return ((("attn.q_bias",), (f"{queries}.bias",), SAME), (("attn.v_bias",), (f"{values}.bias",), SAME))


QKV = (f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value")
TRANSFORMERS = Dialect(
    "transformers",
    "transformers",
    {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
        "absolute_pos_embed": "embeddings.position_embeddings",
        BLOCK: "encoder.layers.{s}.blocks.{b}",
        MERGING: "encoder.layers.{s}.downsample",
        "norm{s}": "hidden_states_norms.stage{s+1}",
        "norm": "layernorm",
        "head": "classifier",
    },
    {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.relative_position_bias_table": f"{_SELF}.relative_position_bias_table",
        "attn.logit_scale": f"{_SELF}.logit_scale",
        "attn.cpb_mlp": f"{_SELF}.continuous_position_bias_mlp",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    {1: (_three(QKV, "{p}"),), 2: (_three(QKV, "weight"), *_cosine_bias(QKV[0], QKV[2]))},
    prefixes=("swin.", "swinv2.", "model."),
    beside=("classifier.", "hidden_states_norms."),
)
QKV_5 = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
TRANSFORMERS_5 = replace(
    TRANSFORMERS,
    title="transformers 5 with save_original_format=False",
    leaves={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
        "attn.proj": "attention.o_proj",
    },
    special={1: (_three(QKV_5, "{p}"),)},
    versions=(1,),
    written=False,
)
MASKFORMER = replace(
    TRANSFORMERS,
    title="transformers' MaskFormer",
    names={**TRANSFORMERS.names, "norm{s}": "hidden_states_norms.{s}"},
    versions=(1,),
    written=False,
)

_MM_LEAVES = {"attn": "attn.w_msa", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
_MM_NAMES = {"patch_embed.proj": "patch_embed.projection", BLOCK: "stages.{s}.blocks.{b}", MERGING: "stages.{s}.downsample"}
_REDUCTION = ((f"{MERGING}.reduction.weight",), ("stages.{s}.downsample.reduction.weight",), UNFOLD)
_NORM_4C = ((f"{MERGING}.norm.{{p}}",), ("stages.{s}.downsample.norm.{p}",), UNFOLD)
_REDUCTION_V2 = ((f"{MERGING}.reduction.weight",), ("stages.{s+1}.downsample.reduction.weight",), UNFOLD)
_NORM_2C = ((f"{MERGING}.norm.{{p}}",), ("stages.{s+1}.downsample.norm.{p}",), SAME)

MMPRETRAIN = Dialect(
    "mmpretrain",
    "mmpretrain",
    {**_MM_NAMES, "norm": "norm{last}", "norm{s}": NEVER, "head": "head.fc"},
    _MM_LEAVES,
    {1: (_REDUCTION, _NORM_4C), 2: (_REDUCTION_V2, _NORM_2C)},
    prefixes=("backbone.",),
    beside=("head.",),
)
MMDET = Dialect(
    "mmdet",
    "mmdetection and mmsegmentation",
    {**_MM_NAMES, "norm": NEVER, "head": NEVER},
    _MM_LEAVES,
    {1: (_REDUCTION, _NORM_4C)},
    prefixes=("backbone.",),
    policy="dense",
    versions=(1,),
)

DIALECTS = (
    ORIGINAL, TIMM, TORCHVISION, TRANSFORMERS, MMPRETRAIN, MMDET, ORIGINAL_SIMMIM_V2, TIMM_FEATURES, TRANSFORMERS_5, MASKFORMER,
)  # fmt: skip
BY_NAME = {dialect.name: dialect for dialect in DIALECTS if dialect.written}
ALIASES = {"microsoft": "original", "mmseg": "mmdet", "mmdetection": "mmdet", "mmsegmentation": "mmdet", "huggingface": "transformers"}

DROPPED = (
    (re.compile(r".*relative_position_index"), "computed from the window"),
    (re.compile(r".*relative_coords_table"), "computed from the window"),
    (re.compile(r".*attn_mask"), "computed from the map, window and shift"),
    (re.compile(r".*\.k_bias"), "always zero: keys have no bias in V2"),
    (re.compile(r"(?:.*\.)?mask_token"), "belongs to masked pretraining"),
    (re.compile(r"hidden_states_norms\.stem\.(?:weight|bias)"), "the norm of the stem's map, which a backbone here does not return"),
    (re.compile(r"decoder\.0\.(?:weight|bias)"), "belongs to masked pretraining: its reconstruction head"),
)
"""Names -> why they are left out, in every dialect."""
