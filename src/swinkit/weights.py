"""The public weights by `name.tag`: where they lie on the hub, whose they are, what they expect and what they score.

The files are timm's on the Hugging Face hub; `release` is the file that the original authors put out. Scores are the original authors', on
ImageNet-1k validation images at the size in the name: MODELHUB.md of microsoft/Swin-Transformer, AutoFormerV2/README.md of microsoft/Cream
(S3). Licence and transforms are those of timm's configurations, with which a test compares.
The hub stores each file under its SHA-256, which is checked after the download; none is pinned here yet.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from swinkit.config import pair
from swinkit.errors import CheckpointError
from swinkit.variants import get_config, tags_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RELEASES = "https://github.com/SwinTransformer/storage/releases/download/"
S3 = "https://github.com/silent-chen/AutoFormerV2-model-zoo/releases/download/v1.0.0/"


@dataclass(frozen=True)
class Weights:
    """Published weights of one named model."""

    name: str
    tag: str
    release: str
    """URL of the original authors' file."""
    top1: float | None
    """Accuracy in percent; None where the authors print none (22k classes)."""
    top5: float | None
    hub_id: str | None
    """OWNER/NAME on the hub; None where only `release` exists."""
    license: str = "mit"
    sha256: str | None = None
    """Of model.safetensors on the hub; None: what the hub itself says is checked."""

    @property
    def full_name(self) -> str:
        """name.tag"""
        return f"{self.name}.{self.tag}"

    @property
    def classes(self) -> int:
        """Outputs of the classifier: 1,000 or 21,841."""
        return get_config(self.full_name).num_classes

    @property
    def preprocess(self) -> dict[str, Any]:
        """How images are prepared, in the words of `Preprocess.to_dict`."""
        size = pair(get_config(self.full_name).img_size)
        crop = 1.0 if min(size) >= 384 else 0.9
        return {"size": list(size), "mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "crop_pct": crop}

    @property
    def origin(self) -> dict[str, str]:
        """What a model card says of models made from these."""
        return {"base_model": self.hub_id or self.release, "license": self.license}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        default = tags_of(self.name)[0] == self.tag
        return {"name": self.full_name, "default": default, "classes": self.classes, "preprocess": self.preprocess} | {
            key: value for key, value in asdict(self).items() if key not in ("name", "tag")
        }


_PUBLISHED: dict[str, tuple[str, float | None, float | None]] = {
    "swin_tiny_patch4_window7_224.ms_in1k": ("v1.0.0/swin_tiny_patch4_window7_224.pth", 81.2, 95.5),
    "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k": ("v1.0.8/swin_tiny_patch4_window7_224_22kto1k_finetune.pth", 80.9, 96.0),
    "swin_tiny_patch4_window7_224.ms_in22k": ("v1.0.8/swin_tiny_patch4_window7_224_22k.pth", None, None),
    "swin_small_patch4_window7_224.ms_in22k_ft_in1k": ("v1.0.8/swin_small_patch4_window7_224_22kto1k_finetune.pth", 83.2, 97.0),
    "swin_small_patch4_window7_224.ms_in1k": ("v1.0.0/swin_small_patch4_window7_224.pth", 83.2, 96.2),
    "swin_small_patch4_window7_224.ms_in22k": ("v1.0.8/swin_small_patch4_window7_224_22k.pth", None, None),
    "swin_base_patch4_window7_224.ms_in22k_ft_in1k": ("v1.0.0/swin_base_patch4_window7_224_22kto1k.pth", 85.2, 97.5),
    "swin_base_patch4_window7_224.ms_in1k": ("v1.0.0/swin_base_patch4_window7_224.pth", 83.5, 96.5),
    "swin_base_patch4_window7_224.ms_in22k": ("v1.0.0/swin_base_patch4_window7_224_22k.pth", None, None),
    "swin_base_patch4_window12_384.ms_in22k_ft_in1k": ("v1.0.0/swin_base_patch4_window12_384_22kto1k.pth", 86.4, 98.0),
    "swin_base_patch4_window12_384.ms_in1k": ("v1.0.0/swin_base_patch4_window12_384.pth", 84.5, 97.0),
    "swin_base_patch4_window12_384.ms_in22k": ("v1.0.0/swin_base_patch4_window12_384_22k.pth", None, None),
    "swin_large_patch4_window7_224.ms_in22k_ft_in1k": ("v1.0.0/swin_large_patch4_window7_224_22kto1k.pth", 86.3, 97.9),
    "swin_large_patch4_window7_224.ms_in22k": ("v1.0.0/swin_large_patch4_window7_224_22k.pth", None, None),
    "swin_large_patch4_window12_384.ms_in22k_ft_in1k": ("v1.0.0/swin_large_patch4_window12_384_22kto1k.pth", 87.3, 98.2),
    "swin_large_patch4_window12_384.ms_in22k": ("v1.0.0/swin_large_patch4_window12_384_22k.pth", None, None),
    "swin_tiny_c24_patch4_window8_256.ms_in1k": ("v1.0.5/swin_tiny_c24_patch4_window8_256.pth", 81.6, 95.7),
    "swin_s3_tiny_224.ms_in1k": (S3 + "S3-T.pth", 82.1, 95.8),
    "swin_s3_small_224.ms_in1k": (S3 + "S3-S.pth", 83.7, 96.4),
    "swin_s3_base_224.ms_in1k": (S3 + "S3-B.pth", 84.0, 96.6),
    "swinv2_tiny_window8_256.ms_in1k": ("v2.0.0/swinv2_tiny_patch4_window8_256.pth", 81.8, 95.9),
    "swinv2_small_window8_256.ms_in1k": ("v2.0.0/swinv2_small_patch4_window8_256.pth", 83.7, 96.6),
    "swinv2_base_window8_256.ms_in1k": ("v2.0.0/swinv2_base_patch4_window8_256.pth", 84.2, 96.9),
    "swinv2_tiny_window16_256.ms_in1k": ("v2.0.0/swinv2_tiny_patch4_window16_256.pth", 82.8, 96.2),
    "swinv2_small_window16_256.ms_in1k": ("v2.0.0/swinv2_small_patch4_window16_256.pth", 84.1, 96.8),
    "swinv2_base_window16_256.ms_in1k": ("v2.0.0/swinv2_base_patch4_window16_256.pth", 84.6, 97.0),
    "swinv2_base_window12_192.ms_in22k": ("v2.0.0/swinv2_base_patch4_window12_192_22k.pth", None, None),
    "swinv2_large_window12_192.ms_in22k": ("v2.0.0/swinv2_large_patch4_window12_192_22k.pth", None, None),
    "swinv2_base_window12to16_192to256.ms_in22k_ft_in1k": ("v2.0.0/swinv2_base_patch4_window12to16_192to256_22kto1k_ft.pth", 86.2, 97.9),
    "swinv2_large_window12to16_192to256.ms_in22k_ft_in1k": ("v2.0.0/swinv2_large_patch4_window12to16_192to256_22kto1k_ft.pth", 86.9, 98.0),
    "swinv2_base_window12to24_192to384.ms_in22k_ft_in1k": ("v2.0.0/swinv2_base_patch4_window12to24_192to384_22kto1k_ft.pth", 87.1, 98.2),
    "swinv2_large_window12to24_192to384.ms_in22k_ft_in1k": ("v2.0.0/swinv2_large_patch4_window12to24_192to384_22kto1k_ft.pth", 87.6, 98.3),
}
"""name.tag -> the original file (below RELEASES, or a URL), top-1, top-5."""
_NOT_ON_HUB = ("swin_tiny_c24_patch4_window8_256.ms_in1k",)

TRANSFORMERS: dict[str, str] = {
    "swin_tiny_patch4_window7_224": "microsoft/swin-tiny-patch4-window7-224",
    "swin_small_patch4_window7_224": "microsoft/swin-small-patch4-window7-224",
    "swin_base_patch4_window7_224": "microsoft/swin-base-patch4-window7-224",
    "swin_base_patch4_window7_224_in22k": "microsoft/swin-base-patch4-window7-224-in22k",
    "swin_large_patch4_window7_224": "microsoft/swin-large-patch4-window7-224",
    "swin_large_patch4_window7_224_in22k": "microsoft/swin-large-patch4-window7-224-in22k",
    "swin_base_patch4_window12_384": "microsoft/swin-base-patch4-window12-384",
    "swin_base_patch4_window12_384_in22k": "microsoft/swin-base-patch4-window12-384-in22k",
    "swin_large_patch4_window12_384": "microsoft/swin-large-patch4-window12-384",
    "swin_large_patch4_window12_384_in22k": "microsoft/swin-large-patch4-window12-384-in22k",
    "swinv2_tiny_window8_256": "microsoft/swinv2-tiny-patch4-window8-256",
    "swinv2_small_window8_256": "microsoft/swinv2-small-patch4-window8-256",
    "swinv2_base_window8_256": "microsoft/swinv2-base-patch4-window8-256",
    "swinv2_tiny_window16_256": "microsoft/swinv2-tiny-patch4-window16-256",
    "swinv2_small_window16_256": "microsoft/swinv2-small-patch4-window16-256",
    "swinv2_base_window16_256": "microsoft/swinv2-base-patch4-window16-256",
    "swinv2_base_window12_192": "microsoft/swinv2-base-patch4-window12-192-22k",
    "swinv2_large_window12_192": "microsoft/swinv2-large-patch4-window12-192-22k",
    "swinv2_base_window12to16_192to256": "microsoft/swinv2-base-patch4-window12to16-192to256-22kto1k-ft",
    "swinv2_large_window12to16_192to256": "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft",
    "swinv2_base_window12to24_192to384": "microsoft/swinv2-base-patch4-window12to24-192to384-22kto1k-ft",
    "swinv2_large_window12to24_192to384": "microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft",
}
"""name -> the same architecture in the layout of transformers. Their cards state apache-2.0, and do not always say which tag it is."""


TORCHVISION: dict[str, str] = {
    "swin_tiny_patch4_window7_224": "Swin_T_Weights.IMAGENET1K_V1",
    "swin_small_patch4_window7_224": "Swin_S_Weights.IMAGENET1K_V1",
    "swin_base_patch4_window7_224": "Swin_B_Weights.IMAGENET1K_V1",
    "swinv2_tiny_window8_256": "Swin_V2_T_Weights.IMAGENET1K_V1",
    "swinv2_small_window8_256": "Swin_V2_S_Weights.IMAGENET1K_V1",
    "swinv2_base_window8_256": "Swin_V2_B_Weights.IMAGENET1K_V1",
}
"""name -> other weights of the same architecture, trained by torchvision, which downloads them itself."""


def _row(full_name: str, release: str, top1: float | None, top5: float | None) -> Weights:
    name, _, tag = full_name.partition(".")
    release = release if release.startswith("https:") else RELEASES + release
    return Weights(name, tag, release, top1, top5, None if full_name in _NOT_ON_HUB else f"timm/{full_name}")


WEIGHTS: dict[str, Weights] = {full_name: _row(full_name, *row) for full_name, row in _PUBLISHED.items()}
"""name.tag -> weights; of one name, the default first."""


def list_weights(pattern: str = "*") -> list[Weights]:
    """The public weights of which name, or name.tag, matches a shell pattern, sorted by name, the default tag first."""
    found = [entry for entry in WEIGHTS.values() if fnmatchcase(entry.name, pattern) or fnmatchcase(entry.full_name, pattern)]
    return sorted(found, key=lambda entry: (entry.name, tags_of(entry.name).index(entry.tag)))


def find_weights(name: str) -> Weights:
    """The weights meant by `name` (its default tag), `name.tag` or `name_in22k`.

    Errors: UnknownNameError for a name or a tag that does not exist, CheckpointError where no weights were ever published.
    """
    get_config(name)
    base, _, tag = name.partition(".")
    if base.endswith("_in22k"):
        base, tag = base.removesuffix("_in22k"), "ms_in22k"
    tags = tags_of(base)
    if not tags:
        raise CheckpointError(
            f"{name} has no public weights: it is a preset of swinkit, to be trained. `swinkit models --pretrained` lists what there is."
        )
    return WEIGHTS[f"{base}.{tag or tags[0]}"]
