"""Everything that is wrong with a data set, found in one pass and returned as plain data.

Nothing is printed, and nothing stops at the first fault. Folders are scanned and coded by the functions that open
them, so that a folder without errors here can be opened, and one with errors says why it cannot.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from fullconv.checking.duplicates import (
    ThumbnailIndex,
    quick_duplicates,
    report_duplicates,
    thumbnail,
)
from fullconv.checking.findings import Findings, Report, SampleProblem, SplitFindings, SplitTally
from fullconv.checking.heuristics import (
    SPECKS,
    Inspected,
    MaskLook,
    facts_of,
    in_order,
    inspect,
    is_flat,
    look,
    off_by_one,
    quick_labels,
    renumbered,
)
from fullconv.data.dataset import Dataset
from fullconv.datasets.annotations.discover import find_polygons
from fullconv.datasets.folder.classes_file import MaskOptions, read_rules
from fullconv.datasets.folder.folder_dataset import (
    Folder,
    choose,
    coding_masks,
    coding_of,
    shared_bands,
    size_line,
    source_of,
)
from fullconv.datasets.folder.layouts import Layout, Pair, Problem, Scan, Source, find_layout, scan
from fullconv.datasets.folder.mask_encoding import MaskEncoding
from fullconv.datasets.folder.mask_facts import MaskFacts, mask_facts, packed
from fullconv.datasets.open_dataset import open_dataset, splits_of
from fullconv.datasets.published.catalog import named
from fullconv.errors import UsageError, shown
from fullconv.io.formats import FORMAT_SUFFIXES
from fullconv.io.label_image import read_label_values
from fullconv.io.multispectral import Bands

__all__ = ["Findings", "Problem", "SampleProblem", "SplitFindings", "check_dataset", "check_samples", "quick_check"]

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all) after each sample."""


def check_dataset(
    root_or_name: str | Path,
    split: str | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    reading: MaskOptions | None = None,
) -> Findings:
    """Look at every file of a folder, or every sample of ``digits``, of polygons or of a published set: all splits, or
    one. reading: what is said about the masks of a folder beside its ``classes.yaml``.

    Images are decoded whole and masks are counted, by `workers` threads (as many as there are cores if None, at most
    8); the findings are the same for any number. Samples that are no files of a folder are read one after the other.
    Raises `UsageError` only when there is nothing to look at: no such folder, no layout, no such split.
    """
    official = named(root_or_name)
    if official or str(root_or_name) == "digits" or find_polygons(Path(root_or_name)):
        if reading is not None:
            raise UsageError(
                f"{root_or_name}: --map, --colors, --skip-unpaired are for folders of masks; leave them out"
            )
        splits = (split,) if split else official.about.labelled if official else splits_of(root_or_name)
        return check_samples(str(root_or_name), {name: open_dataset(root_or_name, name) for name in splits}, progress)
    layout = find_layout(Path(root_or_name))
    if split:
        names: tuple[str, ...] = (split,)
    else:  # VOC's trainval is train and val once more
        names = tuple(name for name in layout.names if name != "trainval" or not {"train", "val"} <= set(layout.names))
    sources = {name: source_of(layout, name) for name in names}
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    return _FolderCheck(layout, sources, reading).run(split is None, progress, workers)


def check_samples(name: str, datasets: Mapping[str, Dataset], progress: Progress | None = None) -> Findings:
    """Look at every sample of any data sets that share a label space, by split."""
    labels = next(iter(datasets.values())).labels
    report, seen, done = Report(labels), ThumbnailIndex(), 0
    total = sum(len(d) for d in datasets.values())
    for split, dataset in datasets.items():
        tally = report.tally(split, len(dataset))
        for i in range(len(dataset)):
            _check_sample(report, seen, tally, dataset, i)
            done += 1
            if progress:
                progress(done, total)
    report_duplicates(report, seen)
    return report.findings(name, datasets)


def _check_sample(report: Report, seen: ThumbnailIndex, tally: SplitTally, dataset: Dataset, index: int) -> None:
    split, labels = tally.split, dataset.labels
    try:
        sample = dataset[index]
    except UsageError as error:
        report.add("unreadable", "error", f"{split}: samples that cannot be read; repair or remove them", str(error))
        return
    here, place, label = (split, sample.name), f"{split}/{shown(sample.name)}", sample.semantic
    small = thumbnail(sample.image)
    flat = is_flat(sample.image, small)
    digest = hashlib.sha256(sample.image.tobytes()).hexdigest()
    seen.add(split, sample.name, place, digest, None if flat else small)
    tally.size(sample.image.shape[:2])
    if sample.image.shape[:2] != label.shape:
        line = f"{place}: image {sample.image.shape[:2]}, label {label.shape}"
        report.add("size", "error", f"{split}: labels of another size than their image; make them equal", line, here)
    facts, coding = facts_of(label), MaskEncoding(labels, {}, None)
    strays = coding.strays(facts)
    if strays:
        message = f"{split}: masks with values that are no class; correct them or classes.yaml"
        report.add("value", "error", message, coding.stray_line(Path(place), label, next(iter(strays)), False), here)
    if flat:
        _flat(report, here, place)
    _specks(report, here, place, look(label, facts))
    tally.mask(report, sample.name, place, *coding.pixels(facts))


def _flat(report: Report, here: tuple[str, str], place: str) -> None:
    message = f"{here[0]}: images of one colour all over; replace or remove them"
    report.add("constant-image", "warning", message, place, here)


def _specks(report: Report, here: tuple[str, str], place: str, seen: MaskLook) -> None:
    if seen.specks > SPECKS:
        message = (
            f"{here[0]}: masks where more than {100 * SPECKS:.0f} % of the pixels differ from all their neighbours; "
            "look whether that is noise, and clean them"
        )
        report.add("specks", "warning", message, f"{place}: {100 * seen.specks:.1f} %", here)


# -- folders -----------------------------------------------------------------------------------------------------------


class _FolderCheck:
    """One pass over the files of a folder."""

    def __init__(self, layout: Layout, sources: Mapping[str, Source], reading: MaskOptions | None) -> None:
        self.layout, self.sources, self.report, self.seen = layout, sources, Report(None), ThumbnailIndex()
        self.reading = reading
        self.pairs: dict[str, tuple[tuple[Pair, ...], str | None]] = {}
        self.bands: dict[str, Bands | None] = {}
        self.coding: MaskEncoding | None = None
        self.shifted = False  # whether the values begin at 1

    def run(self, everything: bool, progress: Progress | None, workers: int) -> Findings:
        report, layout = self.report, self.layout
        self._list(everything)
        items = [(split, pair) for split, (found, _) in self.pairs.items() for pair in found]

        def one(item: tuple[str, Pair]) -> Inspected:
            return inspect(item[1], self.bands[item[0]] is not None)

        inspected = []
        for found in in_order(one, items, workers):
            inspected.append(found)
            if progress:
                progress(len(inspected), len(items))
        known = {pair[2]: found.facts for (_, pair), found in zip(items, inspected, strict=True)}
        self.coding = self._coding(known, workers)
        report.labels = None if self.coding is None else self.coding.labels
        self._check_masks_together(known)
        for split, (pairs, made) in self.pairs.items():
            report.tally(split, len(pairs), made)
        others = self._renumbered(items, inspected)
        for (split, pair), found in zip(items, inspected, strict=True):
            self._check_image(split, pair, found)
            self._check_mask(split, pair, found)
            if pair[2] in others:
                message = f"{split}: masks whose palette numbers a colour otherwise than most; write all with one"
                line = f"{shown(pair[2])}: {others[pair[2]]}"
                report.add("renumbered", "warning", f"{message} palette", line, (split, pair[0]))
        report_duplicates(report, self.seen)
        return report.findings(shown(layout.root), self._samples())

    def _list(self, everything: bool) -> None:
        """Which pairs there are, and what is wrong with their names."""
        report, layout = self.report, self.layout
        scans: dict[Source, Scan] = {}
        for source in self.sources.values():
            if source not in scans:  # a folder without splits is the source of both
                scans[source] = scan(source)
                skip = ("no-mask", "no-image") if self.reading and self.reading.skip_unpaired else ()
                found = scans[source]
                report.problems += [p for p in found.problems if not (found.pairs and p.kind in skip)]
        for name in layout.unlabelled if everything else ():
            message = f"{shown(layout.root)}: splits with images but no masks; they are left out"
            report.add("unlabelled", "warning", message, name)
        for split, source in self.sources.items():
            try:
                self.pairs[split] = choose(layout, split, scans[source].pairs)
            except UsageError as error:
                self.pairs[split] = scans[source].pairs if split == "train" else (), None
                report.once("split", str(error))
            self.bands[split] = None
            try:
                self.bands[split] = shared_bands(layout, self.pairs[split][0])
            except UsageError as error:
                report.once("bands", str(error))

    def _coding(self, known: Mapping[Path, MaskFacts | None], workers: int) -> MaskEncoding | None:
        """The coding of the folder from those masks that can be read, or the problem in place of it."""
        layout = self.layout
        masks = [] if layout.voc else coding_masks(layout)
        missing = [mask for mask in masks if mask not in known]
        facts = dict(known) | dict(zip(missing, in_order(_facts_or_none, missing, workers), strict=True))
        readable = [found for mask in masks if (found := facts[mask]) is not None]
        try:
            if not readable and not layout.voc and read_rules(layout.root) is None:
                return None
            return coding_of(layout, readable, self.reading)
        except UsageError as error:
            self.report.once("classes", str(error))
            return None

    def _check_masks_together(self, known: Mapping[Path, MaskFacts | None]) -> None:
        """Values that begin at 1."""
        if self.coding is None or self.layout.voc:
            return
        rules = read_rules(self.layout.root)
        given = rules is not None and (rules.names or rules.palette) is not None
        advice = off_by_one(self.coding, given, [facts for facts in known.values() if facts])
        if advice:
            self.shifted = True
            count = len(self.coding.labels)
            what = (
                f"the {count} classes are 0 to {count - 1}, and the masks hold {count}" if given else "no mask holds 0"
            )
            message = f"{shown(self.layout.root)}: {what}, so that the values seem to begin at 1; {advice}"
            self.report.once("off-by-one", message, "error" if given else "warning")

    def _renumbered(self, items: list[tuple[str, Pair]], inspected: list[Inspected]) -> dict[Path, str]:
        folders: dict[Path, list[tuple[Path, MaskFacts]]] = {}
        for (_, (_, _, mask)), found in zip(items, inspected, strict=True):
            if found.facts:
                folders.setdefault(mask.parent, []).append((mask, found.facts))
        return {mask: words for masks in folders.values() for mask, words in renumbered(masks).items()}

    def _check_image(self, split: str, pair: Pair, found: Inspected) -> None:
        name, path, _ = pair
        report, here, place = self.report, (split, name), shown(path)
        if found.digest:
            whole = found.thumbnail if not found.flat else None
            self.seen.add(split, name, place, found.digest, whole)
        if found.kind and path.suffix.lower() not in FORMAT_SUFFIXES[found.kind]:
            what = f"{split}: images whose suffix is not that of their format; they are read by content"
            report.add("suffix", "warning", what, f"{place} is {found.kind}", here)
        if not found.ended:
            message = f"{split}: PNG files without an end mark; copy them again"
            report.add("no-end", "warning", message, place, here)
        if found.image_error:
            message = f"{split}: images that cannot be read; replace or remove them"
            report.add("unreadable-image", "error", message, found.image_error, here)
        if found.size:
            report.tallies[split].size(found.size)
        if found.flat:
            _flat(report, here, place)

    def _check_mask(self, split: str, pair: Pair, found: Inspected) -> None:
        (name, image, path), facts, report = pair, found.facts, self.report
        here, place, coding = (split, name), shown(path), self.coding
        strays = coding.strays(facts) if coding and facts else {}
        if found.copied:
            message = f"{split}: masks that are byte for byte their image; put the masks there"
            report.add("copied", "error" if strays or coding is None or not facts else "warning", message, place, here)
            return
        if facts is None or found.look is None:
            message = f"{split}: masks that cannot be read; replace or remove them"
            report.add("unreadable-mask", "error", message, str(found.mask_error), here)
            return
        if found.size and found.size != facts.size:
            line = size_line(image, found.size, path, facts.size)
            message = f"{split}: masks of another size than their image; give both the same size"
            report.add("size", "error", message, line, here)
        if found.look.lossy:
            message = f"{split}: masks saved as JPEG or resized with interpolation; export them again, without loss"
            report.add("lossy", "error" if strays else "warning", message, f"{place}: {found.look.lossy}", here)
            return
        _specks(report, here, place, found.look)
        if coding is None:
            return
        by_colour = coding.keys(facts)[1]
        if strays and not (self.shifted and set(strays) == {len(coding.labels)}):
            kind, what = ("colour", "colours") if by_colour else ("value", "values")
            message = f"{split}: masks with {what} that are no class; correct them or classes.yaml"
            line = f"{place}: {what} that are no class"
            if report.wants_example(kind, "error", message):
                stored = read_label_values(path)
                keys = packed(stored) if by_colour else stored[..., 0] if stored.ndim == 3 else stored
                line = coding.stray_line(path, keys, next(iter(strays)), by_colour)
            report.add(kind, "error", message, line, here)
        report.tallies[split].mask(report, name, place, *coding.pixels(facts))

    def _samples(self) -> dict[str, Dataset]:
        if self.coding is None:
            return {}
        root, labels = self.layout.root, self.coding.labels
        return {
            split: Folder(root, split, labels, pairs, made, coding=self.coding, bands=self.bands[split])
            for split, (pairs, made) in self.pairs.items()
        }


def _facts_or_none(mask: Path) -> MaskFacts | None:
    try:
        return mask_facts(mask)
    except UsageError:  # reported with its pair
        return None


# -- before the first step ---------------------------------------------------------------------------------------------


def quick_check(dataset: Dataset, validation: Dataset | None, seed: int = 0) -> list[str]:
    """What a run should be warned of before its first step, in sentences; empty where nothing was seen.

    Images that stand in both splits (by file size, then SHA-256), and, in a seeded sample of 50 labels of each split,
    values that are no class, labels of nothing but void, and absent classes. No image of a folder is decoded.
    """
    found = [] if validation is None else quick_duplicates(dataset, validation)
    for split, samples in (("training", dataset), ("validation", validation)):
        if samples is not None and len(samples):
            found += quick_labels(split, samples, seed)
    return found
