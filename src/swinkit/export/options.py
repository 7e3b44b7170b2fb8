"""What is asked for, checked before anything is computed."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

import swinkit
from swinkit.backbone import SwinBackbone
from swinkit.build import from_pretrained
from swinkit.config import pair
from swinkit.data import Preprocess
from swinkit.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from swinkit.export.formats import FORMATS, Format
from swinkit.export.layers import Form
from swinkit.export.spelling import spell
from swinkit.export.turns import Turns, plan_turns
from swinkit.export.wrapping import InDtype, WithPreprocessing
from swinkit.fields import SizeLike, size, whole
from swinkit.model import SwinTransformer, WindowAttention, window_attention
from swinkit.runtimes.facts import Facts
from swinkit.standard import difference


def choose(to: str, dtype: str, dynamic: bool) -> Format:
    """The format, and that its packages are here. Errors: UnknownNameError, ConfigError."""
    if to not in FORMATS:
        raise UnknownNameError("export format", to, FORMATS)
    form = FORMATS[to]
    if dtype not in form.dtypes:
        raise ConfigError(f"dtype is {dtype!r}; {to} can be {', '.join(form.dtypes)}.")
    if missing := [name for name in form.packages if find_spec(name) is None]:
        raise ConfigError(f"Exporting to {to} needs {' and '.join(missing)}; install with: pip install 'swinkit[{form.extra}]'")
    return form


def check_out(file: Path, form: Format, to: str, overwrite: bool) -> None:
    """Errors: ConfigError for another suffix, CheckpointError for a file that is there."""
    if file.suffix != form.suffix:
        raise ConfigError(f"{file} is no name for {to}; give one ending in {form.suffix}.")
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; give the name of a file.")
    if file.exists() and not overwrite:
        raise CheckpointError(f"{file} exists already; choose another name, or pass --overwrite (overwrite=True).")


def check_model(source: nn.Module | str | Path) -> SwinTransformer | SwinBackbone:
    """A model as swinkit builds it. Errors: CheckpointError; InputError for another kind of module, or one with layers replaced."""
    model = source if isinstance(source, nn.Module) else from_pretrained(source)
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, SwinTransformer | SwinBackbone):
        raise InputError(f"Got a {type(model).__name__}; expected a SwinTransformer or a SwinBackbone.")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError("The model is on the meta device and has no weights; load them first.")
    if problem := difference(model):
        raise InputError(f"{problem} Only the model as swinkit builds it can be exported.")
    if broken := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
        raise InputError(f"{broken[0]} holds numbers that are not finite; nothing could be compared with them.")
    return model


def as_defined(model: SwinTransformer | SwinBackbone) -> SwinTransformer | SwinBackbone:
    """A copy in float32 on the CPU, for inference, with attention by its definition: what files are compared with."""
    own = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    for module in own.modules():
        if isinstance(module, WindowAttention):
            module.attend = window_attention
    return own


def make_facts(
    model: SwinTransformer | SwinBackbone,
    dynamic: bool,
    img_size: SizeLike | None,
    batch_size: int | None,
    with_preprocessing: bool,
    dtype: str,
) -> Facts:
    """What the file will say about itself. Errors: ConfigError."""
    if dynamic and img_size is not None:
        raise ConfigError(f"img_size is {img_size}, but the file takes any size; give --fixed (dynamic=False), or leave it out.")
    fixed = None if dynamic else pair(size("img_size", model.config.img_size if img_size is None else img_size))
    if fixed is not None:
        model.config.check_input((1, model.config.in_chans, *fixed))
    preprocess = dict(model.preprocess)
    if with_preprocessing and not preprocess:
        raise ConfigError("The model does not say how to prepare images; save it with save_pretrained(..., preprocess=...) first.")
    if preprocess and fixed is not None:
        preprocess["size"] = list(fixed)
    if preprocess:
        Preprocess.from_dict(preprocess)
    return Facts(
        config=model.config,
        labels=tuple(model.labels),
        preprocess=preprocess,
        origin=dict(model.origin),
        out_indices=model.out_indices if isinstance(model, SwinBackbone) else None,
        batch_size=None if batch_size is None else whole("batch_size", batch_size, 1),
        img_size=fixed,
        with_preprocessing=with_preprocessing,
        dtype=dtype,
        version=swinkit.__version__,
    )


def build(model: SwinTransformer | SwinBackbone, facts: Facts, to: str, int8: bool = False) -> nn.Module:
    """The module to capture: the model spelled for the sizes, in its dtype, with preparation around it.

    int8: 8 bits will come of it, whose ranges belong to the layers of all images together.
    """
    graph_runtime = to in ("onnx", "openvino") and facts.img_size is not None
    form = Form(separate=graph_runtime, operator=graph_runtime and to == "onnx" and facts.dtype == "float32")
    other_dtype = facts.dtype != "float32" and to != "openvino"
    model = copy.deepcopy(model) if other_dtype else model  # whose weights the module shares
    turns = plan_turns(facts.config, facts.img_size, facts.batch_size) if facts.img_size and graph_runtime and not int8 else None
    net = spell(model, facts.img_size, form=form, turns=turns or Turns(facts.batch_size))
    net = InDtype(net, getattr(torch, facts.dtype)) if other_dtype else net
    if facts.with_preprocessing:
        net = WithPreprocessing(net, Preprocess.from_dict(facts.preprocess), facts.gives_probabilities)
    return net.eval()


def describe(facts: Facts) -> str:
    """Which images a file takes, in words."""
    sides = "any size" if facts.img_size is None else f"{facts.img_size[0]} x {facts.img_size[1]} pixels"
    count = (
        "any number of images" if facts.batch_size is None else f"{facts.batch_size} image{'s' if facts.batch_size > 1 else ''} at a time"
    )
    kind = "uint8, channels last" if facts.with_preprocessing else "normalised float32"
    return f"{count} of {sides}, {kind}; {facts.precision}"
