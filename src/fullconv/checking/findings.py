"""What `fullconv.checking.check_dataset` found, as plain data, and the running report from which it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Dataset
from fullconv.datasets.folder.layouts import EXAMPLES, Problem
from fullconv.labels import LabelSpace


@dataclass(frozen=True)
class SplitFindings:
    """One split in numbers; only masks that could be read are counted.

    images: the number of pairs. pixels: by class, in the order of the label space. void: pixels of void.
    smallest, largest: the least and the greatest (height, width), each side by itself; None when no image could be
        read.
    all_void: masks of nothing but void. all_background: masks of nothing but class 0 (and void).
    made: how the split was made, when the folder has none. holding: by class, the pixels that are not void in the masks
        that hold it.
    """

    images: int
    pixels: tuple[int, ...]
    void: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    all_void: int
    all_background: int
    made: str | None = None
    holding: tuple[int, ...] = ()

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Of each class, its share of the pixels of those masks that hold it, 0 to 1; void is not counted."""
        return tuple(n / of if of else 0.0 for n, of in zip(self.pixels, self.holding, strict=True))

    @property
    def shares(self) -> tuple[float, ...]:
        """Each class's share of the pixels that are not void, 0 to 1."""
        valid = sum(self.pixels)
        return tuple(n / valid if valid else 0.0 for n in self.pixels)

    @property
    def void_share(self) -> float:
        """The share of void among all pixels, 0 to 1."""
        total = sum(self.pixels) + self.void
        return self.void / total if total else 0.0


@dataclass(frozen=True)
class SampleProblem:
    """A problem of one sample: its kind and severity as in `Problem`, the split, the sample's name, and what it is."""

    kind: str
    severity: str
    split: str
    name: str
    line: str


@dataclass(frozen=True)
class Findings:
    """What `check_dataset` found. labels is None when the classes could not be made out.

    marks: the problems that belong to a sample, all of them, in the order of the samples. samples: the splits, to be
    looked into; reading a sample that has an error raises `UsageError`. Empty when labels is None.
    """

    name: str
    problems: tuple[Problem, ...]
    splits: Mapping[str, SplitFindings]
    labels: LabelSpace | None
    marks: tuple[SampleProblem, ...] = field(default=(), repr=False)
    samples: Mapping[str, Dataset] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the data set can be used: warnings, but no errors."""
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def weights(self) -> tuple[float | None, ...]:
        """Suggested weights of the classes in a loss, by median frequency balancing (Eigen and Fergus, 2015).

        The weight of a class is the median of all frequencies over its own, where the frequency of a class is its share
        of the pixels of the images that hold it. From the training split, or the first one; None for absent classes.
        """
        split = self.splits.get("train") or next(iter(self.splits.values()), None)
        found = split.frequencies if split else ()
        middle = median([f for f in found if f] or [0.0])
        return tuple(middle / f if f else None for f in found)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and words, for JSON."""
        splits = {k: asdict(s) | {"shares": list(s.shares), "void_share": s.void_share} for k, s in self.splits.items()}
        return {
            "name": self.name,
            "ok": self.ok,
            "problems": [asdict(problem) for problem in self.problems],
            "splits": splits,
            "labels": None if self.labels is None else self.labels.to_dict(),
            "weights": list(self.weights),
        }


class SplitTally:
    """The running numbers of one split."""

    def __init__(self, split: str, images: int, made: str | None) -> None:
        self.split, self.images, self.made = split, images, made
        self.pixels: NDArray[np.int64] | None = None
        self.holding: NDArray[np.int64] | None = None
        self.void = self.all_void = self.all_background = 0
        self.smallest: tuple[int, int] | None = None
        self.largest: tuple[int, int] | None = None

    def size(self, size: tuple[int, ...]) -> None:
        """An image of this (height, width) was seen."""
        height, width = size
        low, high = self.smallest or (height, width), self.largest or (height, width)
        self.smallest = min(low[0], height), min(low[1], width)
        self.largest = max(high[0], height), max(high[1], width)

    def mask(self, report: Report, name: str, place: str, pixels: NDArray[np.int64], void: int) -> None:
        """The mask of a sample was counted: its pixels by class (K,) and its void."""
        holding = (pixels > 0) * pixels.sum()
        self.pixels = pixels if self.pixels is None else self.pixels + pixels
        self.holding = holding if self.holding is None else self.holding + holding
        self.void += void
        if void and not pixels.any():
            self.all_void += 1
            message = f"{self.split}: masks of nothing but void; they teach and count nothing"
            report.add("all-void", "warning", message, place, (self.split, name))
        self.all_background += bool(pixels[0] and not pixels[1:].any())

    def findings(self, classes: int) -> SplitFindings:
        """The numbers of the split."""
        none = (0,) * classes
        pixels = none if self.pixels is None else tuple(int(n) for n in self.pixels)
        holding = none if self.holding is None else tuple(int(n) for n in self.holding)
        return SplitFindings(
            self.images,
            pixels,
            self.void,
            self.smallest,
            self.largest,
            self.all_void,
            self.all_background,
            self.made,
            holding,
        )


class Report:
    """The problems so far, one entry for each message however often it comes."""

    def __init__(self, labels: LabelSpace | None) -> None:
        self.labels = labels
        self.problems: list[Problem] = []
        self.tallies: dict[str, SplitTally] = {}
        self.marks: list[SampleProblem] = []
        self._examples: dict[tuple[str, str, str], list[str]] = {}
        self._counts: dict[tuple[str, str, str], int] = {}

    def tally(self, split: str, images: int, made: str | None = None) -> SplitTally:
        """Begin a split."""
        self.tallies[split] = SplitTally(split, images, made)
        return self.tallies[split]

    def add(self, kind: str, severity: str, message: str, example: str, sample: tuple[str, str] | None = None) -> None:
        """One more case of a problem; the first few cases are kept as examples. sample: (split, name) that has it."""
        key = kind, severity, message
        self._counts[key] = self._counts.get(key, 0) + 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < EXAMPLES:
            examples.append(example)
        if sample:
            what = message.partition(": ")[2].partition("; ")[0]
            line = example if ": " in example else f"{example}: {what}"
            self.marks.append(SampleProblem(kind, severity, *sample, line))

    def wants_example(self, kind: str, severity: str, message: str) -> bool:
        """Whether the next case of this problem will be kept as an example."""
        return len(self._examples.get((kind, severity, message), ())) < EXAMPLES

    def once(self, kind: str, message: str, severity: str = "error") -> None:
        """A problem that concerns the whole, once."""
        if not any(problem.message == message for problem in self.problems):
            self.problems.append(Problem(kind, severity, message))

    def findings(self, name: str, samples: Mapping[str, Dataset]) -> Findings:
        """Close the report: look for absent classes."""
        classes = 0 if self.labels is None else len(self.labels)
        splits = {split: tally.findings(classes) for split, tally in self.tallies.items()}
        self._absent(splits)
        for key, count in self._counts.items():
            self.problems.append(Problem(*key, tuple(self._examples[key]), count))
        self.problems.sort(key=lambda problem: problem.severity)  # errors first, otherwise as found
        return Findings(name, tuple(self.problems), splits, self.labels, tuple(self.marks), samples)

    def _absent(self, splits: Mapping[str, SplitFindings]) -> None:
        shifted = any(problem.kind == "off-by-one" for problem in self.problems)
        for i, name in enumerate(self.labels.names if self.labels else ()):
            if i == 0 and shifted:
                continue  # the suggestion there brings the class back
            without = [split for split, found in splits.items() if found.images and not found.pixels[i]]
            if all(not found.pixels[i] for found in splits.values()):
                self.add("absent-class", "warning", "classes: without a pixel anywhere; their scores will be '-'", name)
                continue
            for split in without:
                if split == "train":
                    message = "train: classes that only other splits hold; add images, they cannot be learnt"
                    self.add("untaught-class", "warning", message, name)
                else:
                    message = f"{split}: classes without a pixel; nothing is learnt or scored of them here"
                    self.add("absent-class", "warning", message, name)
