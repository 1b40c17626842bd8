"""What `fullconv.data.check` found, as plain data, and the running report from which it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.coding import Coding
from fullconv.data.layouts import EXAMPLES, Problem
from fullconv.labels import LabelSpace


@dataclass(frozen=True)
class SplitFindings:
    """One split in numbers; only masks that could be read are counted.

    images: the number of pairs. pixels: by class, in the order of the label space. void: pixels of void.
    smallest, largest: the least and the greatest (height, width), each side by itself; None when no image could be
        read.
    all_void: masks of nothing but void. all_background: masks of nothing but class 0 (and void).
    """

    images: int
    pixels: tuple[int, ...]
    void: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    all_void: int
    all_background: int
    made: str | None = None

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
class Findings:
    """What `check_dataset` found. labels is None when the classes could not be made out."""

    name: str
    problems: tuple[Problem, ...]
    splits: Mapping[str, SplitFindings]
    labels: LabelSpace | None

    @property
    def ok(self) -> bool:
        """Whether the data set can be used: warnings, but no errors."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and words, for JSON."""
        splits = {k: asdict(s) | {"shares": list(s.shares), "void_share": s.void_share} for k, s in self.splits.items()}
        return {
            "name": self.name,
            "ok": self.ok,
            "problems": [asdict(problem) for problem in self.problems],
            "splits": splits,
            "labels": None if self.labels is None else self.labels.to_dict(),
        }


class Tally:
    """The running numbers of one split."""

    def __init__(self, split: str, images: int, made: str | None) -> None:
        self.split, self.images, self.made = split, images, made
        self.pixels: NDArray[np.int64] | None = None
        self.void = self.all_void = self.all_background = 0
        self.smallest: tuple[int, int] | None = None
        self.largest: tuple[int, int] | None = None

    def size(self, size: tuple[int, ...]) -> None:
        """An image of this (height, width) was seen."""
        height, width = size
        low, high = self.smallest or (height, width), self.largest or (height, width)
        self.smallest = min(low[0], height), min(low[1], width)
        self.largest = max(high[0], height), max(high[1], width)

    def mask(self, report: Report, place: str, pixels: NDArray[np.int64], void: int) -> None:
        """A mask was counted: its pixels by class (K,) and its void."""
        self.pixels = pixels if self.pixels is None else self.pixels + pixels
        self.void += void
        if void and not pixels.any():
            self.all_void += 1
            report.add(
                "all-void", "warning", f"{self.split}: masks of nothing but void; they teach and count nothing", place
            )
        self.all_background += bool(pixels[0] and not pixels[1:].any())

    def findings(self, classes: int) -> SplitFindings:
        """The numbers of the split."""
        pixels = (0,) * classes if self.pixels is None else tuple(int(n) for n in self.pixels)
        return SplitFindings(
            self.images,
            pixels,
            self.void,
            self.smallest,
            self.largest,
            self.all_void,
            self.all_background,
            self.made,
        )


class Report:
    """The problems so far, one entry for each message however often it comes."""

    def __init__(self, labels: LabelSpace | None) -> None:
        self.labels = labels
        self.problems: list[Problem] = []
        self.hashes: dict[str, list[tuple[str, str]]] = {}
        self.tallies: dict[str, Tally] = {}
        self._examples: dict[tuple[str, str, str], list[str]] = {}
        self._counts: dict[tuple[str, str, str], int] = {}

    def tally(self, split: str, images: int, made: str | None = None) -> Tally:
        """Begin a split."""
        self.tallies[split] = Tally(split, images, made)
        return self.tallies[split]

    def add(self, kind: str, severity: str, message: str, example: str) -> None:
        """One more case of a problem; the first few cases are kept as examples."""
        key = kind, severity, message
        self._counts[key] = self._counts.get(key, 0) + 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def once(self, kind: str, message: str) -> None:
        """An error that concerns the whole, once."""
        if not any(problem.message == message for problem in self.problems):
            self.problems.append(Problem(kind, "error", message))

    def strays(
        self,
        split: str,
        coding: Coding,
        path: object,
        strays: Mapping[int, int],
        keys: NDArray[np.integer],
        colour: bool,
    ) -> None:
        """A mask with values or packed colours that are no class: `keys` (H, W) holds them, `strays` counts them."""
        kind, what = ("colour", "colours") if colour else ("value", "values")
        message = f"{split}: masks with {what} that are no class; correct them or classes.yaml"
        self.add(kind, "error", message, coding.stray_line(Path(str(path)), keys, next(iter(strays)), colour))

    def findings(self, name: str) -> Findings:
        """Close the report: look for absent classes and for images in several splits."""
        classes = 0 if self.labels is None else len(self.labels)
        splits = {split: tally.findings(classes) for split, tally in self.tallies.items()}
        self._absent(splits)
        for places in self.hashes.values():
            if len({split for split, _ in places}) > 1:
                first = dict(reversed(places))
                example = " = ".join(first[split] for split in self.tallies if split in first)
                self.add(
                    "leak",
                    "warning",
                    "splits: the same image in more than one; scores on it say nothing, keep it in one",
                    example,
                )
        for key, count in self._counts.items():
            self.problems.append(Problem(*key, tuple(self._examples[key]), count))
        self.problems.sort(key=lambda problem: problem.severity)  # errors first, otherwise as found
        return Findings(name, tuple(self.problems), splits, self.labels)

    def _absent(self, splits: Mapping[str, SplitFindings]) -> None:
        for i, name in enumerate(self.labels.names if self.labels else ()):
            without = [split for split, found in splits.items() if found.images and not found.pixels[i]]
            if all(not found.pixels[i] for found in splits.values()):
                self.add("absent-class", "warning", "classes: without a pixel anywhere; their scores will be '-'", name)
            else:
                for split in without:
                    self.add(
                        "absent-class",
                        "warning",
                        f"{split}: classes without a pixel; nothing is learnt or scored of them here",
                        name,
                    )
