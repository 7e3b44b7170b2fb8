"""The model that is measured: its weights in every layout that somebody wants, images, and the outputs that all must have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import swinkit
from swinkit.backbone import SwinBackbone
from swinkit.bench.jobs import NATIVE
from swinkit.checkpoints.hub import parse_id
from swinkit.config import SwinConfig, pair
from swinkit.errors import CheckpointError, ConfigError, InputError
from swinkit.fields import SizeLike
from swinkit.model import SwinTransformer

Model = SwinTransformer | SwinBackbone
RANDOM = "random weights"
SEED = 0
CHUNK = 8
"""Images computed at a time for the reference."""
FILES = {"torchvision": "torchvision.pth"}
"""Layouts that are a file; the others are folders."""


def resolve(model: str | Path | SwinConfig | nn.Module, img_size: SizeLike | None) -> tuple[Model, str, str]:
    """(the model, its name, whose weights it has): a run, a checkpoint, a hub's name, a variant or a config with random weights, a module.

    Errors: UnknownNameError, CheckpointError, ConfigError; InputError for another kind of module.
    """
    if isinstance(model, nn.Module):
        return _own(model, img_size), type(model).__name__, "weights as given"
    if isinstance(model, SwinConfig):
        return randomised(swinkit.create_model(model, img_size=img_size)), f"Swin V{model.version} from a config", RANDOM
    if Path(model).expanduser().exists() or parse_id(model):
        return swinkit.from_pretrained(model, img_size=img_size), str(model), "weights as saved"
    return randomised(swinkit.create_model(str(model), img_size=img_size)), str(model), RANDOM


def _own(model: nn.Module, img_size: SizeLike | None) -> Model:
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, SwinTransformer | SwinBackbone):
        raise InputError(f"Got a {type(model).__name__}; expected a name, a folder, a SwinConfig, a SwinTransformer or a SwinBackbone.")
    if img_size is not None and pair(img_size) != pair(model.config.img_size):
        raise ConfigError(
            f"img_size is {img_size}, and the model is for {model.config.img_size}; give swinkit.resize(model, img_size=...)."
        )
    return model


def randomised(model: Model) -> Model:
    """Every parameter random, so that a forgotten or swapped one shows in the outputs: a new V2's norms, for one, silence its blocks."""
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(_spread(name, parameter) * draw + _centre(name, parameter))
    return model.eval()


def _centre(name: str, parameter: Tensor) -> float:
    return 2.3 if name.endswith("logit_scale") else 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0


def _spread(name: str, parameter: Tensor) -> float:
    if name.endswith("logit_scale") or parameter.ndim == 1:
        return 0.1
    return 0.5 if "bias_table" in name else float(parameter[0].numel() ** -0.5)


@dataclass
class Subject:
    """A model in a folder of its own, which workers read."""

    model: Model
    folder: Path
    images: Path = field(init=False)
    wanted: list[np.ndarray] = field(init=False)
    """The outputs of plain swinkit in float32, for all images."""
    _refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images = self.folder / "images.npy"

    def lay_out(self, images: int) -> None:
        """Write weights and so many images, and compute what everybody must get.

        Errors: ConfigError if the memory cannot hold them; InputError for outputs that are not finite or all zero.
        """
        check_memory(self.model, images)
        swinkit.save_pretrained(self.model, self.folder / NATIVE)
        config = self.model.config
        x = torch.randn(images, config.in_chans, *pair(config.img_size), generator=torch.Generator().manual_seed(SEED))
        np.save(self.images, x.numpy())
        self.wanted = _outputs(self.model, x)
        if not all(np.isfinite(array).all() and array.any() for array in self.wanted):
            raise InputError("This model's outputs for random images are not finite, or all zero, so nothing can be compared with them.")

    def layout(self, name: str) -> Path:
        """The weights in a layout, converted when first asked for. Errors: CheckpointError where the peer cannot be this model."""
        path = self.folder / FILES.get(name, name)
        if name in self._refused:
            raise CheckpointError(self._refused[name])
        if not path.exists():
            try:
                swinkit.convert(self.folder / NATIVE, path, to=name)
            except CheckpointError as error:
                self._refused[name] = str(error)
                raise
        return path

    def difference(self, outputs: list[np.ndarray]) -> float:
        """Of the largest output, the fraction by which one differs; for maps, the largest of theirs. inf for other shapes."""
        batch = len(outputs[0]) if outputs else 0
        wanted = [array[:batch] for array in self.wanted]
        if [array.shape for array in outputs] != [array.shape for array in wanted]:
            return float("inf")
        return max(_difference(got, right) for got, right in zip(outputs, wanted, strict=True))

    def shapes(self, batch_size: int) -> list[list[int]]:
        """(rows, in, out) of the linear layers of each stage."""
        config, found = self.model.config, []
        for dim, grid in list(zip(config.dims, config.grids, strict=True))[: len(self.model.layers)]:
            rows, hidden = batch_size * grid[0] * grid[1], int(dim * config.mlp_ratio)
            found += [[rows, dim, 3 * dim], [rows, dim, hidden], [rows, hidden, dim]]
        return found

    def gflop(self) -> float:
        """Billions of floating-point operations for one image: twice the multiply-adds that `swinkit models` prints."""
        from torch.utils.flop_counter import FlopCounterMode

        config, model = self.model.config, self.model
        with torch.device("meta"):
            copy: nn.Module = SwinTransformer(config) if isinstance(model, SwinTransformer) else SwinBackbone(config, model.out_indices)
            image = torch.empty(1, config.in_chans, *pair(config.img_size))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            copy.eval()(image)
        return float(counter.get_total_flops()) / 1e9


def _difference(got: np.ndarray, wanted: np.ndarray) -> float:
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())


def _outputs(model: Model, x: Tensor) -> list[np.ndarray]:
    parts: list[list[Any]] = []
    with torch.no_grad():
        for chunk in x.split(CHUNK):
            out = model.float().eval()(chunk)
            parts.append([out] if isinstance(out, Tensor) else list(out))
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def check_memory(model: Model, images: int) -> None:
    """Raise ConfigError if even the least that a model and its batch take is more than is free. Where the system does not say, pass."""
    config = model.config
    tokens = config.grids[0][0] * config.grids[0][1]
    per_image = 4 * (config.in_chans * int(np.prod(pair(config.img_size))) + 2 * tokens * int(config.embed_dim * config.mlp_ratio))
    least, free = 2 * sum(parameter.nbytes for parameter in model.parameters()) + images * per_image, free_memory()
    if free is not None and least > free:
        raise ConfigError(
            f"A batch of {images} images takes at least {least / 2**30:,.1f} GiB with this model, and {free / 2**30:,.1f} GiB are free; "
            "give a smaller batch_size or img_size."
        )


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say (it is Linux that does)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
