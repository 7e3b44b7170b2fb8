"""Images and labels: reading, data sets, transforms, loaders. Knows nothing of models."""

from swinkit.data.images import IMAGE_SUFFIXES, find_images, read_image
from swinkit.data.loader import Loader, make_loader
from swinkit.data.sets import ImageSet
from swinkit.data.sources import BUILT_IN, Splits, absolute_source, open_data, open_split
from swinkit.data.transforms import Augment, Preprocess, batch_mixer, eval_transform, train_transform

__all__ = [
    "BUILT_IN",
    "IMAGE_SUFFIXES",
    "Augment",
    "ImageSet",
    "Loader",
    "Preprocess",
    "Splits",
    "absolute_source",
    "batch_mixer",
    "eval_transform",
    "find_images",
    "make_loader",
    "open_data",
    "open_split",
    "read_image",
    "train_transform",
]
