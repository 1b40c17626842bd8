"""PASCAL-Context: every pixel of PASCAL VOC 2010's training and validation photographs, in 59 classes and a rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Label
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.datasets.published.label_spaces import PASCAL_CONTEXT
from fullconv.datasets.published.split import Split, files_of, one_each, read_list, whole_numbers
from fullconv.datasets.published.voc import read_photograph
from fullconv.errors import UsageError, shown
from fullconv.io.mat import read_mat
from fullconv.labels import LabelSpace

ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Classes of the 59 that the list of 459 spells otherwise."""

SITE = "https://cs.stanford.edu/~roozbeh/pascal-context"


def read(about: DatasetInfo, root: Path, split: str) -> Split:
    """The photographs of VOC2010's list and their label maps, the 459 classes brought to those of the task."""
    photographs = about.locate(root, (".", "VOC2010", "VOCdevkit/VOC2010"), "JPEGImages", "ImageSets/Main")
    context = about.locate(root, (".", "pascal-context", "context", "pascal_context"), "trainval", "labels.txt")
    names = read_list(about, photographs / "ImageSets" / "Main" / f"{split}.txt")
    images = files_of(about, split, names, photographs / "JPEGImages", ".jpg")
    labels = files_of(about, split, names, context / "trainval", ".mat")
    raw = read_classes(context / "labels.txt")
    if about.name == "pascal-context-33":
        fewer = context / "33_labels.txt"
        if not fewer.is_file():
            raise UsageError(
                f"{shown(fewer)}: the list of the 33 classes is not there; get it from {SITE}/33_labels.txt"
            )
        space = LabelSpace.of(["background", *read_classes(fewer).values()])
    else:
        space = about.labels
    pairs = one_each(images, labels)
    reader = LabelMap(tuple(number_of(raw, space.names[1:], context / "labels.txt")), max(raw))
    return Split(tuple(names), *pairs, read_photograph, reader, {SEMANTIC: space})


def read_classes(path: Path) -> dict[int, str]:
    """``NUMBER: NAME`` a line; spaces within a name do not count ("bed clothes", "bedclothes")."""
    classes: dict[int, str] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
        for line in filter(str.strip, lines):
            number, name = line.split(":")
            classes[int(number)] = name.replace(" ", "").strip()
    except (OSError, ValueError) as problem:
        raise UsageError(f"{shown(path)}: not a list of NUMBER: NAME ({shown(problem)}); take another copy") from None
    classes.pop(0, None)
    if not classes:
        raise UsageError(f"{shown(path)}: it names no class; take another copy")
    return classes


def number_of(raw: Mapping[int, str], names: Sequence[str], path: Path) -> list[int]:
    """The number in the label maps of each class of the task, by its name there or its alias."""
    numbers = {name: number for number, name in raw.items()}
    found = []
    for name in names:
        number = numbers.get(name, numbers.get(ALIASES.get(name, name)))
        if number is None:
            raise UsageError(f"{shown(path)}: it has no class '{name}'; take the labels.txt of PASCAL-Context")
        found.append(number)
    return found


@dataclass(frozen=True)
class LabelMap:
    """Reads a label map in the classes of the task; what is none of them becomes background, class 0, which is trained
    like any other.

    numbers: the number in the file of class 1, 2, ... most: the largest number that a file may hold.
    """

    numbers: tuple[int, ...]
    most: int

    def __call__(self, file: Path, task: str) -> Label:
        """(H, W) uint8."""
        found = whole_numbers(read_mat(file, "LabelMap"), 0, self.most, file, "label map")
        table = np.zeros(self.most + 1, np.uint8)
        table[list(self.numbers)] = np.arange(1, len(self.numbers) + 1)
        return table[found]


ABOUT = tuple(
    DatasetInfo(
        name=name,
        title=f"PASCAL-Context, {classes} classes and background",
        tasks={SEMANTIC: space},
        splits={"train": 4998, "val": 5105},
        form=(
            "VOC2010/JPEGImages/ID.jpg and VOC2010/ImageSets/Main/SPLIT.txt; pascal-context/trainval/ID.mat, variable "
            f"LabelMap, 1 to 459; pascal-context/labels.txt{files}"
        ),
        citation=(
            "Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille: The Role of Context for Object Detection and "
            "Semantic Segmentation in the Wild, CVPR 2014"
        ),
        terms="not stated; photographs of PASCAL VOC, under Flickr's terms of use",
        home=f"{SITE}/",
        files=(
            Published(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
                checksum="md5 da459979d0c395079b5c75ee67908abb",
            ),
            Published(f"{SITE}/trainval.tar.gz", into="pascal-context", mebibytes=31),
            *(Published(f"{SITE}/{extra}", into="pascal-context") for extra in ("59_labels.txt", "33_labels.txt")),
        ),
        read=read,
        photographs="pascal",
    )
    for name, classes, space, files in (
        ("pascal-context", 59, PASCAL_CONTEXT, ""),
        # Which 33 they are is read from the list: it is the only place that says so.
        ("pascal-context-33", 33, LabelSpace.of(["background", *(f"class{k}" for k in range(1, 34))]),
         ", pascal-context/33_labels.txt"),
    )
)  # fmt: skip
