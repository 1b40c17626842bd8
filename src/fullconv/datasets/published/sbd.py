"""SBD, the Semantic Boundaries Dataset: VOC's 20 classes outlined on 11,355 photographs of PASCAL VOC 2011."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.datasets.published.label_spaces import VOC
from fullconv.datasets.published.split import Split, files_of, one_each, read_list
from fullconv.datasets.published.voc import read_palette, read_photograph
from fullconv.errors import UsageError, shown
from fullconv.io.mat import read_mat


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The names of one list, with their photographs and labels: palette PNGs where somebody converted them, else the
    ``.mat`` files.
    """
    folder = folder_of(about, root)
    listed = folder / f"{split}.txt"
    if not listed.is_file():
        raise UsageError(f"{shown(listed)}: no such list; put the official one there, {about.source}")
    names = read_list(about, listed)
    images = files_of(about, split, names, folder / "img", ".jpg")
    converted = all((folder / "cls" / f"{name}.png").is_file() for name in names)
    labels = files_of(about, split, names, folder / "cls", ".png" if converted else ".mat")
    pairs = one_each(images, labels)
    return Split(tuple(names), *pairs, read_photograph, read_label_file)


def folder_of(about: DatasetInfo, root: Path) -> Path:
    """The folder with the lists: itself, or where the archive unpacks it."""
    return about.locate(root, (".", "dataset", "benchmark_RELEASE/dataset"), "img", "cls")


def read_label_file(file: Path, task: str) -> Label:
    """(H, W) classes of a ``.mat`` of ``cls``, or of the PNG made from it."""
    return read_palette(file, task) if file.suffix == ".png" else read_segmentation(file, "GTcls")


def read_segmentation(file: Path, variable: str) -> Label:
    """The field Segmentation of ``GTcls`` (classes) or ``GTinst`` (instances), (H, W) uint8."""
    found = read_mat(file, variable, "Segmentation")
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.integer):
        raise UsageError(f"{shown(file)}: {variable} holds {found.shape} {found.dtype}, no label; take another copy")
    return found


ABOUT = (
    DatasetInfo(
        name="sbd",
        title="SBD, the Semantic Boundaries Dataset",
        tasks={SEMANTIC: VOC},
        splits={"train": 8498, "val": 2857, "train_noval": 5623},
        form="img/ID.jpg; cls/ID.mat, GTcls.Segmentation uint8 (or cls/ID.png, converted); SPLIT.txt beside them",
        citation="Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic Contours from Inverse Detectors, ICCV 2011",
        terms="not stated; photographs of PASCAL VOC, under Flickr's terms of use",
        home="http://home.bharathh.info/pubs/codes/SBD/download.html",
        files=(
            Published(
                "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                checksum="md5 82b4d87ceb2ed10f6038a1cba92111cb",
            ),
            # SBD's train without VOC2012's val, by SBD's first author; the MD5 is torchvision's.
            Published(
                "https://www.cs.cornell.edu/~bharathh/train_noval.txt",
                into="benchmark_RELEASE/dataset",
                checksum="md5 79bff800c5f0b1ec6b21080a3c066722",
            ),
        ),
        read=read,
        photographs="pascal",
    ),
)
