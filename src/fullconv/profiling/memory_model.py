"""The memory model: run a net on tensors that have a shape and no memory, and count every storage that it makes.

The plans of large images and `fullconv inspect` dry-run the forward pass (`fullconv.profiling.graph_cost`), the plan of
a training (`fullconv.training.memory_plan`) its step. What a library allocates inside one operation cannot be seen;
`inside` estimates it from measurements.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Net = TypeVar("Net", bound=nn.Module)

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

    live: now. tensors: the most at one moment. most: the same with what libraries allocate inside operations. small,
    large: the most that storages below `LARGE` took, and the most that the others did, each at its own moment, with
    what libraries allocate; so a process needs `small` + `large`. A number that is read from a tensor (a loss) is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.tensors = self.most = self.small = self.large = 0
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
        self.tensors = max(self.tensors, self.live)
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


@dataclass(frozen=True)
class FakeModel:
    """A net whose weights are fake tensors, and the ledger in which they are entered.

    weights: parameters and buffers by name; start: their bytes.
    """

    net: nn.Module
    ledger: Ledger
    weights: dict[str, Tensor]
    start: int

    def __call__(self, x: Tensor) -> Any:
        """The result of the net for a fake input, itself fake."""
        return torch.func.functional_call(self.net, self.weights, (x,))


_ONE = threading.RLock()  # torch's fake tensors share caches that two threads must not use at once


def skeleton(net: Net) -> Net:
    """Copy a net with meta tensors in place of its weights: a dry run of the copy leaves the net to other threads."""
    weights = {
        id(t): nn.Parameter(t.detach().to("meta"), t.requires_grad) if isinstance(t, nn.Parameter) else t.to("meta")
        for t in (*net.parameters(), *net.buffers())
    }
    with _ONE:
        return copy.deepcopy(net, weights)


@contextlib.contextmanager
def dry_run(net: nn.Module) -> Iterator[FakeModel]:
    """Make all tensors that are created in this context fake, and count them. The weights of `net`, which may be on the
    meta device, stay as they are. One dry run goes at a time.
    """
    with _ONE, FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
        named = (*net.named_parameters(), *net.named_buffers())
        weights = {
            name: torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, requires_grad=t.requires_grad)
            for name, t in named
        }
        yield FakeModel(net, ledger, weights, ledger.live)


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of every layer at the end."""
    modes = {layer: layer.training for layer in net.modules()}
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
