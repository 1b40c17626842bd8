"""What a sample is, and what training, evaluation and check need of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.labels import LabelSpace

if TYPE_CHECKING:
    pass


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
    natural logarithm, of millimetres) makes them float32. Bands (`fullconv.io.multispectral`) are uint8 or float32.
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
        from fullconv.io.multispectral import visible

        return visible(front)
    return np.ascontiguousarray(front.astype(np.uint8))
