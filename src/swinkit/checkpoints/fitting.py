"""Tensors put into a model, after every name and shape was compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from swinkit.errors import CheckpointError


def adoptable(tensors: Mapping[str, Tensor], views: Iterable[Tensor]) -> frozenset[str]:
    """Names of the tensors that a model may take without a copy: each fills memory that is shared with no other one and none of `views`."""
    foreign = {_memory(view) for view in views}
    users = Counter(map(_memory, tensors.values()))
    return frozenset(
        name
        for name, tensor in tensors.items()
        if _memory(tensor) not in foreign
        and users[_memory(tensor)] == 1
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.nbytes
    )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the tensors themselves, not copies, into a model on the meta device.

    Errors: CheckpointError with what is missing, what is beyond the model and what has another shape.
    """
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    other = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    for what, names in (("lack", missing), ("have, beyond the model,", unexpected), ("differ in shape:", other)):
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(
                f"The weights do not fit the model: they {what} {listed}. Use the architecture that they were saved with."
            )
    model.load_state_dict(tensors, assign=True)
