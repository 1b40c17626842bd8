"""Data sets: what a sample is, and how to open a data set by name or folder.

A data set is anything with ``len(d)``, ``d[i] -> Sample`` and ``d.labels``; there is no base class and no registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError
from fullconv.labels import LabelSpace

if TYPE_CHECKING:
    from fullconv.data.classes import Reading

SPLITS = ("train", "val", "test")

SEMANTIC = "semantic"
"""The task of every data set; SIFT Flow has ``geometric`` beside it."""

Image = NDArray[Any]
Label = NDArray[np.integer]

CHANNELS = {"color": 3, "depth": 1, "hha": 3, "band": 1}
"""The channels of each modality."""


@dataclass(frozen=True)
class Sample:
    """One image with its label.

    image: (H, W, C). Of a photograph C = 3, uint8, RGB, as the file shows it (EXIF orientation applied); no mean
    subtracted, no channel swapped. HHA as a second stream makes six channels, uint8; depth as a fourth channel (its
    natural logarithm, of millimetres) makes them float32. Bands (`fullconv.data.bands`) are uint8 or float32.
    label: (H, W) integers, class indices, `LabelSpace.ignore_index` where void; for several tasks a dict of them.
    name: what identifies it in messages and file names, without folder or suffix.
    """

    image: Image
    label: Label | Mapping[str, Label]
    name: str

    @property
    def tasks(self) -> Mapping[str, Label]:
        """The label of each task; of a plain label, the one of ``semantic``."""
        return self.label if isinstance(self.label, Mapping) else {SEMANTIC: self.label}

    @property
    def semantic(self) -> Label:
        """The semantic label (H, W)."""
        return self.tasks[SEMANTIC]

    def changed(self, of_image: Callable[[Image], Image], of_label: Callable[[Label], Label]) -> Sample:
        """The same sample with other pixels: what a transform returns. Every label is changed by the same function.

        >>> pixel = Sample(np.zeros((1, 2, 3), np.uint8), np.array([[0, 1]], np.uint8), "p")
        >>> pixel.changed(lambda image: image[:, ::-1], lambda label: label[:, ::-1]).label
        array([[1, 0]], dtype=uint8)
        """
        label = (
            {task: of_label(label) for task, label in self.label.items()}
            if isinstance(self.label, Mapping)
            else of_label(self.label)
        )
        return Sample(of_image(self.image), label, self.name)


class Dataset(Protocol):
    """What training, evaluation and check need of a data set."""

    @property
    def labels(self) -> LabelSpace:
        """The classes, and what is void."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`, decoded; raises `UsageError` naming the file when it cannot be read."""


def tasks_of(dataset: Dataset) -> Mapping[str, LabelSpace]:
    """The label space of each task of a data set: `labels` alone, unless it says that it has more (``tasks``)."""
    tasks: Mapping[str, LabelSpace] = getattr(dataset, "tasks", {SEMANTIC: dataset.labels})
    return tasks


def modalities_of(dataset: Dataset) -> tuple[str, ...]:
    """What the channels of its images are: ``color``, ``depth``, ``hha``, ``band``, one after the other; color unless
    it says otherwise (``modalities``).
    """
    modalities: tuple[str, ...] = getattr(dataset, "modalities", ("color",))
    return modalities


def photograph(image: Image) -> NDArray[np.uint8]:
    """What there is to look at of an image (H, W, C): its first three channels as uint8, stretched where they hold more
    than a photograph does.
    """
    front = image[..., :3]
    if image.dtype != np.uint8 and not (front.min() >= 0 and front.max() <= 255):
        from fullconv.data.bands import visible

        return visible(front)
    return np.ascontiguousarray(front.astype(np.uint8))


def splits_of(name_or_path: str | Path) -> tuple[str, ...]:
    """The splits that a data set has, by `open_dataset`'s name for it."""
    if str(name_or_path) == "digits":
        return SPLITS
    from fullconv.data.official import named

    official = named(name_or_path)
    if official:
        return official.about.names
    from fullconv.data.layouts import find_layout
    from fullconv.data.polygons import find_polygons

    drawn = find_polygons(Path(name_or_path))
    return drawn.names if drawn else find_layout(Path(name_or_path)).names


def default_splits(name_or_path: str | Path) -> tuple[str, str | None]:
    """The splits to train and to validate on, where nobody says otherwise: ``train`` and ``val``, or what a published
    set uses instead (SIFT Flow: ``trainval`` and ``test``); None for validation where there is none.
    """
    from fullconv.data.official import named

    official = named(name_or_path)
    if official:
        return official.about.train, official.about.val
    return "train", "val" if "val" in splits_of(name_or_path) else None


def open_dataset(name_or_path: str | Path, split: str, reading: Reading | None = None) -> Dataset:
    """Open one split of a data set: ``digits``; the name of an official one with its folder, ``voc2012:DIR`` (all
    names: `fullconv.data.official.abouts`); a folder of images and masks in one of the layouts of
    `fullconv.data.layouts`; or one of polygons (`fullconv.data.polygons`). reading: what is said about the masks of a
    folder beside its ``classes.yaml``.

    Raises `UsageError` when there is no such split, or when the folder, its images or its masks are not there.

    >>> scenes = open_dataset("digits", "val")
    >>> scenes[0].image.shape[2], len(scenes.labels)
    (3, 11)
    """
    from fullconv.data.official import named

    official = None if str(name_or_path) == "digits" else named(name_or_path)
    if reading is not None and (official or str(name_or_path) == "digits"):
        raise UsageError(f"{name_or_path}: --map, --colors and --skip-unpaired are for folders; leave them out")
    if str(name_or_path) == "digits":
        from fullconv.data.digits import Digits

        return Digits(split)
    if official:
        return official.open(split)
    from fullconv.data.polygons import find_polygons, open_polygons

    drawn = find_polygons(Path(name_or_path))
    if drawn:
        if reading is not None:
            raise UsageError(f"{name_or_path}: it holds polygons, whose classes have names; leave --map, --colors out")
        return open_polygons(drawn, split)
    from fullconv.data.folder import open_folder

    return open_folder(Path(name_or_path), split, reading)
