"""What a sample is, and what training, evaluation and check need of a dataset."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError
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
    """What training, evaluation and check need of a dataset: three required members.

    The optional members, each with its default, are the fields of `DatasetFacts`; read them with `facts_of`.
    """

    @property
    def labels(self) -> LabelSpace:
        """The classes, and what is void."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return sample number `index`, decoded; raise `UsageError` naming the file if it cannot be read."""


@dataclass(frozen=True)
class DatasetFacts:
    """The optional members of a dataset with their defaults. A dataset may define any of them as an attribute.

    tasks: the label space of each task; by default `labels` alone, as ``semantic``.
    modalities: what the channels of its images are, one after the other: ``color``, ``depth``, ``hha``, ``band``.
    pairs: (name, image file, ...) of each sample in order, if the samples are files.
    split_made: how the split was made, in one sentence, if the dataset came without one.
    notes: what was left out when the dataset was opened, a sentence each.
    present_only: whether means are taken only over the classes in the truth of the split (SIFT Flow).
    photographs: the collection its photographs come from: equal names in it are equal photographs.
    statistics: a method that returns mean and standard deviation of each channel; required for ``band``.
    """

    tasks: Mapping[str, LabelSpace]
    modalities: tuple[str, ...] = ("color",)
    pairs: Sequence[tuple[Any, ...]] = ()
    split_made: str | None = None
    notes: tuple[str, ...] = ()
    present_only: bool = False
    photographs: str = ""
    statistics: Callable[[], tuple[tuple[float, ...], tuple[float, ...]]] | None = None


def facts_of(dataset: Dataset) -> DatasetFacts:
    """Return the optional members of a dataset; those that it does not define have their defaults."""
    names = [field.name for field in fields(DatasetFacts) if hasattr(dataset, field.name)]
    return DatasetFacts(**({"tasks": {SEMANTIC: dataset.labels}} | {name: getattr(dataset, name) for name in names}))


class IndexedDataset(ABC):
    """Base class of the datasets of this package: samples by number, negative numbers and slices included."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Return sample number `index`, from 0 to ``len(self) - 1``."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.sample(number) for number in range(len(self))[index]]
        try:
            number = operator.index(index)
        except TypeError:
            raise UsageError(f"dataset: index of type {type(index).__name__}; give a number or a slice") from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of a dataset with {len(self)} samples")  # ends a loop over the dataset
        return self.sample(number % len(self))


class DatasetView(IndexedDataset):
    """Base class of a dataset that is made from another one and keeps its optional members."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.labels = dataset, dataset.labels
        vars(self).update(vars(facts_of(dataset)))

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """Return a sample of the other dataset."""
        return self.dataset[index]


class Subset(DatasetView):
    """Some samples of a dataset, in the order of `indices`; one may occur several times."""

    def __init__(self, dataset: Dataset, indices: Iterable[int]) -> None:
        super().__init__(dataset)
        self.indices = tuple(map(int, indices))
        pairs = facts_of(dataset).pairs
        self.pairs = tuple(pairs[index] for index in self.indices) if pairs else ()

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        """Return sample number `index` of the subset."""
        return self.dataset[self.indices[index]]


def adapt(dataset: Any, labels: LabelSpace | None = None) -> Dataset:
    """Return a dataset of any kind as a `Dataset`.

    Args:
        dataset: A `Dataset`, which is returned unchanged, or anything with ``len`` and numbered items that are
            (image, label) pairs, such as a ``torch.utils.data.Dataset``. An image is a PIL image, or a uint8 array or
            tensor, (H, W, 3) or (3, H, W); a label is a PIL image, array or tensor of class indices (H, W).
        labels: Its classes; required if the dataset has no attribute `labels` that is a `LabelSpace`.

    Raises:
        UsageError: The dataset has no length or no items, or its classes are not known.

    Example:
        >>> pairs = [(np.zeros((3, 2, 4), np.uint8), np.ones((2, 4), np.int64))]
        >>> adapt(pairs, LabelSpace.of(["background", "cell"]))[0].image.shape
        (2, 4, 3)
    """
    kind = type(dataset).__name__
    if isinstance(dataset, str | Path):
        raise UsageError(f"dataset: a {kind}; open it first: open_dataset(name_or_path, split)")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UsageError(f"dataset: a {kind}; give one with a length and numbered samples, or the path of a folder")
    if hasattr(dataset, "labels") and isinstance(dataset.labels, LabelSpace):
        found: Dataset = dataset
        return found
    if labels is None:
        raise UsageError(f"dataset: a {kind} without a label space; wrap it: adapt(dataset, labels=LabelSpace.of(...))")
    return _Adapted(dataset, labels)


class _Adapted(IndexedDataset):
    """(image, label) pairs as samples."""

    def __init__(self, dataset: Any, labels: LabelSpace) -> None:
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """Return the pair number `index` as a sample."""
        from fullconv.io.image import to_image, to_numbers

        item, where = self.dataset[index], f"sample {index}"
        if isinstance(item, Sample):
            return item
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UsageError(f"{where}: a {type(item).__name__}; give a Sample, or a pair of image and label")
        image, label = to_image(item[0], where), to_numbers(item[1])
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"{where}: image of shape {image.shape} and type {image.dtype}; give (H, W, 3) uint8")
        label = label[0] if label.ndim == 3 and len(label) == 1 else label
        if label.shape != image.shape[:2] or label.dtype.kind not in "iu":
            raise UsageError(
                f"{where}: label of shape {label.shape} and type {label.dtype} of an image of shape {image.shape}; "
                "give class indices (H, W)"
            )
        stray = np.setdiff1d(label, [*range(len(self.labels)), self.labels.ignore_index])
        if stray.size:
            raise UsageError(f"{where}: label {stray[0]} is not one of the {len(self.labels)} classes; fix the labels")
        return Sample(image, label, f"{index:06d}")


def photograph(image: Image) -> NDArray[np.uint8]:
    """What there is to look at of an image (H, W, C): its first three channels as uint8, stretched where they hold more
    than a photograph does.
    """
    front = image[..., :3]
    if image.dtype != np.uint8 and not (front.min() >= 0 and front.max() <= 255):
        from fullconv.io.multispectral import visible

        return visible(front)
    return np.ascontiguousarray(front.astype(np.uint8))
