"""The sizes of the batches to come, from the headers of some of the files where that is enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullconv.config import Size, TrainConfig
from fullconv.data.dataset import Dataset, facts_of
from fullconv.datasets.folder.folder_dataset import Folder
from fullconv.errors import UsageError
from fullconv.io.decoding import one_line, open_file, open_image, upright_size
from fullconv.io.formats import IMAGE_FORMATS
from fullconv.training.dry_run import Shape

LOOKED_AT = 32
"""Images whose sizes are looked at, at most."""

GROUPS = 101
"""Batches that are put together of them to find the one in the middle."""


@dataclass(frozen=True)
class Shapes:
    """The largest batch that is to be expected, and the one in the middle. certain: whether all batches are so; else it
    is a sample that was looked at.
    """

    largest: Shape
    middle: Shape
    certain: bool


def shapes(dataset: Dataset, config: TrainConfig) -> Shapes:
    """The shapes of the batches of a run. With ``crop`` they are known; without it the images keep their sizes, of
    which up to `LOOKED_AT` are looked at, and a batch is as large as its largest image on each axis.
    """
    if config.crop is not None:
        one = config.drawn, *config.crop
        return Shapes(one, one, True)
    rng = np.random.default_rng(config.seed)
    chosen = rng.permutation(len(dataset))[:LOOKED_AT]
    sizes = np.array(sizes_of(dataset, [int(index) for index in chosen]))
    groups = sizes[rng.integers(0, len(sizes), (GROUPS, config.drawn))].max(1)
    middle = groups[np.argsort(groups.prod(1), kind="stable")[GROUPS // 2]]
    largest = sizes[sizes.prod(1).argmax()] if config.drawn == 1 else sizes.max(0)
    scale = config.scale or 1
    return Shapes(
        (config.drawn, math.ceil(largest[0] * scale), math.ceil(largest[1] * scale)),
        (config.drawn, int(middle[0]), int(middle[1])),
        len(sizes) == len(dataset) and scale == 1 and len({tuple(size) for size in sizes.tolist()}) == 1,
    )


def sizes_of(dataset: Dataset, indices: list[int]) -> list[Size]:
    """Return the (height, width) of some images of a dataset, from the headers of its files if these can be trusted.

    They can for a folder of photographs, and for another dataset if its first image has the size in its header;
    otherwise each image is decoded.
    """
    trusted = isinstance(dataset, Folder) and dataset.bands is None

    def decoded(index: int) -> Size:
        height, width = dataset[index].image.shape[:2]
        return height, width

    files = facts_of(dataset).pairs
    found: list[Size] = []
    for index in indices:
        path = files[index][1] if len(files) == len(dataset) else None
        try:
            size = None if path is None else size_of_file(path)
        except UsageError:  # reported when the sample is read; some published datasets are not image files
            size = None
        if size is None or (not found and not trusted and size != decoded(index)):
            files = ()
            size = decoded(index)
        found.append(size)
    return found


def size_of_file(path: Any) -> Size:
    """Rows and columns of the image in a file, as it is shown (EXIF orientation applied), from its header.

    Raises `UsageError` naming the file when it is no image.
    """
    with open_file(path) as stream, one_line(str(path)):
        return upright_size(open_image(stream, str(path), 1 << 62, IMAGE_FORMATS))
