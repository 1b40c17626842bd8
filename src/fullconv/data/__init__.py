"""Data sets: what a sample is, and how to open a data set by name or folder.

A data set is anything with ``len(d)``, ``d[i] -> Sample`` and ``d.labels``; there is no base class and no registry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError
from fullconv.labels import LabelSpace

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One image with its label.

    image: (H, W, 3) uint8, RGB, as the file shows it (EXIF orientation applied); no mean subtracted, no channel
    swapped.
    label: (H, W) integers, class indices, `LabelSpace.ignore_index` where void.
    name: what identifies it in messages and file names, without folder or suffix.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.integer]
    name: str

    def with_arrays(self, image: NDArray[np.uint8], label: NDArray[np.integer]) -> Sample:
        """The same sample with other pixels: what a transform returns."""
        return replace(self, image=image, label=label)


class Dataset(Protocol):
    """What training, evaluation and check need of a data set."""

    @property
    def labels(self) -> LabelSpace:
        """The classes, and what is void."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`, decoded; raises `UsageError` naming the file when it cannot be read."""


def open_dataset(name_or_path: str | Path, split: str) -> Dataset:
    """Open one split of a data set: ``digits``, or a folder of images and masks in one of the layouts of
    `fullconv.data.folder`.

    Raises `UsageError` when the folder, its images or its masks are not there.

    >>> scenes = open_dataset("digits", "val")
    >>> scenes[0].image.shape[2], len(scenes.labels)
    (3, 11)
    """
    known = (*SPLITS, "trainval")  # the last is PASCAL VOC's
    if split not in known:
        raise UsageError(f"split '{split}': there is no such split; One of: {', '.join(known)}")
    if str(name_or_path) == "digits":
        from fullconv.data.digits import Digits

        return Digits(split)
    from fullconv.data.folder import open_folder

    return open_folder(Path(name_or_path), split)
