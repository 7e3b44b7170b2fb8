"""Batches whose content depends on the seed, the epoch and the image alone, never on the number of workers."""

from __future__ import annotations

import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from swinkit.data.sets import EpochOrder, ImageSet
from swinkit.errors import DataError, SwinkitError

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
Draw: TypeAlias = tuple[int, int]
"""(epoch, index): one image at one time."""

_64_BITS = 2**64 - 1


def make_loader(
    images: ImageSet,
    transform: Callable[[Image.Image], Tensor],
    mode: str,
    *,
    batch_size: int,
    train: bool,
    seed: int,
    workers: int,
    drop_last: bool = False,
    pin_memory: bool = False,
    part: tuple[int, int] = (0, 1),
    with_neighbour: bool = False,
) -> Loader:
    """Batches of a set: (images float32 (B, C, H, W), labels int64 (B,), indices int64 (B,)).

    mode: "RGB" or "L". train: shuffle anew each epoch and seed the transform for every image; else keep the order and seed nothing.
    workers: processes that decode; 0 does it in this one. part: (number, count) of a process among those that train together: a batch
    is a block of what one process with batches `count` times as large would take; with_neighbour puts the image before that block in
    front of it, for mixing. Raises DataError if no batch comes out of it, and while iterating, InputError for an image that cannot be
    read.
    """
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size must be at least 1 and workers at least 0, not {batch_size} and {workers}.")
    batches = _Batches(
        len(images), batch_size, shuffle=train, seed=seed, drop_last=drop_last, part=part, with_neighbour=with_neighbour
    )  # fmt: skip
    batches.epoch_order = getattr(images, "epoch_order", None)
    if len(batches) == 0:
        raise DataError(f"{len(images)} images make no batch of {batch_size * part[1]}. Add images, or lower the batch size.")
    return Loader(_Samples(images, transform, mode, seed if train else None), batches, workers, pin_memory)


class Loader:
    """What make_loader returns: iterate over it once per epoch, after set_epoch."""

    def __init__(self, samples: _Samples, batches: _Batches, workers: int, pin_memory: bool) -> None:
        self._batches = batches
        self._loader: DataLoader[Any] = DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_interrupt,
            persistent_workers=workers > 0,
            # A generator of its own, else every epoch would draw from the global one.
            generator=torch.Generator(),
        )
        # Workers that are left at exit would be waited for, and those that ignore SIGTERM (see below) forever.
        weakref.finalize(self, _end_workers, self._loader)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch that the next iterations go through, from its batch number start_batch on.

        Raises DataError if the epoch has no such batch; its length is allowed and gives none.
        """
        if epoch < 0 or not 0 <= start_batch <= len(self):
            raise DataError(f"Epochs count from 0 and have {len(self)} batches; epoch {epoch} cannot start at batch {start_batch}.")
        self._batches.epoch, self._batches.start = epoch, start_batch

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever it starts."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in self._loader:
                if isinstance(batch, SwinkitError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "A process that loads images was killed, perhaps because memory ran out; use fewer --workers or smaller batches."
            ) from error


class _Batches(Sampler[list[Draw]]):
    """The batches of an epoch as lists of draws; the order comes from (seed, epoch)."""

    def __init__(
        self, count: int, batch_size: int, *, shuffle: bool, seed: int, drop_last: bool, part: tuple[int, int], with_neighbour: bool
    ) -> None:
        self.count, self.batch_size, self.shuffle, self.seed, self.drop_last = count, batch_size, shuffle, seed, drop_last
        self.part, self.with_neighbour = part, with_neighbour
        self.epoch = self.start = 0
        # Of sets that are read best in some orders, such as tar shards; None takes any.
        self.epoch_order: EpochOrder | None = None

    def __len__(self) -> int:
        together = self.batch_size * self.part[1]
        return self.count // together if self.drop_last else -(-self.count // together)

    def __iter__(self) -> Iterator[list[Draw]]:
        order, epoch = self._order().tolist(), self.epoch
        together = self.batch_size * self.part[1]
        for batch in range(self.start, len(self)):
            yield [(epoch, index) for index in self._block(order[batch * together : (batch + 1) * together])]

    def _block(self, together: list[int]) -> list[int]:
        first = self.part[0] * self.batch_size
        neighbour = [together[first - 1]] if self.with_neighbour else []
        return neighbour + together[first : first + self.batch_size]

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.count)
        if self.epoch_order:
            return torch.from_numpy(self.epoch_order(hashed(self.seed, self.epoch)))
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(hashed(self.seed, self.epoch)))


class _Samples(Dataset[Batch]):
    """Turns a list of draws into a batch; one whole batch at a time, so that the global generator is put back only once."""

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], Tensor], mode: str, seed: int | None) -> None:
        self.images, self.transform, self.mode, self.seed = images, transform, mode, seed
        self.labels = torch.from_numpy(np.array(images.labels, dtype=np.int64))

    def __getitems__(self, draws: Sequence[Draw]) -> Batch | SwinkitError:
        state = torch.get_rng_state()
        try:
            pixels = torch.stack([self._sample(epoch, index) for epoch, index in draws])
        except SwinkitError as error:
            # Raised in a worker it would arrive as a traceback inside a message; sent as a value it arrives as it is.
            return error
        finally:
            torch.set_rng_state(state)
        indices = torch.tensor([index for _, index in draws])
        return pixels, self.labels[indices], indices

    def _sample(self, epoch: int, index: int) -> Tensor:
        image = self.images.image(index, self.mode)
        if self.seed is not None:
            # torch.manual_seed would also visit every accelerator, at a hundred times the cost.
            torch.default_generator.manual_seed(hashed(self.seed, epoch, index))
        return self.transform(image)


def hashed(*numbers: int) -> int:
    """A 64-bit hash whose every bit depends on every number (splitmix64's finaliser after each)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _64_BITS
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _64_BITS
        state ^= state >> 31
    return state


def _as_is(batch: Any) -> Any:
    return batch


def _end_workers(loader: DataLoader[Any]) -> None:
    iterator: Any = loader._iterator
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _ignore_interrupt(_worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the main process saves first and then stops its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
