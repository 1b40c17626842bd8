"""ADE20K as its scene parsing benchmark gives it: 150 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.datasets.published.label_spaces import ADE20K
from fullconv.datasets.published.split import Split, files_of, one_each
from fullconv.datasets.published.voc import read_photograph
from fullconv.errors import UsageError, shown
from fullconv.io.label_image import read_label_values

FOLDERS = {"train": "training", "val": "validation"}


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The pictures of a split in the order of their names, with their masks."""
    folder = about.locate(root, (".", "ADEChallengeData2016"), "images", "annotations")
    pictures, masks = (folder / top / FOLDERS[split] for top in ("images", "annotations"))
    names = sorted(path.stem for path in pictures.glob("*.jpg"))
    if not names:
        raise UsageError(f"{shown(pictures)}: no pictures; the copy is incomplete, {about.source}")
    images = files_of(about, split, names, pictures, ".jpg")
    labels = files_of(about, split, names, masks, ".png")
    pairs = one_each(images, labels)
    return Split(tuple(names), *pairs, read_photograph, read_label_file)


def read_label_file(file: Path, task: str) -> Label:
    """(H, W) uint8: the file counts from 1 and has 0 for what is none of the 150; here that is void, 255."""
    label = read_label_values(file)
    if label.ndim != 2 or label.max() > len(ADE20K):
        what = "a colour picture" if label.ndim != 2 else f"the value {label.max()}"
        raise UsageError(f"{shown(file)}: {what} in a mask of 0 to {len(ADE20K)}; take another copy")
    return np.where(label == 0, 255, label.astype(np.int64) - 1).astype(np.uint8)


ABOUT = (
    DatasetInfo(
        name="ade20k",
        title="ADE20K, scene parsing, 150 classes",
        tasks={SEMANTIC: ADE20K},
        splits={"train": 20210, "val": 2000},
        form="images/training/ID.jpg and annotations/training/ID.png, 0 other, 1 to 150; the same under validation",
        citation=("Zhou, Zhao, Puig, Fidler, Barriuso, Torralba: Scene Parsing through ADE20K Dataset, CVPR 2017"),
        terms="images for non-commercial research and education; annotations under the BSD 3-Clause licence",
        home="http://sceneparsing.csail.mit.edu/",
        files=(Published("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"),),
        read=read,
    ),
)
