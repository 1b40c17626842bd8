"""The same picture under other bytes: saved again, made smaller or larger, its brightness changed.

Two thumbnails of 32 x 36 gray pixels decide. A difference hash of 64 bits (is each block brighter than its left
neighbour?) proposes pairs, and the correlation of the fine detail of the thumbnails confirms them. The next frame of
a video passes the first test and fails the second, because something in it has moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from fullconv.checking.findings import Report
from fullconv.data.dataset import Dataset, Image, facts_of, photograph
from fullconv.errors import shown

ROWS, COLUMNS, BLOCK = 32, 36, 4  # 8 x 9 blocks, which make 8 x 8 comparisons: 64 bits
MOST_BITS = 8
LEAST_CORRELATION = 0.985
LEAST_DETAIL = 1.0  # gray levels; a thumbnail with less holds nothing to compare
_AT_ONCE = 1024

Thumbnail = NDArray[np.uint8]
"""(32, 36) gray."""


def thumbnail(image: Image) -> Thumbnail:
    """The image (H, W, C) as 32 x 36 gray pixels, each the mean of its part of the image."""
    gray = PIL.Image.fromarray(photograph(image)).convert("L")
    return np.asarray(gray.resize((COLUMNS, ROWS), PIL.Image.Resampling.BOX))


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The difference hash of each of the thumbnails (N, 32, 36): (N,), 64 bits each.

    >>> ramp = np.broadcast_to(np.arange(36, dtype=np.uint8), (1, 32, 36))
    >>> [int(np.bitwise_count(hashes(picture)[0])) for picture in (ramp, ramp[..., ::-1])]
    [64, 0]
    """
    means = _blocks(thumbnails)
    return np.packbits((means[:, :, 1:] > means[:, :, :-1]).reshape(len(means), 64), axis=1).view(np.uint64)[:, 0]


def near_pairs(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Which of the thumbnails (N, 32, 36) and (M, 32, 36) show the same picture: pairs of their indices, in order.

    At most 8 of the 64 bits differ, and the fine detail (each pixel less the mean of its block) has a correlation of
    at least 0.985. Crops, mirrored and turned copies are not found, nor pictures without detail.
    """
    if not len(first) or not len(second):
        return []
    mine, theirs, found = hashes(first), hashes(second), []
    for start in range(0, len(mine), _AT_ONCE):  # a block of 1024 x 10,000 hashes takes 80 MB
        apart = np.bitwise_count(mine[start : start + _AT_ONCE, None] ^ theirs[None])
        rows, columns = np.nonzero(apart <= MOST_BITS)
        for at in range(0, len(rows), _AT_ONCE):
            i, j = rows[at : at + _AT_ONCE] + start, columns[at : at + _AT_ONCE]
            same = _alike(first[i], second[j])
            found += list(zip(i[same].tolist(), j[same].tolist(), strict=True))
    return found


def _alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the pairs (N, 32, 36) have the same fine detail: (N,)."""
    one, other = _detail(first), _detail(second)
    spread = np.sqrt((one**2).mean(1)), np.sqrt((other**2).mean(1))
    correlation = (one * other).mean(1) / np.maximum(spread[0] * spread[1], 1e-9)
    return (np.minimum(*spread) >= LEAST_DETAIL) & (correlation >= LEAST_CORRELATION)


def _detail(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    means = _blocks(thumbnails).repeat(BLOCK, 1).repeat(BLOCK, 2)
    return (thumbnails - means).reshape(len(thumbnails), -1)


def _blocks(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The means of the blocks: (N, 8, 9)."""
    parts = thumbnails.reshape(-1, ROWS // BLOCK, BLOCK, COLUMNS // BLOCK, BLOCK)
    return parts.mean((2, 4), dtype=np.float32)


Place = tuple[str, str, str]
"""(split, name of the sample, where it is)."""


class ThumbnailIndex:
    """The images of a data set so far, to be compared across its splits."""

    def __init__(self) -> None:
        self._exact: dict[str, list[Place]] = {}
        self._splits: dict[str, list[tuple[Place, str, Thumbnail]]] = {}

    def add(self, split: str, name: str, place: str, digest: str, small: Thumbnail | None) -> None:
        """One more image. digest: of its bytes. small: its thumbnail; None where there is nothing to compare."""
        here = split, name, place
        self._exact.setdefault(digest, []).append(here)
        kept = self._splits.setdefault(split, [])
        if small is not None:
            kept.append((here, digest, small))

    def exact(self) -> list[list[Place]]:
        """The images that stand in several splits, byte for byte: of each its first place in every split."""
        found = []
        for places in self._exact.values():
            first: dict[str, Place] = {}
            for place in places:
                first.setdefault(place[0], place)
            if len(first) > 1:
                found.append(list(first.values()))
        return found

    def near(self) -> list[tuple[Place, Place]]:
        """Images that show the same picture as one of an earlier split but are not the same bytes.

        (the first such image, the later one), once for each later one and earlier split.
        """
        found = []
        splits = [kept for kept in self._splits.values() if kept]
        stacks = [np.stack([small for _, _, small in kept]) for kept in splits]
        for i, first in enumerate(splits):
            for j in range(i + 1, len(splits)):
                partners: dict[int, int] = {}
                for a, b in near_pairs(stacks[i], stacks[j]):
                    if first[a][1] != splits[j][b][1]:
                        partners.setdefault(b, a)
                found += [(first[a][0], splits[j][b][0]) for b, a in sorted(partners.items())]
        return found


def report_duplicates(report: Report, seen: ThumbnailIndex) -> None:
    """Add what stands in several splits to the report."""
    for places in seen.exact():
        (split, name, _), message = places[-1], "splits: the same image in more than one; keep it in one, scores on "
        line = " = ".join(place for _, _, place in places)
        report.add("leak", "warning", message + "it say nothing", line, (split, name))
    for (one, _, first), (other, name, second) in seen.near():
        message = (
            f"{one} and {other}: the same picture under other bytes (thumbnails and their fine detail were compared); "
            "keep it in one split"
        )
        report.add("near-duplicate", "warning", message, f"{first} ~ {second}", (other, name))


def quick_duplicates(first: Dataset, second: Dataset) -> list[str]:
    """A sentence on the images that two splits share, byte for byte; none where the samples are no files.

    Only files whose sizes, and first and last 4 KiB, occur on both sides are read whole.
    """
    sides = [_image_files(dataset) for dataset in (first, second)]
    for key in (_size, _ends):  # each looks closer than the one before, at what is left
        sides = _shared(sides, key)
    digests: list[dict[str, Path]] = [{}, {}]
    for found, files in zip(digests, sides, strict=True):
        for path in files:
            with suppress(OSError):
                found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    same = [(path, digests[1][digest]) for digest, path in digests[0].items() if digest in digests[1]]
    if not same:
        return []
    one, other = (shown(path) for path in same[0])
    example = one if one == other else f"{one} = {other}"
    number = "1 image stands" if len(same) == 1 else f"{len(same)} images stand"
    return [f"{number} in training and validation alike ({example}); scores on them say nothing."]


def _image_files(dataset: Dataset) -> list[Path]:
    return [Path(pair[1]) for pair in facts_of(dataset).pairs]


def _shared(sides: list[list[Path]], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """Those files of two sides whose key occurs on both."""
    keys: list[dict[Path, Hashable]] = [{}, {}]
    for found, files in zip(keys, sides, strict=True):
        for path in files:
            with suppress(OSError, ValueError):
                found[path] = key(path)
    common = set(keys[0].values()) & set(keys[1].values())
    return [[path for path, value in found.items() if value in common] for found in keys]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(max(0, path.stat().st_size - 4096))
        return head, stream.read()
