"""Matrices of weights, laid out once as they are multiplied fastest.

torch's products in single precision are MKL's, which on some processors leaves half of their width unused. oneDNN,
which is in torch too, uses all of it, best with a weight that was brought into a layout of its own; torch's compiler
makes the same calls for frozen weights. They are not public: where a torch has none that answers rightly, the usual
product is taken.
"""

from __future__ import annotations

import threading
from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 1 << 22
"""Numbers from which on a weight of bf16 is laid out in advance."""


class Matrix:
    """A weight (O, C) that rows (..., C) are multiplied with, in its own precision. The weight is kept a second time
    where `packs` says so, and else read where it lies.

    >>> Matrix(torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]]))(torch.tensor([[1.0, 10.0]]))
    tensor([[21., 30., 11.]])
    """

    def __init__(self, weight: Tensor) -> None:
        self.features, self.packed = weight.shape[0], packs(weight)
        self.weight = _packed(weight) if self.packed else weight

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., C) to (..., O), with a bias (O,) added."""
        return (_product if self.packed else F.linear)(rows, self.weight, bias)


class Matrices:
    """P weights (O, C), each of which is multiplied with rows of its own. The list is emptied, so that each can be let
    go when it has been laid out.

    >>> Matrices([torch.eye(2), 2 * torch.eye(2)])(torch.ones(2, 1, 2), torch.empty(2, 1, 2)).tolist()
    [[[1.0, 1.0]], [[2.0, 2.0]]]
    """

    def __init__(self, weights: list[Tensor]) -> None:
        self.features = weights[0].shape[0]
        self.each: list[Matrix] = []
        if packs(weights[0]):
            weights.reverse()
            while weights:
                self.each.append(Matrix(weights.pop()))
        else:
            self.together = torch.stack(weights)
            weights.clear()

    def __call__(self, rows: Tensor, out: Tensor) -> Tensor:
        """(P, M, C) to (P, M, O), which is written to `out`."""
        if not self.each:
            return torch.bmm(rows, self.together.transpose(1, 2), out=out)
        for seen, matrix, product in zip(rows, self.each, out, strict=True):
            product.copy_(matrix(seen))
        return out


def packs(weight: Tensor) -> bool:
    """Whether this weight is brought into a layout of its own; of bf16, whose usual product is oneDNN's, large ones."""
    wanted = weight.dtype is torch.float32 or (weight.dtype is torch.bfloat16 and weight.numel() >= LARGE)
    return wanted and weight.device.type == "cpu" and _packing_works(weight.dtype)


@cache
def _packing_works(kind: torch.dtype) -> bool:
    """Tried on numbers whose product is exact in any order."""
    weight, rows = torch.arange(12, dtype=kind).view(3, 4), torch.arange(8, dtype=kind).view(2, 4)
    try:
        found = _product(rows, _packed(weight), torch.ones(3, dtype=kind))
        return torch.equal(found.float(), rows.float() @ weight.float().t() + 1)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # not there, or called otherwise
        return False


def _packed(weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return found


def _product(rows: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return found


class Workspace(threading.local):
    """Memory for what layers need while they run, kept for the next layer and image: to get new pages from the system
    takes as long as to fill them many times. Each thread has its own.

    >>> space = Workspace()
    >>> first = space.take("cells", (2, 3), torch.zeros(1))
    >>> space.take("cells", (3,), torch.zeros(1)).data_ptr() == first.data_ptr()
    True
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of the kind of another. It is good until the same name is taken again."""
        size, key = prod(shape), (name, like.dtype)
        if key not in self.held or self.held[key].numel() < size:
            self.held.pop(key, None)
            self.held[key] = like.new_empty(size)
        return self.held[key][:size].view(shape)
