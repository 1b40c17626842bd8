"""SIFT Flow: 2,688 outdoor scenes with two labels for every pixel, what it is and which way its surface lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.datasets.published.label_spaces import SIFTFLOW, SIFTFLOW_GEOMETRIC
from fullconv.datasets.published.split import Split, files_of, read_list, whole_numbers
from fullconv.datasets.published.voc import read_photograph
from fullconv.errors import UsageError, shown
from fullconv.io.mat import read_mat

TASKS = {SEMANTIC: SIFTFLOW, "geometric": SIFTFLOW_GEOMETRIC}
INSIDE = "spatial_envelope_256x256_static_8outdoorcategories"
FOLDERS = {SEMANTIC: "SemanticLabels", "geometric": "GeoLabels"}

NOT_ANNOTATED = ("highway_bost181", "street_urb506")
"""Two of the 2,688 have no annotation; the released list of 2,486 leaves them out."""

LISTS = "https://raw.githubusercontent.com/shelhamer/fcn.berkeleyvision.org/master/data/sift-flow"


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The names of one list, with their images and both labels. Without trainval.txt it is all that test.txt leaves."""
    folder = about.locate(
        root, (".", "SiftFlowDataset", "sift-flow"), *(f"{top}/{INSIDE}" for top in ("Images", *FOLDERS.values()))
    )
    pictures = folder / "Images" / INSIDE
    listed = folder / f"{split}.txt"
    if listed.is_file():
        names = read_list(about, listed)
    elif split == "trainval" and (folder / "test.txt").is_file():
        left_out = {*read_list(about, folder / "test.txt"), *NOT_ANNOTATED}
        names = sorted(path.stem for path in pictures.glob("*.jpg") if path.stem not in left_out)
    else:
        raise UsageError(f"{shown(listed)}: no such list; put the released one there ({LISTS}/{split}.txt)")
    blank = [name for name in names if name in NOT_ANNOTATED]
    if blank:
        raise UsageError(f"{shown(listed)}: {blank[0]} has no annotation; take it out of the list")
    images = files_of(about, split, names, pictures, ".jpg")
    labels = [files_of(about, split, names, folder / top / INSIDE, ".mat") for top in FOLDERS.values()]
    pairs = tuple((image,) for image in images), tuple(zip(*labels, strict=True))
    return Split(tuple(names), *pairs, read_photograph, read_label_file)


def read_label_file(file: Path, task: str) -> Label:
    """(H, W) uint8: the files count from 1 and have 0 or -1 for void; here classes count from 0 and void is 255."""
    found = whole_numbers(read_mat(file, "S"), -1, len(TASKS[task]), file)
    return np.where(found <= 0, 255, found - 1).astype(np.uint8)


ABOUT = (
    DatasetInfo(
        name="siftflow",
        title="SIFT Flow, 33 semantic and 3 geometric classes",
        tasks=TASKS,
        splits={"trainval": 2486, "test": 200},
        form=(
            f"Images/{INSIDE}/ID.jpg, 256x256; SemanticLabels/... and GeoLabels/.../ID.mat, variable S, 1 to 33 and "
            "1 to 3, 0 or -1 void; trainval.txt, test.txt. cow, desert and moon do not occur in test"
        ),
        citation=(
            "Liu, Yuen, Torralba: SIFT Flow, PAMI 2011; Tighe, Lazebnik: SuperParsing, ECCV 2010 (geometric labels)"
        ),
        terms="not stated",
        home="http://www.cs.unc.edu/~jtighe/Papers/ECCV10/",
        files=(
            Published("http://www.cs.unc.edu/~jtighe/Papers/ECCV10/siftflow/SiftFlowDataset.zip"),
            Published(f"{LISTS}/trainval.txt", into="SiftFlowDataset"),
            Published(f"{LISTS}/test.txt", into="SiftFlowDataset"),
        ),
        read=read,
        train="trainval",
        val="test",
        present_only=True,
    ),
)
