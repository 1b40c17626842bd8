"""A folder of images and masks as a dataset: found by `layouts`, coded by `coding`, read here, with no file written.

What is wrong with the files stops the opening, with the first thing found in one line;
`fullconv.check` lists everything.

Each mask is read once when its split is opened, to find the classes and check every value, and its counts are kept
(`mask_facts`); after that, once for each time its sample is used. A folder in PASCAL VOC's layout has known classes and
is opened without this survey.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import IndexedDataset, Sample
from fullconv.datasets.folder.classes_file import VOC_RULES, ClassesFile, MaskOptions, read_rules
from fullconv.datasets.folder.layouts import Layout, Pair, Source, find_layout, scan
from fullconv.datasets.folder.mask_encoding import MaskEncoding, find_coding
from fullconv.datasets.folder.mask_facts import MaskFacts, mask_facts
from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label_values
from fullconv.io.multispectral import Bands, bands_of, read_bands, statistics
from fullconv.labels import LabelSpace

if TYPE_CHECKING:
    from fullconv.datasets.annotations.discover import PolygonLayout

VAL_SHARE = 0.2
SPLIT_SEED = 0
LEAST_GROUPS = 5


@dataclass(frozen=True)
class Folder(IndexedDataset):
    """One split of a folder, as `fullconv.data.dataset.Dataset`.

    pairs: (name, image file, mask file) in order. split_made: one sentence on how the split was made when the folder
    has none, else None. Samples are read when they are asked for; nothing of them is kept.
    """

    root: Path
    split: str
    labels: LabelSpace
    pairs: tuple[Pair, ...]
    split_made: str | None = None
    coding: MaskEncoding = field(repr=False, kw_only=True)
    bands: Bands | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the channels of the images are: colour, or so many bands."""
        return ("color",) if self.bands is None else ("band",) * self.bands.channels

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each band over (some of) the images; only where there are bands."""
        mean, deviation = statistics([image for _, image, _ in self.pairs])
        return tuple(mean.tolist()), tuple(deviation.tolist())

    def class_pixels(self, index: int) -> NDArray[np.int64]:
        """Return the number of pixels of each class (K,) in one mask; a mask that was counted is not read again."""
        return self.coding.pixels(mask_facts(self.pairs[index][2]))[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int) -> Sample:
        """Sample number `index`; `UsageError` when a file cannot be read, sizes differ or a value is no class."""
        name, image_path, mask_path = self.pairs[index]
        image = read_image(image_path) if self.bands is None else read_bands(image_path)
        stored = read_label_values(mask_path)
        if image.shape[:2] != stored.shape[:2]:
            raise UsageError(size_line(image_path, image.shape[:2], mask_path, stored.shape[:2]))
        if self.bands is not None and image.shape[2] != self.bands.channels:
            raise UsageError(
                f"{shown(image_path)}: {image.shape[2]} bands, the others have {self.bands.count}; give all the same"
            )
        return Sample(image, self.coding.encode(stored, mask_path), name)


def open_folder(root: Path, split: str, reading: MaskOptions | None = None) -> Folder:
    """Open one split of a folder in one of the layouts of `fullconv.datasets.folder.layouts`;
    `reading` is what was said about it beside its ``classes.yaml``.

    The label space comes from ``classes.yaml``, or from all the masks of the training split, and every mask of the
    split is checked against it before the first sample is read. A folder without splits gets one from `make_split`.
    Raises `UsageError` for whatever cannot be used, naming the file or folder.
    """
    layout = find_layout(root)
    pairs, made = split_pairs(layout, split, reading)
    coding = coding_of(layout, reading=reading)
    if not layout.voc:  # official label files; a stray value in them is found when it is read
        for _, _, mask in pairs:
            check_values(coding, mask)
    return Folder(layout.root, split, coding.labels, pairs, made, coding=coding, bands=shared_bands(layout, pairs))


def shared_bands(layout: Layout, pairs: Sequence[Pair]) -> Bands | None:
    """What all images of a folder hold, where they are no photographs; None where they are, or most of them.

    Raises `UsageError` naming a file that differs from the first, among images of many bands.
    """
    first = bands_of(pairs[0][1]) if pairs else None
    if first is None:
        return None
    for _, path, _ in pairs:
        found = bands_of(path)
        if found == first:
            continue
        if first.count == 1:  # gray of 16 bits among photographs is brought down to 8 bits and read as they are
            return None
        held = f"{found}" if found else "a photograph, or damaged"
        raise UsageError(f"{shown(path)}: it is {held}, and {shown(pairs[0][1])} holds {first}; give all the same")
    if first.kind.startswith("float") and first.count <= 3:
        return None  # a picture of floats says not what is black and what is white
    return first


def split_pairs(layout: Layout, split: str, reading: MaskOptions | None = None) -> tuple[tuple[Pair, ...], str | None]:
    """The pairs of one split and the sentence on how it was made; `UsageError` when a file is missing or too many."""
    found = scan(source_of(layout, split))
    for problem in found.problems:
        unpaired = problem.kind in ("no-mask", "no-image") and bool(found.pairs)
        if problem.severity == "error" and not (unpaired and reading is not None and reading.skip_unpaired):
            raise UsageError(problem.line())
    return choose(layout, split, found.pairs)


def source_of(layout: Layout, split: str) -> Source:
    """Where a split lies; `UsageError` saying which splits there are when there is no such."""
    if split in layout.unlabelled:
        raise UsageError(f"{shown(layout.root)}: the split '{split}' has images but no masks; add the masks")
    if split not in layout.names:
        raise UsageError(f"{shown(layout.root)}: no split '{shown(split)}'; {suggestion(split, layout.names)}")
    return layout.whole or layout.splits[split]


def choose(layout: Layout | PolygonLayout, split: str, pairs: tuple[Pair, ...]) -> tuple[tuple[Pair, ...], str | None]:
    """Return the pairs of a source that belong to the split, and one sentence on how it was made, if it was."""
    if layout.whole is None:
        return pairs, None
    train, val, made = make_split([name for name, _, _ in pairs])
    if not val:
        raise UsageError(f"{shown(layout.root)}: one image cannot be split; add images, or make train and val folders")
    chosen = set(train if split == "train" else val)
    return tuple(pair for pair in pairs if pair[0] in chosen), made


def coding_of(
    layout: Layout, facts: Sequence[MaskFacts] | None = None, reading: MaskOptions | None = None
) -> MaskEncoding:
    """The coding that all splits of a folder share: from its rules and its training masks, counted here unless given.

    Raises `UsageError` when ``classes.yaml`` or the masks as a whole cannot be used.
    """
    rules = read_rules(layout.root)
    if reading is not None and not layout.voc:
        rules = reading.over(rules or ClassesFile())
    if layout.voc:
        return find_coding(layout.root, rules or VOC_RULES, [])
    if facts is None:
        facts = [mask_facts(mask) for mask in coding_masks(layout)]
    return find_coding(layout.root, rules or ClassesFile(), facts)


def coding_masks(layout: Layout) -> list[Path]:
    """The masks from which the classes are found: the training split's, else the first split's, else all."""
    source: Source = layout.whole or layout.splits.get("train") or next(iter(layout.splits.values()))
    return [mask for _, _, mask in scan(source).pairs]


def check_values(coding: MaskEncoding, mask: Path) -> None:
    """Raise `UsageError` when a mask holds a value or colour that is no class."""
    if coding.strays(mask_facts(mask)):
        coding.encode(read_label_values(mask), mask)


def size_line(image: Path, image_size: Sequence[int], mask: Path, mask_size: Sequence[int]) -> str:
    """The error on an image and a mask of different sizes (height, width)."""
    sizes = f"{mask_size[0]}x{mask_size[1]}, but its image {shown(image.name)} is {image_size[0]}x{image_size[1]}"
    turned = tuple(image_size) == tuple(mask_size)[::-1]
    advice = "turn the mask as the photo's EXIF orientation says" if turned else "give both the same size"
    return f"{shown(mask)}: the mask is {sizes} (height x width); {advice}"


def make_split(names: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Divide names into training and validation, and say how in one sentence. A pure function of the names.

    A fifth goes to validation, at least one. Names that differ only in a last ``_<number>`` or ``-<number>`` (frames
    of a video, tiles of a slide) stay together where there are groups enough; else each name stands for itself.

    >>> train, val, made = make_split([f"{film}_{i}" for film in "abcde" for i in range(3)])
    >>> val, made
    (['d_0', 'd_1', 'd_2'], 'split made from 15 images: 12 train, 3 val, grouped by name up to the last number, seed 0')
    """
    target = max(1, round(VAL_SHARE * len(names)))
    groups = _grouped(names, lambda name: re.sub(r"[_-]\d+$", "", name))
    val = _take(groups, target)
    how = "grouped by name up to the last number"
    if len(groups) < LEAST_GROUPS or not target / 2 <= len(val) <= target * 3 / 2:
        val = _take(_grouped(names, lambda name: name), target)
        how = "image by image"
    if len(names) < 2:
        val = set()
    train = [name for name in names if name not in val]
    made = f"split made from {len(names)} images: {len(train)} train, {len(val)} val, {how}, seed {SPLIT_SEED}"
    return train, sorted(val), made


def _grouped(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _take(groups: dict[str, list[str]], target: int) -> set[str]:
    """Whole groups in an order shuffled by hash, passing over those that would overshoot by half, until `target`."""
    taken: set[str] = set()
    for _, members in sorted(groups.items(), key=lambda item: _shuffled(item[0])):
        if len(taken) >= target:
            break
        if len(taken) + len(members) <= max(target * 3 / 2, 1):
            taken.update(members)
    return taken


def _shuffled(name: str) -> bytes:
    return hashlib.sha256(f"{SPLIT_SEED}:{name}".encode("utf-8", "surrogateescape")).digest()
