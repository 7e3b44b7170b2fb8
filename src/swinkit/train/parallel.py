"""One model in several processes: replicated (DDP) or sharded (FSDP2), and random like in one process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from swinkit.model import DropPath, SwinTransformer
from swinkit.train.world import World


class BlockDropPath(DropPath):
    """Stochastic depth that draws for the images of all processes and keeps its own, so that their number changes nothing."""

    def __init__(self, rate: float, world: World) -> None:
        super().__init__(rate)
        self.world = world

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0.0:
            return branch
        B = branch.shape[0]
        keep = branch.new_empty(B * self.world.size, *(1,) * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * keep[self.world.rank * B :][:B].div_(1 - self.rate)


def draw_together(model: SwinTransformer, world: World) -> None:
    """Let the model's stochastic depth be that of one process with the whole batch."""
    for stage in model.layers if world.size > 1 else ():
        for block in stage.blocks:
            assert isinstance(block.drop_path, DropPath)
            block.drop_path = BlockDropPath(block.drop_path.rate, world)


def shard(model: SwinTransformer, device: torch.device) -> None:
    """Leave each process its part of every parameter; blocks are put together one at a time while they compute (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for stage in model.layers:
        for block in stage.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def replicate(model: nn.Module, forward: Callable[[Tensor], Tensor], device: torch.device) -> nn.Module:
    """The model with gradients averaged over all processes; `forward` is it, or it compiled."""
    from torch.nn.parallel import DistributedDataParallel

    # Of the position embedding's first axis, whose length is 1, the stride means nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    module = forward if isinstance(forward, nn.Module) else model
    return DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True)


@contextmanager
def last_only(forward: Any, last: bool) -> Iterator[None]:
    """Exchange gradients only in the last forward pass of a step."""
    if last or not hasattr(forward, "no_sync"):
        yield
    else:
        with forward.no_sync():
            yield


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together (all processes must ask); any other tensor as it is."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()
