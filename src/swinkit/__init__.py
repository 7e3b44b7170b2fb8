"""swinkit: the Swin Transformer, V1 and V2.

    model = swinkit.create_model("swin_tiny_patch4_window7_224")
    swinkit.Predictor("runs/my-run")("photo.jpg")

Every name is loaded when it is first used, so importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "SwinConfig": "config",
    "SwinTransformer": "model",
    "window_attention": "model",
    "SwinBackbone": "backbone",
    "inspect": "convert",
    "create_model": "build",
    "from_pretrained": "build",
    "save_pretrained": "build",
    "map_classes": "resize",
    "push_to_hub": "publish",
    "list_models": "variants",
    "models": "catalogue",
    "Predictor": "predict",
    "Prediction": "tasks.classify",
    "Scores": "tasks.classify",
    "Preprocess": "data",
    "read_image": "data",
    "Embeddings": "embed",
    "Prepared": "prepare",
}
"""public name -> the module that defines it"""
_VERBS = ("train", "evaluate", "predict", "embed", "export", "report", "convert", "doctor", "resize", "prepare", "explain", "serve")
"""Modules that are called like the function of their name."""
_ROOMS = ("bench",)
"""Modules that hold several functions."""

if TYPE_CHECKING:
    from swinkit import bench
    from swinkit.backbone import SwinBackbone
    from swinkit.build import create_model, from_pretrained, save_pretrained
    from swinkit.catalogue import models
    from swinkit.config import SwinConfig
    from swinkit.convert import convert, inspect
    from swinkit.data import Preprocess, read_image
    from swinkit.doctor import doctor
    from swinkit.embed import Embeddings, embed
    from swinkit.evaluate import evaluate
    from swinkit.explain import explain
    from swinkit.export import export
    from swinkit.model import SwinTransformer, window_attention
    from swinkit.predict import Predictor, predict
    from swinkit.prepare import Prepared, prepare
    from swinkit.publish import push_to_hub
    from swinkit.report import report
    from swinkit.resize import map_classes, resize
    from swinkit.serve import serve
    from swinkit.tasks.classify import Prediction, Scores
    from swinkit.train import train
    from swinkit.variants import list_models

__all__ = [
    "Embeddings",
    "Prediction",
    "Predictor",
    "Prepared",
    "Preprocess",
    "Scores",
    "SwinBackbone",
    "SwinConfig",
    "SwinTransformer",
    "__version__",
    "bench",
    "convert",
    "create_model",
    "doctor",
    "embed",
    "evaluate",
    "explain",
    "export",
    "from_pretrained",
    "inspect",
    "list_models",
    "map_classes",
    "models",
    "predict",
    "prepare",
    "push_to_hub",
    "read_image",
    "report",
    "resize",
    "save_pretrained",
    "serve",
    "train",
    "window_attention",
]


def __getattr__(name: str) -> Any:
    if name in (*_VERBS, *_ROOMS):
        return import_module(f"swinkit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'swinkit' has no attribute {name!r}")
    value = getattr(import_module(f"swinkit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
