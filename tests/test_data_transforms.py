"""Preprocessing equals timm's; augmentation does what its fields say."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from swinkit.data import Augment, Preprocess, batch_mixer, eval_transform, train_transform
from swinkit.errors import ConfigError

GREY = Preprocess(size=(28, 28), mean=(0.286,), std=(0.353,))
COLOUR = Preprocess(size=(24, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
STILL = Augment(hflip=0.0)


def noise(height: int = 28, width: int = 28, mode: str = "L") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(height * 1000 + width).integers(1, 256, shape, dtype=np.uint8))


def by_hand(image: Image.Image, p: Preprocess = GREY) -> torch.Tensor:
    pixels = F.pil_to_tensor(image).float() / 255
    return (pixels - torch.tensor(p.mean)[:, None, None]) / torch.tensor(p.std)[:, None, None]


@pytest.mark.parametrize("image_size", [(37, 53), (53, 37), (40, 40), (20, 91), (24, 32)])
@pytest.mark.parametrize("size", [(24, 24), (24, 32), (32, 24)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.875])
def test_evaluation_equals_timm(image_size: tuple[int, int], size: tuple[int, int], crop_pct: float) -> None:
    timm_data = pytest.importorskip("timm.data")
    for interpolation in ("bicubic", "bilinear"):
        p = Preprocess(size, COLOUR.mean, COLOUR.std, interpolation, crop_pct)
        peer = timm_data.create_transform((3, *size), interpolation=interpolation, mean=p.mean, std=p.std, crop_pct=crop_pct)
        image = noise(*image_size, "RGB")
        torch.testing.assert_close(eval_transform(p)(image), peer(image), rtol=0, atol=1e-6)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    result = eval_transform(GREY)(noise())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, by_hand(noise()), rtol=0, atol=1e-6)
    torch.testing.assert_close(train_transform(GREY, STILL)(noise()), by_hand(noise()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("p", "mode"), [(GREY, "L"), (COLOUR, "RGB")])
def test_every_value_is_normalised_as_torchvision_does_to_the_bit(p: Preprocess, mode: str) -> None:
    values = np.resize(np.arange(256, dtype=np.uint8), (*p.size, 3))
    image = Image.fromarray(values if mode == "RGB" else np.ascontiguousarray(values[..., 0]))
    peer = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(p.mean, p.std)])
    result = eval_transform(p)(image)
    assert torch.equal(result, peer(image))
    assert result.is_contiguous()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("p", [GREY, COLOUR, Preprocess((64, 64), COLOUR.mean, COLOUR.std)])
def test_training_equals_torchvision_for_the_same_draws(p: Preprocess, interpolation: str) -> None:
    p = replace(p, interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    peer = v2.Compose(
        [
            v2.RandomResizedCrop(p.size, (0.08, 1.0), interpolation=mode, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(p.mean, p.std),
        ]
    )
    transform = train_transform(p, Augment(scale=(0.08, 1.0)))
    for seed, size in enumerate(((90, 120), (120, 90), (30, 200), (24, 32), (16, 16), (64, 64)) * 3):
        image = noise(*size, p.mode)
        torch.manual_seed(seed)
        expected = peer(image)
        torch.manual_seed(seed)
        assert torch.equal(transform(image), expected), (seed, size)


def test_mirroring() -> None:
    always, sometimes = train_transform(GREY, Augment(hflip=1.0)), train_transform(GREY, Augment(hflip=0.3))
    torch.testing.assert_close(always(noise()), by_hand(noise()).flip(-1))
    mirrored = sum(torch.allclose(sometimes(noise()), by_hand(noise()).flip(-1)) for _ in range(400))
    assert 80 <= mirrored <= 160


def test_padded_crops_are_all_the_shifts_and_black_outside() -> None:
    crop = train_transform(GREY, Augment(hflip=0.0, crop_padding=1))
    padded = by_hand(Image.fromarray(np.pad(np.asarray(noise()), 1)))
    shifts = {(top, left): padded[:, top : top + 28, left : left + 28] for top in range(3) for left in range(3)}
    seen: list[tuple[int, int]] = []
    for _ in range(150):
        result = crop(noise())
        seen += [shift for shift, expected in shifts.items() if torch.allclose(result, expected)]
    assert len(seen) == 150
    assert set(seen) == set(shifts)


def test_without_scale_what_sticks_out_is_cropped_at_random() -> None:
    image = Image.fromarray(np.tile(np.arange(56, dtype=np.uint8), (28, 1)))
    crop = train_transform(GREY, STILL)
    starts = {round(float(crop(image)[0, 0, 0] * 0.353 + 0.286) * 255) for _ in range(300)}
    assert starts == set(range(29))


def test_a_resized_crop_keeps_the_area_it_is_told() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 224, 2, dtype=np.uint8), (112, 1)))
    crop = train_transform(GREY, Augment(scale=(0.25, 0.25), ratio=(1.0, 1.0), hflip=0.0))
    results = [crop(ramp) * 0.353 * 255 for _ in range(20)]
    # A quarter of the area is half the width, so half of the ramp's 224 steps, less what resampling takes from the ends.
    spans = [float(result.max() - result.min()) for result in results]
    assert all(100 <= span <= 112 for span in spans)
    assert len({float(result.min()) for result in results}) > 5


def test_erasing_leaves_one_rectangle_of_zeros() -> None:
    erase = train_transform(GREY, Augment(hflip=0.0, erasing=1.0))
    areas = set()
    for _ in range(20):
        rows, columns = torch.nonzero(erase(noise())[0] == 0, as_tuple=True)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == height * width
        areas.add(height * width)
    assert min(areas) >= 0.01 * 784
    assert max(areas) <= 0.36 * 784
    assert len(areas) > 5


@pytest.mark.parametrize("p", [GREY, COLOUR])
@pytest.mark.parametrize("change", [{"scale": (0.3, 0.6)}, {"randaugment_ops": 2, "randaugment_magnitude": 20}, {"color_jitter": 0.4}])
def test_every_augmentation_changes_the_image_and_keeps_its_shape(p: Preprocess, change: dict[str, Any]) -> None:
    transform, image = train_transform(p, Augment(hflip=0.0, **change)), noise(*p.size, p.mode)
    results = [transform(image) for _ in range(8)]
    assert all(result.shape == (len(p.mean), *p.size) and result.dtype == torch.float32 for result in results)
    assert sum(not torch.allclose(result, by_hand(image, p)) for result in results) >= 6


@pytest.mark.parametrize("a", [Augment(crop_padding=2, erasing=0.5, randaugment_ops=2), Augment(scale=(0.2, 1.0), color_jitter=0.4)])
def test_torch_alone_decides_and_copies_agree(a: Augment) -> None:
    transform = train_transform(GREY, a)
    copy = pickle.loads(pickle.dumps(transform))
    results = []
    for one in (transform, copy):
        torch.manual_seed(5)
        results.append(torch.stack([one(noise()) for _ in range(20)]))
    assert torch.equal(*results)


def test_preprocess_survives_json() -> None:
    p = Preprocess(size=[24, 32], mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], interpolation="bilinear", crop_pct=0.9)  # type: ignore[arg-type]
    assert p.size == (24, 32)
    assert Preprocess.from_dict(json.loads(json.dumps(p.to_dict()))) == p
    assert (p.mode, GREY.mode, Preprocess(28, (0,), (1,)).size) == ("RGB", "L", (28, 28))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"size": (0, 28)}, "size is"),
        ({"size": (28.5, 28)}, "size is"),
        ({"size": (1, 2, 3)}, "size is"),
        ({"mean": (0.5, 0.5)}, "mean is"),
        ({"mean": "0.5"}, "mean is"),
        ({"std": (0.0,)}, "std is"),
        ({"std": (0.1, 0.2, 0.3)}, "std is"),
        ({"std": (float("nan"),)}, "std is"),
        ({"interpolation": "nearest"}, "bicubic or bilinear"),
        ({"crop_pct": 1.1}, "crop_pct is 1.1"),
        ({"mode": "L"}, "no field 'mode'"),
    ],
)
def test_a_wrong_preprocess_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Preprocess.from_dict(GREY.to_dict() | change)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="needs 'std'"):
        Preprocess.from_dict({"size": [28, 28], "mean": [0.5]})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (0.5, 1.5)}, "scale is"),
        ({"scale": (0.9, 0.5)}, "scale is"),
        ({"scale": (0.5, 1.0), "crop_padding": 2}, "crop_padding is 2"),
        ({"ratio": (1.0,)}, "ratio is"),
        ({"hflip": 1.5}, "hflip is 1.5"),
        ({"erasing": True}, "erasing is True"),
        ({"crop_padding": -1}, "crop_padding is -1"),
        ({"randaugment_ops": 1.5}, "randaugment_ops is 1.5"),
        ({"randaugment_magnitude": 31}, "randaugment_magnitude is 31"),
        ({"color_jitter": -0.1}, "color_jitter is -0.1"),
    ],
)
def test_a_wrong_augment_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Augment(**change)


def test_mixing_keeps_the_sum_and_uses_one_of_the_two() -> None:
    images, labels = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 16, 16).contiguous(), torch.arange(8) % 5
    mixer = batch_mixer(0.8, 1.0, 5)
    kinds = set()
    for _ in range(40):
        mixed, targets = mixer(images, labels)
        assert (mixed.shape, targets.shape, targets.dtype) == (images.shape, (8, 5), torch.float32)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        kinds.add("mixup" if bool((mixed != mixed.round()).any()) else "cutmix")
        # The part of the neighbour in the targets is its part in the pixels.
        share = targets[1, 1]
        torch.testing.assert_close(mixed[1].mean(), share * 1 + (1 - share) * 0)
    assert kinds == {"mixup", "cutmix"}
    assert torch.equal(images[:, 0, 0, 0], torch.arange(8.0))


def test_no_mixing_is_one_hot() -> None:
    images, labels = torch.rand(3, 1, 4, 4), torch.tensor([2, 0, 1])
    mixed, targets = batch_mixer(0, 0, 3)(images, labels)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.eye(3)[labels])
    with pytest.raises(ConfigError, match="mixup is -1"):
        batch_mixer(-1, 0, 3)
