"""Recipe: everything that decides a training run, read from YAML and overridden from the command line. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self, get_args, get_origin, get_type_hints

import yaml

from swinkit.errors import ConfigError, UnknownNameError
from swinkit.fields import require

DEFAULT_DATA = "fashion-mnist-sample"
DATA_HELP = "A built-in data set, a folder of images, a table (.csv, .tsv, .parquet), tar shards ('x-{00..09}.tar') or hf:OWNER/NAME."
DEVICE_HELP = '"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".'

NOT_NEGATIVE = (
    *("warmup_epochs", "weight_decay", "clip_grad", "mixup", "cutmix", "min_lr"),
    *("workers", "threads", "seed", "checkpoint_steps", "checkpoint_minutes"),
)


def _field(default: Any, says: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": says})


@dataclass(frozen=True)
class Recipe:
    """One training run. Names are timm's where timm has one."""

    data: str = _field(DEFAULT_DATA, DATA_HELP)
    val_fraction: float | None = _field(None, "Part of the training images held out for validation where the data has no val/ of its own.")
    skip_broken: bool = _field(False, "Train without the images that cannot be read or are smaller than a patch, instead of stopping.")
    model: str = _field("swin_nano_patch2_window7_28", "A name from `swinkit models`; with pretrained also a path or hf-hub:OWNER/NAME.")
    pretrained: bool = _field(False, "Fine-tune: start from the weights that model names, under a new head where the classes differ.")
    freeze: str = _field(
        "", 'With pretrained: a number freezes the patch embedding and so many stages, "all-but-head" all but the classifier.'
    )
    img_size: int | None = _field(None, "Image size in pixels; by default the model's.")
    window_size: int | None = _field(None, "Window size in tokens; by default the model's.")
    ape: bool | None = _field(None, "Whether to add an absolute position embedding; by default as the model has it.")
    drop_path: float | None = _field(None, "Stochastic depth of the last block; by default the model's.")
    epochs: int = _field(30, "Passes over the training images.")
    batch_size: int = _field(64, "Images per step (per forward pass; see grad_accum_steps).")
    grad_accum_steps: int = _field(1, "Forward passes whose gradients are added up to one optimiser step.")
    opt: str = _field("adamw", '"adamw", or "muon": Muon for the matrices inside and AdamW for the rest, which needs fewer epochs.')
    muon_lr: float = _field(0.02, "Highest learning rate of Muon's matrices.")
    lr: float = _field(1e-3, "Highest learning rate, for the batch size given.")
    min_lr: float = _field(1e-5, "Learning rate at the end of the cosine.")
    layer_decay: float = _field(1.0, "How much slower each layer learns than the one after it, such as 0.8; 1 is off.")
    warmup_epochs: float = _field(1.0, "Epochs over which the learning rate rises linearly; at most half of the run.")
    weight_decay: float = _field(0.05, "AdamW's weight decay; norms, biases and position parameters have none.")
    beta2: float = _field(0.999, "AdamW's second moment decay.")
    clip_grad: float = _field(5.0, "Largest gradient norm; 0 turns clipping off.")
    smoothing: float = _field(0.1, "Label smoothing.")
    mixup: float = _field(0.0, "Mixup alpha; 0 is off.")
    cutmix: float = _field(0.0, "CutMix alpha; 0 is off.")
    scale: tuple[float, float] | None = _field(None, "Smallest and largest part of the image that a random resized crop keeps.")
    hflip: float = _field(0.5, "Probability of a mirror image.")
    crop_padding: int = _field(0, "Pixels of border before a random crop without scaling.")
    aa: str = _field("", 'RandAugment as "rand-m9-n2" (magnitude 9 of 10, 2 operations); empty is off.')
    color_jitter: float = _field(0.0, "Strength of brightness, contrast and saturation jitter.")
    reprob: float = _field(0.0, "Probability of random erasing.")
    mean: tuple[float, ...] | None = _field(None, "Pixel mean per channel, in [0, 1]; by default the weights' or the data's.")
    std: tuple[float, ...] | None = _field(None, "Pixel standard deviation per channel; by default the weights' or the data's.")
    interpolation: str | None = _field(None, '"bicubic" or "bilinear"; by default the weights\' or bicubic.')
    crop_pct: float | None = _field(None, "Part of the resized image that evaluation keeps; by default the weights' or 1.")
    model_ema: bool = _field(False, "Keep a running average of the weights, which is then what is evaluated and saved.")
    model_ema_decay: float = _field(0.998, "How much of the average stays in each step.")
    weight_init: str = _field(
        "original", '"original" (deviation 0.02), "wide", which starts narrow models much faster, or "local": heads look beside the token.'
    )
    amp: bool | None = _field(None, "Mixed precision; by default where the hardware computes in bfloat16.")
    amp_dtype: str = _field("bfloat16", 'Mixed precision in "bfloat16" or "float16".')
    compile: bool = _field(False, "Compile the model with torch.compile.")
    memory: str = _field("full", '"full", or "lean", which computes LayerNorm and GELU again in the backward pass instead of keeping them.')
    grad_checkpointing: bool = _field(False, "Recompute activations in the backward pass to save memory.")
    shard: bool = _field(False, "Several processes: share the weights out among them (FSDP2), for models that do not fit one.")
    checkpoint_steps: int = _field(0, "Save every so many steps, besides after each epoch; 0 does not.")
    checkpoint_minutes: float = _field(10.0, "Save when so many minutes have passed since the last time; 0 does not.")
    device: str = _field("auto", DEVICE_HELP)
    workers: int = _field(0, "Processes that load images; 0 loads in the main process.")
    threads: int = _field(0, "CPU threads; 0 leaves torch's choice.")
    seed: int = _field(0, "Seed of everything random.")

    def __post_init__(self) -> None:
        if isinstance(self.freeze, int) and not isinstance(self.freeze, bool):  # as YAML and Python have it
            object.__setattr__(self, "freeze", str(self.freeze))
        for field, kind in get_type_hints(type(self)).items():
            object.__setattr__(self, field, _fitted(field, getattr(self, field), kind))
        for field in ("epochs", "batch_size", "grad_accum_steps"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        for field in NOT_NEGATIVE:
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")
        for field in ("smoothing", "model_ema_decay", "beta2"):
            require(0 <= getattr(self, field) < 1, field, getattr(self, field), "from 0 up to, not including, 1")
        require(self.crop_pct is None or 0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "above 0 and at most 1")
        require(self.interpolation in (None, "bicubic", "bilinear"), "interpolation", self.interpolation, "bicubic or bilinear")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.amp_dtype in ("bfloat16", "float16"), "amp_dtype", self.amp_dtype, "bfloat16 or float16")
        require(self.weight_init in ("original", "wide", "local"), "weight_init", self.weight_init, "original, wide or local")
        require(self.memory in ("full", "lean"), "memory", self.memory, "full or lean")
        require(self.opt in ("adamw", "muon"), "opt", self.opt, "adamw or muon")
        require(self.muon_lr > 0, "muon_lr", self.muon_lr, "above 0")
        require(not (self.amp_dtype == "float16" and self.opt == "muon"), "amp_dtype", "float16", "bfloat16 with opt muon")
        require(not (self.shard and self.opt == "muon"), "shard", True, "false with opt muon, which needs whole matrices")
        self._check_pretrained()
        self.randaugment()

    def _check_pretrained(self) -> None:
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0 and at most 1")
        fits = re.fullmatch(r"|\d+|all-but-head", self.freeze) is not None
        require(fits, "freeze", self.freeze, "a number of stages, all-but-head, or nothing")
        if self.freeze and not self.pretrained:
            raise ConfigError(f"freeze is {self.freeze!r}, which keeps weights as they were loaded; add pretrained, or leave it out.")
        if self.pretrained and self.weight_init != "original":
            raise ConfigError(
                f"weight_init is {self.weight_init!r}, which would overwrite pretrained weights; leave it out, or train without pretrained."
            )

    def randaugment(self) -> tuple[int, int]:
        """(operations, magnitude) of `aa`; timm counts magnitudes to 10, torchvision in 31 bins."""
        if not self.aa:
            return (0, 0)
        found = re.fullmatch(r"rand-m(\d+)(?:-n(\d+))?", self.aa)
        require(found is not None, "aa", self.aa, 'empty or like "rand-m9-n2"')
        assert found is not None
        return (int(found[2] or 2), min(3 * int(found[1]), 30))

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, checked again. Errors: UnknownNameError, ConfigError."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise UnknownNameError("recipe option", name, known)
        return dataclasses.replace(self, **changes)

    def to_yaml(self) -> str:
        """The text that `load_recipe` reads back."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def list_recipes() -> list[str]:
    """Names of the recipes that come with swinkit."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_file: str | Path, **changes: Any) -> Recipe:
    """A recipe by name or from a YAML file, such as a run's config.yaml, with some values changed.

    Errors: UnknownNameError for a recipe or an option that does not exist, ConfigError for values or files that do not fit.
    """
    path = Path(name_or_file)
    if str(name_or_file) in list_recipes():
        text = (_folder() / f"{name_or_file}.yaml").read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise UnknownNameError("recipe", str(name_or_file), list_recipes(), hint="A path to a YAML file works too.")
    return Recipe().replace(**(_parsed(text, path) | changes))


def recipe_for(data: str, pretrained: bool = False) -> str:
    """The name of the recipe that suits a data set, or fine-tuning, when none is asked for."""
    if pretrained:
        return "finetune"
    return data if data in list_recipes() else "folder"


def _folder() -> Any:
    return resources.files("swinkit.train") / "recipes"


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} holds {type(content).__name__}; expected one `option: value` per line.")
    return {str(name): value for name, value in content.items()}


def _fitted(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type, where nothing is lost by it (1 for a float, a list for a tuple, 1e-3 that YAML took for text)."""
    kinds = [option for option in (get_args(kind) if type(None) in get_args(kind) else (kind,)) if option is not type(None)]
    if value is None and len(kinds) < len(get_args(kind) or kinds):
        return None
    wanted = kinds[0]
    if get_origin(wanted) is tuple:
        require(isinstance(value, list | tuple), name, value, "a list of numbers")
        items = tuple(_fitted(name, item, float) for item in value)
        count = get_args(wanted)
        require(Ellipsis in count or len(items) == len(count), name, value, f"{len(count)} numbers")
        return items
    if wanted is float:
        return _as_float(name, value)
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    require(fits, name, value, {int: "a whole number", bool: "true or false", str: "text"}[wanted])
    return value


def _as_float(name: str, value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    require(number == number and abs(number) != float("inf"), name, value, "a finite number")
    return number
