"""Batches depend on the seed, the epoch and the image, and on nothing else."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swinkit.data import Augment, ImageSet, Loader, Preprocess, eval_transform, make_loader, open_data, open_split, train_transform
from swinkit.data.loader import hashed
from swinkit.data.sets import Subset
from swinkit.errors import DataError, InputError

P = Preprocess(size=(28, 28), mean=(0.286,), std=(0.353,))
AUGMENT = Augment(crop_padding=2, erasing=0.5, randaugment_ops=1)

# From Python 3.12 on a fork beside threads warns; torch forks its workers all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return Subset(open_data("fashion-mnist-sample").train, np.arange(50))


def loader(images: ImageSet, workers: int = 0, seed: int = 7, batch_size: int = 8, drop_last: bool = False) -> Loader:
    transform = train_transform(P, AUGMENT)
    return make_loader(images, transform, "L", batch_size=batch_size, train=True, seed=seed, workers=workers, drop_last=drop_last)


def epoch(batches: Loader, number: int, start_batch: int = 0) -> tuple[torch.Tensor, ...]:
    batches.set_epoch(number, start_batch)
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def same(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_workers_change_nothing(images: ImageSet) -> None:
    alone, helped = loader(images), loader(images, workers=2)
    for number in (0, 3):
        assert same(epoch(alone, number), epoch(helped, number))
    # An epoch that is left early must not leak into the next one.
    helped.set_epoch(4)
    next(iter(helped))
    assert same(epoch(alone, 5), epoch(helped, 5))


def test_a_batch(images: ImageSet) -> None:
    pixels, labels, indices = next(iter(loader(images)))
    assert (pixels.shape, pixels.dtype) == ((8, 1, 28, 28), torch.float32)
    assert (labels.dtype, indices.dtype) == (torch.int64, torch.int64)
    assert labels.tolist() == images.labels[indices.numpy()].tolist()


def test_every_image_comes_once(images: ImageSet) -> None:
    batches = loader(images)
    assert (len(batches), len(list(batches))) == (7, 7)
    orders = [epoch(batches, number)[2].tolist() for number in range(3)]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])


def test_epochs_and_seeds_differ_in_augmentation_too(images: ImageSet) -> None:
    def by_index(seed: int, number: int) -> torch.Tensor:
        pixels, _, indices = epoch(loader(images, seed=seed), number)
        return pixels[indices.argsort()]

    first, next_epoch, other_seed = by_index(7, 0), by_index(7, 1), by_index(8, 0)
    assert torch.equal(first, by_index(7, 0))
    for other in (next_epoch, other_seed):
        assert sum(torch.equal(*pair) for pair in zip(first, other, strict=True)) < 5


def test_batch_size_does_not_change_an_image(images: ImageSet) -> None:
    assert same(epoch(loader(images, batch_size=8), 2), epoch(loader(images, batch_size=3), 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_the_middle_gives_the_tail(images: ImageSet, workers: int) -> None:
    whole = epoch(loader(images), 2)
    batches = loader(images, workers)
    assert same(tuple(part[3 * 8 :] for part in whole), epoch(batches, 2, start_batch=3))
    assert same(epoch(loader(images), 3), epoch(batches, 3))
    batches.set_epoch(2, start_batch=7)
    assert list(batches) == []


def test_the_global_generators_are_left_alone(images: ImageSet) -> None:
    before = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
    epoch(loader(images), 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), pickle.dumps(np.random.get_state()))


def test_drop_last(images: ImageSet) -> None:
    batches = loader(images, drop_last=True)
    assert (len(batches), len(epoch(batches, 0)[1])) == (6, 48)
    with pytest.raises(DataError, match="50 images make no batch of 51"):
        loader(images, batch_size=51, drop_last=True)
    with pytest.raises(DataError, match="batch_size must be at least 1"):
        loader(images, batch_size=0)
    with pytest.raises(DataError, match="cannot start at batch 9"):
        batches.set_epoch(0, start_batch=9)


def test_evaluation_keeps_the_order_and_the_generator(images: ImageSet) -> None:
    drawn: list[float] = []

    def draw(image: Image.Image) -> torch.Tensor:
        drawn.append(float(torch.rand(())))
        return eval_transform(P)(image)

    batches = make_loader(images, draw, "L", batch_size=16, train=False, seed=0, workers=0)
    assert epoch(batches, 0)[2].tolist() == list(range(50))
    assert len(set(drawn[:16])) == 16


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_stops_with_its_path(tmp_path: Path, workers: int) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (28, 28)).save(tmp_path / name)
    (tmp_path / "b/3.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(InputError, match=r"b/3\.png") as caught:
        list(loader(open_split(tmp_path), workers))
    assert "\n" not in str(caught.value)


def test_everything_a_spawned_worker_needs_can_be_sent(images: ImageSet) -> None:
    inner = loader(images)._loader
    samples, _, _ = pickle.loads(pickle.dumps((inner.dataset, inner.collate_fn, inner.worker_init_fn)))
    draws = [(0, 3), (1, 3)]
    assert same(samples.__getitems__(draws), inner.dataset.__getitems__(draws))


def test_the_hash_has_no_collisions_and_no_pattern() -> None:
    values = [hashed(seed, number, index) for seed in range(3) for number in range(30) for index in range(300)]
    assert len(set(values)) == len(values)
    low = np.array(values, dtype=np.uint64) & np.uint64(2**32 - 1)
    assert np.bincount((low >> np.uint64(28)).astype(int)).min() > 0.9 * len(values) / 16
    assert hashed(1, 2) != hashed(2, 1)
    assert hashed(-1) != hashed(1)
