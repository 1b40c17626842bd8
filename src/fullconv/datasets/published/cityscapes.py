"""Cityscapes: street scenes of 50 cities, finely annotated, in the 19 classes that are evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.published.description import DatasetInfo
from fullconv.datasets.published.label_spaces import CITYSCAPES
from fullconv.datasets.published.split import Split, files_of, one_each
from fullconv.datasets.published.voc import read_photograph
from fullconv.errors import UsageError, shown
from fullconv.io.label_image import read_label_values

IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ID in ``*_labelIds.png`` of each class, by its train ID; every other ID is void."""

MOST = 33
PICTURE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The pictures of all cities of a split in the order of their names, with their masks."""
    folder = about.locate(root, (".", "cityscapes"), "leftImg8bit", "gtFine")
    pictures = folder / "leftImg8bit" / split
    found = sorted(path.relative_to(pictures) for path in pictures.glob(f"*/*{PICTURE}"))
    names = [str(path).removesuffix(PICTURE) for path in found]
    if not names:
        raise UsageError(f"{shown(pictures)}: no CITY/*{PICTURE} in it; unpack leftImg8bit_trainvaltest.zip there")
    images = files_of(about, split, names, pictures, PICTURE)
    masks = [] if split in about.unlabelled else files_of(about, split, names, folder / "gtFine" / split, MASK)
    pairs = one_each(images, masks)
    return Split(tuple(Path(name).name for name in names), *pairs, read_photograph, read_label_file)


def read_label_file(file: Path, task: str) -> Label:
    """(H, W) uint8: the 19 classes of evaluation, void elsewhere."""
    ids = read_label_values(file)
    if ids.ndim != 2 or ids.min() < 0 or ids.max() > MOST:
        what = "a colour picture" if ids.ndim != 2 else f"the value {max(ids.max(), -ids.min())}"
        raise UsageError(f"{shown(file)}: {what} in a mask of IDs 0 to {MOST}; take another copy")
    table = np.full(MOST + 1, 255, np.uint8)
    table[list(IDS)] = np.arange(len(IDS))
    return table[ids]


ABOUT = (
    DatasetInfo(
        name="cityscapes",
        title="Cityscapes, fine annotations, 19 classes",
        tasks={SEMANTIC: CITYSCAPES},
        splits={"train": 2975, "val": 500, "test": 1525},
        form=f"leftImg8bit/SPLIT/CITY/ID{PICTURE}; gtFine/SPLIT/CITY/ID{MASK}, IDs 0 to 33",
        citation=(
            "Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele: The Cityscapes Dataset for "
            "Semantic Urban Scene Understanding, CVPR 2016"
        ),
        terms="non-commercial; to be accepted when signing up",
        home="https://www.cityscapes-dataset.com/",
        by_hand=(
            "sign up at the home page; unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in one folder"
        ),
        read=read,
        unlabelled=("test",),
    ),
)
