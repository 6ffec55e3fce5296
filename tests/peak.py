"""The most bytes of tensors that were alive at one time, backward pass included; meta tensors count as if they were."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """`with Peak() as peak: ...; peak.bytes`, and `peak.largest`, the most elements of one tensor. What was alive
    before does not count."""

    def __init__(self, given: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.alive = self.bytes = self.largest = 0
        self._seen: dict[int, int] = {id(tensor.untyped_storage()): 0 for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        if id(storage) in self._seen:
            return
        key, size = id(storage), storage.nbytes()
        self._seen[key] = size
        self.alive += size
        self.bytes = max(self.bytes, self.alive)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.alive -= self._seen.pop(key)
