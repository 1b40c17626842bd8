"""NYUDv2 in Gupta's 40 classes: colour, depth and HHA of 1,449 rooms, as the released nets take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import SEMANTIC, Image, Label
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.datasets.published.label_spaces import NYUDV2
from fullconv.datasets.published.split import Split, files_of, read_list, whole_numbers
from fullconv.errors import UsageError, shown
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label_values
from fullconv.io.mat import read_mat

LOG_DEPTH_MEAN = 7.844
"""The mean of the natural logarithm of depth in millimetres, as the released nets take it off."""

FOLDERS = {"color": "images", "depth": "depth", "hha": "hha"}
LISTS = "https://raw.githubusercontent.com/shelhamer/fcn.berkeleyvision.org/master/data/nyud"


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The names of one list (of ``trainval`` those of train and of val, if there is no such list), with the pictures of
    the modalities and the labels.
    """
    folder = about.locate(root, (".", "nyud", "nyud/nyud"), "data/images", "segmentation")
    names = [f"img_{number}" for number in _numbers(about, folder, split)]
    images = []
    for modality in about.modalities:
        pictures = folder / "data" / FOLDERS[modality]
        if modality == "hha" and not pictures.is_dir():
            raise UsageError(f"{shown(pictures)}: no HHA pictures; make them with fullconv data hha {folder / 'data'}")
        images.append(files_of(about, split, names, pictures, ".png"))
    labels = files_of(about, split, names, folder / "segmentation", ".mat")
    pairs = tuple(zip(*images, strict=True)), tuple((label,) for label in labels)
    reader = read_color_and_depth if "depth" in about.modalities else read_pictures
    return Split(tuple(names), *pairs, reader, read_label_file)


def _numbers(about: DatasetInfo, folder: Path, split: str) -> list[str]:
    path = folder / f"{split}.txt"
    if split == "trainval" and not path.is_file():
        return [number for part in ("train", "val") for number in _numbers(about, folder, part)]
    if not path.is_file():
        raise UsageError(f"{shown(path)}: no such list; put the released one there ({LISTS}/{split}.txt)")
    return read_list(about, path)


def read_pictures(files: tuple[Path, ...]) -> Image:
    """Colour, HHA, or both one after the other: (H, W, 3) or (H, W, 6) uint8."""
    pictures = [read_image(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        _require_size(file, picture.shape[:2], files[0], pictures[0].shape[:2])
    return np.concatenate(pictures, 2)


def read_color_and_depth(files: tuple[Path, ...]) -> NDArray[np.float32]:
    """(H, W, 4) float32: RGB and the natural logarithm of depth in millimetres.

    Depth 0, where nothing was measured, has no logarithm; it becomes the mean, which the net sees as 0.
    """
    color, millimetres = read_image(files[0]), read_label_values(files[1])
    _require_size(files[1], millimetres.shape, files[0], color.shape[:2])
    known = millimetres > 0
    logarithm = np.log(np.where(known, millimetres, 1).astype(np.float64))
    depth = np.where(known, logarithm, LOG_DEPTH_MEAN).astype(np.float32)
    return np.dstack([color.astype(np.float32), depth])


def _require_size(file: Path, size: tuple[int, ...], first: Path, wanted: tuple[int, ...]) -> None:
    if size != wanted:
        sizes = f"it is {'x'.join(map(str, size))}, but {shown(first)} {'x'.join(map(str, wanted))}"
        raise UsageError(f"{shown(file)}: {sizes} (height x width); take another copy of both")


def read_label_file(file: Path, task: str) -> Label:
    """(H, W) uint8: the file counts from 1 and has 0 for void; here classes count from 0 and void is 255."""
    found = whole_numbers(read_mat(file, "segmentation"), 0, len(NYUDV2), file)
    return np.where(found == 0, 255, found - 1).astype(np.uint8)


_WHAT = {
    "nyudv2": (("color",), "colour"),
    "nyudv2-hha": (("hha",), "HHA"),
    "nyudv2-color-d": (("color", "depth"), "colour and depth, four channels"),
    "nyudv2-color-hha": (("color", "hha"), "colour and HHA, two streams"),
}

ABOUT = tuple(
    DatasetInfo(
        name=name,
        title=f"NYUDv2, 40 classes: {what}",
        tasks={SEMANTIC: NYUDV2},
        splits={"trainval": 795, "train": 381, "val": 414, "test": 654},
        form=(
            "data/images/img_ID.png; data/depth/img_ID.png, 16 bits, millimetres, filled; data/hha/img_ID.png; "
            "segmentation/img_ID.mat, variable segmentation, 0 void, 1 to 40; train.txt, val.txt, test.txt"
        ),
        citation=(
            "Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; "
            "Gupta, Arbelaez, Malik: Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images, "
            "CVPR 2013"
        ),
        terms="not stated",
        home="https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
        files=(
            # In this layout, by the authors of the paper (their data/nyud/README.md); no checksum is published.
            Published("http://dl.caffe.berkeleyvision.org/nyud.tar.gz"),
            *(Published(f"{LISTS}/{part}.txt", into="nyud") for part in ("train", "val", "test")),
        ),
        read=read,
        modalities=modalities,
        train="trainval",
        val="test",
        photographs="nyudv2",
    )
    for name, (modalities, what) in _WHAT.items()
)
