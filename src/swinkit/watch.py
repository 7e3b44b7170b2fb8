"""Whether a module's parameters are still what they were, without holding on to them."""

from __future__ import annotations

import ctypes
import weakref

from torch import Tensor, nn


class Watch:
    """Remembers which tensors a module has and how often PyTorch has counted a write to each."""

    def __init__(self, module: nn.Module) -> None:
        self.config = getattr(module, "config", None)
        self.module = weakref.ref(module)
        self.children = [(weakref.ref(owner), _identities(owner)) for owner in module.modules()]
        self.seen = [
            (weakref.ref(owner), name, weakref.ref(parameter), _writes(parameter), _beginning(parameter))
            for owner in module.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]

    def changed(self) -> bool:
        """Was anything written, replaced or removed since? A module that is gone has not changed."""
        module = self.module()
        if module is None:
            return False
        if getattr(module, "config", None) is not self.config:
            return True
        if any((owner := ref()) is None or _identities(owner) != identities for ref, identities in self.children):
            return True
        for owner_ref, name, parameter_ref, writes, beginning in self.seen:
            owner, parameter = owner_ref(), parameter_ref()
            if owner is None or parameter is None or owner._parameters.get(name) is not parameter:
                return True
            if _writes(parameter) != writes or _beginning(parameter) != beginning:
                return True
        return False


def _identities(owner: nn.Module) -> tuple[int, ...]:
    """Of a module's children and parameters: nothing else can have the number of one that lives, and all are watched for that."""
    return tuple(id(part) for parts in (owner._modules, owner._parameters) for part in parts.values())


def _writes(tensor: Tensor) -> int:
    """PyTorch's count of writes in place; tensors made in inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


def _beginning(tensor: Tensor) -> tuple[int, bytes]:
    """Where a tensor lies and its first bytes, for writes that PyTorch does not count: through `.data`, or by fused optimisers."""
    pointer = 0 if tensor.is_meta else tensor.data_ptr()
    here = tensor.device.type == "cpu" and pointer != 0
    return pointer, ctypes.string_at(pointer, tensor.element_size()) if here else b""
