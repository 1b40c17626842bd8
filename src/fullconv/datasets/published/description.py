"""What is known of a published data set, as one record: what `fullconv data list` and every error about it say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.data.dataset import SEMANTIC
from fullconv.errors import UsageError, shown, suggestion
from fullconv.labels import LabelSpace

if TYPE_CHECKING:
    from fullconv.datasets.published.split import Split


@dataclass(frozen=True)
class Published:
    """One file that its publishers offer to everybody.

    url: where it is. into: the folder, below the one that is asked for, in which it belongs or is unpacked.
    checksum: as published, ``KIND DIGITS`` (``md5 6cd6...``); None where none is. mebibytes: its size, about.
    """

    url: str
    into: str = "."
    checksum: str | None = None
    mebibytes: float | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """A published data set.

    name: as it is written before the colon of ``NAME:DIR``. title: in full.
    tasks: its label spaces, ``semantic`` first. modalities: what the channels of its images are, one after the other.
    splits: the number of samples of each that is published; 0 where the number is not known.
    train, val: the splits that are trained and validated on unless said otherwise.
    form: how the files lie and what they hold. citation, terms, home: whom to cite, what one may do, where it lives.
    files: what can be fetched. by_hand: how to come by the rest; "" where nothing is left.
    present_only: whether the means are over the classes that the truth of the split holds (SIFT Flow).
    photographs: where equal names mean equal photographs in several data sets, the name of that collection.
    unlabelled: splits whose labels their publishers keep.
    """

    name: str
    title: str
    tasks: Mapping[str, LabelSpace]
    splits: Mapping[str, int]
    form: str
    citation: str
    terms: str
    home: str
    read: Callable[[DatasetInfo, Path, str], Split]
    files: tuple[Published, ...] = ()
    by_hand: str = ""
    modalities: tuple[str, ...] = ("color",)
    train: str = "train"
    val: str = "val"
    present_only: bool = False
    photographs: str = ""
    unlabelled: tuple[str, ...] = ()

    @property
    def labels(self) -> LabelSpace:
        """The semantic classes."""
        return self.tasks[SEMANTIC]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its splits."""
        return tuple(self.splits)

    @property
    def labelled(self) -> tuple[str, ...]:
        """The splits to train and validate on, and the test split where its labels are published."""
        test = ("test",) if "test" in self.splits and "test" not in self.unlabelled else ()
        return tuple(dict.fromkeys((self.train, self.val, *test)))

    @property
    def source(self) -> str:
        """Where to get it, in words that end an error."""
        return f"fullconv data get {self.name} fetches it" if self.files and not self.by_hand else f"see {self.home}"

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "classes": {task: list(space.names) for task, space in self.tasks.items()},
            "splits": {split: count or None for split, count in self.splits.items()},
            "files": self.form,
            "modalities": list(self.modalities),
            "citation": self.citation,
            "terms": self.terms,
            "home": self.home,
            "fetched": [{"url": file.url, "checksum": file.checksum} for file in self.files],
            "by_hand": self.by_hand or None,
        }

    def require(self, split: str) -> None:
        """Raise `UsageError` when there is no such split."""
        if split not in self.splits:
            raise UsageError(f"{self.name}: no split '{shown(split)}'; {suggestion(split, self.names)}")

    def locate(self, root: Path, candidates: Sequence[str], *wanted: str) -> Path:
        """The first of the folders `root / candidate` in which everything `wanted` (relative paths) is; raises
        `UsageError` saying what was looked for and where it is to be had.
        """
        if not root.is_dir():
            what = "a file, not a folder" if root.exists() else "no such folder"
            raise UsageError(f"{shown(root)}: {what}; give the folder of {self.title}, {self.source}")
        folders = [root / candidate for candidate in candidates]
        for folder in folders:
            if all((folder / path).exists() for path in wanted):
                return folder
        nearest = max(folders, key=lambda folder: sum((folder / path).exists() for path in wanted))
        missing = ", ".join(path for path in wanted if not (nearest / path).exists())
        part = any((nearest / path).exists() for path in wanted)
        state = "an incomplete copy of" if part else "not the folder of"
        raise UsageError(f"{shown(nearest)}: {state} {self.title}, without {missing}; {self.source}")
