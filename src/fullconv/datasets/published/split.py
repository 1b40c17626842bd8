"""One split of a published data set: names, the files of each, and how they become a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import SEMANTIC, Image, IndexedDataset, Label, Sample
from fullconv.datasets.folder.folder_dataset import size_line
from fullconv.datasets.folder.layouts import EXAMPLES
from fullconv.datasets.published.description import DatasetInfo
from fullconv.errors import UsageError, shown
from fullconv.labels import LabelSpace

Files = tuple[tuple[Path, ...], ...]
"""For each sample the files that belong to it."""


@dataclass(frozen=True)
class Split:
    """What a reader finds in the folder: the files of each sample, and two functions of them.

    names: of the samples, in the order of the official list (or of the files).
    images, labels: for each sample its image files and its label files, in the order of the modalities and the tasks.
    read_image: from the image files of a sample to (H, W, C). read_label: from one label file of a task to (H, W).
    Both raise `UsageError` naming the file. tasks: the label spaces, where only the files say them.
    """

    names: tuple[str, ...]
    images: Files
    labels: Files
    read_image: Callable[[tuple[Path, ...]], Image]
    read_label: Callable[[Path, str], Label]
    tasks: Mapping[str, LabelSpace] | None = None


@dataclass(frozen=True)
class Official(IndexedDataset):
    """One split of a published dataset. Samples are read on demand."""

    about: DatasetInfo
    split: str
    files: Split = field(repr=False)

    @property
    def labels(self) -> LabelSpace:
        """The semantic classes."""
        return self.tasks[SEMANTIC]

    @property
    def tasks(self) -> Mapping[str, LabelSpace]:
        """The label space of each task."""
        return self.files.tasks or self.about.tasks

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the channels of the images are."""
        return self.about.modalities

    @property
    def pairs(self) -> list[tuple[Any, ...]]:
        """(name, image file) of each sample, by which a run remembers what it was trained on."""
        return [(name, files[0]) for name, files in zip(self.files.names, self.files.images, strict=True)]

    @property
    def present_only(self) -> bool:
        """Whether means are taken only over the classes in the truth of the split."""
        return self.about.present_only

    @property
    def photographs(self) -> str:
        """The collection that its photographs come from."""
        return self.about.photographs

    def __len__(self) -> int:
        return len(self.files.names)

    def image(self, index: int) -> Image:
        """The image of a sample alone, (H, W, C); also of a split without labels."""
        return self.files.read_image(self.files.images[index])

    def sample(self, index: int) -> Sample:
        """Sample number `index`; `UsageError` when a file cannot be read, sizes differ or a value is no class."""
        name = self.files.names[index]
        if self.split in self.about.unlabelled:
            raise UsageError(
                f"{self.about.name}: the labels of '{self.split}' are kept by their publishers; predict it, and score "
                f"'{self.about.val}'"
            )
        image, labels = self.image(index), {}
        for (task, space), file in zip(self.tasks.items(), self.files.labels[index], strict=True):
            label = self.files.read_label(file, task)
            if label.shape != image.shape[:2]:
                raise UsageError(size_line(self.files.images[index][0], image.shape[:2], file, label.shape))
            labels[task] = within(label, space, file)
        return Sample(image, labels if len(labels) > 1 else labels[SEMANTIC], name)


def within(label: Label, space: LabelSpace, file: Path) -> Label:
    """The label, when it holds nothing but classes and void; else `UsageError` with the value and its place."""
    stray = (label >= len(space)) & (label != space.ignore_index) | (label < 0)
    if stray.any():
        y, x = np.argwhere(stray)[0]
        raise UsageError(
            f"{shown(file)}: {label[y, x]} at x={x} y={y} is none of the {len(space)} classes; take another copy"
        )
    return label


def whole_numbers(found: NDArray[Any], least: int, most: int, file: Path, what: str = "label") -> NDArray[np.int64]:
    """The array of a ``.mat`` as (H, W) integers; `UsageError` when it is no label of `least` to `most`."""
    stray = (found < least) | (found > most) | (found != np.rint(found))
    if found.ndim != 2 or stray.any():
        held = f"shape {found.shape}" if found.ndim != 2 else f"the value {found[stray][0]}"
        raise UsageError(f"{shown(file)}: {held} in a {what} of {least} to {most}; take another copy")
    return found.astype(np.int64)


def one_each(images: Sequence[Path], labels: Sequence[Path]) -> tuple[Files, Files]:
    """`images` and `labels` of a `Split` of one modality and one task: for each sample a tuple of its one file."""
    return tuple((image,) for image in images), tuple((label,) for label in labels)


def read_list(about: DatasetInfo, path: Path) -> list[str]:
    """The names in an official list, one a line; any line ends, no final one, a byte order mark and blank lines are
    fine. Raises `UsageError` when it cannot be read, is empty, or names something twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no text"
        raise UsageError(f"{shown(path)}: the list of names cannot be read ({reason}); {about.source}") from None
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not names:
        raise UsageError(f"{shown(path)}: an empty list of names; {about.source}")
    twice = len(names) - len(set(names))
    if twice:
        first = next(name for n, name in enumerate(names) if name in names[:n])
        raise UsageError(f"{shown(path)}: {twice} names stand twice ('{shown(first)}'); {about.source}")
    return names


def files_of(about: DatasetInfo, split: str, names: Sequence[str], folder: Path, ending: str) -> list[Path]:
    """The file ``folder / NAME + ending`` of each name; raises `UsageError` with how many are not there, and which.

    Each folder is listed once, so that a set of ten thousand files opens in no time.
    """
    there: dict[Path, set[str]] = {}
    files = [folder / f"{name}{ending}" for name in names]
    for parent in {file.parent for file in files}:
        try:
            there[parent] = {entry.name for entry in parent.iterdir()}
        except OSError:
            there[parent] = set()
    missing = [file for file in files if file.name not in there[file.parent]]
    if missing:
        some = ", ".join(shown(file.relative_to(folder)) for file in missing[:EXAMPLES])
        more = ", ..." if len(missing) > EXAMPLES else ""
        raise UsageError(
            f"{shown(folder)}: {len(missing):,} of the {len(files):,} files of {about.name} {split} are missing "
            f"({some}{more}); {about.source}"
        )
    return files
