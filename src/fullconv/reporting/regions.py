"""Connected regions of a picture of numbers, in numpy alone: what of a region is left without its border, and which
pixels hang together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]
"""(H, W): a number for what stands at each pixel, -1 for nothing."""


def inner(codes: Codes, border: int) -> Codes:
    """The codes without the outermost `border` pixels of every region: what is nearer than that to another code, along
    rows, columns and diagonals, becomes -1. The edge of the picture is no border.

    >>> inner(np.array([[7, 7, 7, 7, 4, 4, 4]], np.int32), 1)
    array([[ 7,  7,  7, -1, -1,  4,  4]], dtype=int32)
    """
    lowest = highest = codes
    for axis in (0, 1):
        lowest, highest = (_over(function, part, border, axis)
                           for function, part in ((np.minimum, lowest), (np.maximum, highest)))  # fmt: skip
    return np.where(lowest == highest, codes, np.int32(-1))


def _over(function: np.ufunc, values: Codes, reach: int, axis: int) -> Codes:
    """The least or greatest of the values at most `reach` places away along an axis."""
    found = values.copy()
    for shift in range(1, min(reach, values.shape[axis] - 1) + 1):
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
        for to, by in ((ahead, behind), (behind, ahead)):
            function(found[tuple(to)], values[tuple(by)], out=found[tuple(to)])
    return found


def widened(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The mask (H, W) and all pixels at most `reach` rows and columns away from it: what `inner` took, and no more.

    >>> widened(np.array([[True, False, False]]), 1)
    array([[ True,  True, False]])
    """
    found = mask.astype(np.int32)
    for axis in (0, 1):
        found = _over(np.maximum, found, reach, axis)
    return found.astype(bool)


def components(codes: Codes) -> tuple[NDArray[np.int32], int]:
    """The number of the region at each pixel, from 0 on and -1 where the code is -1, and how many regions there are.

    Two pixels are of one region when one can walk from one to the other over rows and columns without changing code.

    >>> components(np.array([[5, 5, -1], [8, 5, 5]], np.int32))
    (array([[ 0,  0, -1],
           [ 1,  0,  0]], dtype=int32), 2)
    """
    taken = codes >= 0
    if not taken.any():
        return np.full(codes.shape, -1, np.int32), 0
    # A run is what hangs together in one row; runs of neighbouring rows that touch are then united.
    begins = np.ones(codes.shape, bool)
    begins[:, 1:] = codes[:, 1:] != codes[:, :-1]
    runs = begins.ravel().cumsum().reshape(codes.shape) - 1
    touch = taken[1:] & (codes[1:] == codes[:-1])
    pairs = np.unique(np.stack([runs[:-1][touch], runs[1:][touch]], axis=1), axis=0)
    parent = list(range(int(runs[-1, -1]) + 1))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for above, below in pairs.tolist():
        first, second = sorted((root(above), root(below)))
        parent[second] = first
    roots = np.array([root(run) for run in range(len(parent))])
    kept = np.unique(roots[runs[taken]])
    numbers = np.full(len(parent), -1, np.int32)
    numbers[kept] = np.arange(len(kept))
    return np.where(taken, numbers[roots[runs]], np.int32(-1)).astype(np.int32), len(kept)
