"""A ledger of tensors: every storage that an operation makes, and when the last who held it let go.

It counts tensors that are really there and tensors that have a shape and no memory (torch's fake ones) alike. What a
library takes inside of one operation, no ledger sees; `inside` says it, as it was measured.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGE = 32 << 20
"""Bytes from which on glibc asks the system for each piece of memory and gives it back at once. Smaller ones are cut
from a heap, which stays as large as it ever was.
"""

BLOCK = 16
"""Channels that oneDNN takes together; a layer with fewer inputs has a way of its own."""

_CONVOLUTION = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
_NUMBER = torch.ops.aten._local_scalar_dense.default


class Ledger(TorchDispatchMode):
    """The bytes of all storages that were made under it, or shown to it, and are still held.

    live: now. most: at the moment with the most. small, large: the most that storages below `LARGE` took, and the most
    that the others did, each at its own moment; so a process needs `small` + `large`. The last three hold what
    libraries take inside of operations. A number that is read from a tensor (a loss) is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = self.small = self.large = 0
        self._small = 0
        self._now: dict[int, tuple[int, int]] = {}
        self._held: dict[int, weakref.ref[Any]] = {}
        self._numbers = 0

    def show(self, tensor: Tensor) -> int:
        """Enter the storage of a tensor, unless it is there; its number."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._held and self._held[key]() is not None:
            return self._now[key][0]
        self._numbers += 1
        self._now[key] = self._numbers, size
        self._count(size)

        def gone(_: object) -> None:
            self._count(-self._now.pop(key)[1])
            del self._held[key]

        self._held[key] = weakref.ref(storage, gone)
        return self._numbers

    def holds(self) -> dict[int, int]:
        """The bytes of the storages that are held now, by number."""
        return dict(self._now.values())

    def _count(self, size: int) -> None:
        self.live += size
        if abs(size) < LARGE:
            self._small += size
        self.small = max(self.small, self._small)
        self.large = max(self.large, self.live - self._small)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and enter what it gives."""
        if func is _NUMBER:
            return 0.0
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.show(leaf)
        pieces = inside(func, args)
        for size in pieces:
            self._count(size)
        self.most = max(self.most, self.live)
        for size in pieces:
            self._count(-size)
        return result


def inside(func: Any, args: Any) -> list[int]:
    """Bytes of the pieces of memory that oneDNN takes during one operation on a CPU, and gives back at its end: weights
    in a layout of its own in each pass over them, and in bf16 what it turns round.
    """
    found: list[int] = []
    if func is _CONVOLUTION and args[8] == 1:
        found = [args[1].nbytes]
    elif func is _BACKWARD and args[9] == 1:
        gradient, x, weight = args[:3]
        found = [weight.nbytes] * 2
        if x.dtype == torch.bfloat16 and weight.shape[2] > 1 and weight.shape[1] >= BLOCK:
            at_once = min(len(x), torch.get_num_threads())  # each thread turns an image of its own
            found += [gradient.nbytes // len(x), x.nbytes // len(x)] * at_once
    elif func in _PRODUCTS and args[0].dtype == torch.bfloat16:
        found = [factor.nbytes for factor in args[:2] if not factor.is_contiguous()]
    return found
