"""What a mask file holds, counted: its values or colours, before anybody has said what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.io.label_image import read_label
from fullconv.labels import Colour

MOST_KEYS = 4096  # a mask with more different values or colours than this is a photograph; the rarest are left out


@dataclass(frozen=True)
class MaskFacts:
    """One mask file in numbers.

    size: (height, width). colour: whether it is a colour picture.
    counts: the number of pixels of each value; in a colour picture of each packed colour (see `packed`).
    palette: the file's own palette as bytes R, G, B, ..., or None.
    """

    size: tuple[int, int]
    colour: bool
    counts: Mapping[int, int]
    palette: bytes | None

    @property
    def gray(self) -> bool:
        """A colour picture whose three channels are equal everywhere: in truth a gray one saved as RGB."""
        return self.colour and all(key % 0x010101 == 0 for key in self.counts)

    def values(self) -> Mapping[int, int]:
        """The number of pixels of each value; of a gray picture saved as RGB, of one of its channels."""
        return {key // 0x010101: count for key, count in self.counts.items()} if self.colour else self.counts


def packed(picture: NDArray[np.integer]) -> NDArray[np.int32]:
    """Colours (..., 3) as one number each, 0xRRGGBB.

    >>> hex(packed(np.array([1, 2, 255])))
    '0x102ff'
    """
    wide = picture.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpacked(key: int) -> Colour:
    """The inverse of `packed` for one colour.

    >>> unpacked(0x0102FF)
    (1, 2, 255)
    """
    return key >> 16, key >> 8 & 255, key & 255


def mask_facts(path: Path) -> MaskFacts:
    """Read and count one mask. An unchanged file is read once in the life of the process.

    Raises `UsageError` when the file cannot be read as a mask.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):  # reading it again says what is wrong in words
        return _count(path)
    return _count_once(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 17)
def _count_once(path: Path, size: int, time: int) -> MaskFacts:
    return _count(path)


def _count(path: Path) -> MaskFacts:
    file = read_label(path)
    keys = packed(file.values) if file.values.ndim == 3 else file.values
    if keys.dtype == np.uint8:
        numbers = np.bincount(keys.ravel(), minlength=256)
        found = np.flatnonzero(numbers)
        numbers = numbers[found]
    else:
        found, numbers = np.unique(keys, return_counts=True)
        if len(found) > MOST_KEYS:
            kept = np.sort(np.argsort(-numbers, kind="stable")[:MOST_KEYS])
            found, numbers = found[kept], numbers[kept]
    counts = {int(key): int(number) for key, number in zip(found, numbers, strict=True)}
    return MaskFacts((keys.shape[0], keys.shape[1]), file.values.ndim == 3, counts, file.palette)


def first_place(keys: NDArray[np.integer], key: int) -> tuple[int, int]:
    """(x, y) of the first pixel of `keys` (H, W), row by row, that equals `key`."""
    y, x = np.unravel_index(int(np.argmax(keys == key)), keys.shape)
    return int(x), int(y)
