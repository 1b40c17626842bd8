"""Everything that is wrong with a data set, found in one pass and returned as plain data.

Nothing is printed, and nothing stops at the first fault. Folders are scanned and coded by the functions that open
them, so that a folder without errors here can be opened, and one with errors says why it cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fullconv.data import Dataset, open_dataset, splits_of
from fullconv.data.classes import read_rules
from fullconv.data.coding import Coding
from fullconv.data.decoding import open_file
from fullconv.data.findings import Findings, Report, SplitFindings, Tally
from fullconv.data.folder import choose, coding_masks, coding_of, size_line, source_of
from fullconv.data.formats import FORMAT_SUFFIXES, HEAD_BYTES, sniff
from fullconv.data.images import read_image, read_label_values, shown
from fullconv.data.layouts import Layout, Pair, Problem, Scan, Source, find_layout, scan
from fullconv.data.masks import MaskFacts, mask_facts, packed
from fullconv.data.official import named
from fullconv.errors import UsageError

__all__ = ["Findings", "Problem", "SplitFindings", "check_dataset", "check_samples"]

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all) after each sample."""


def check_dataset(root_or_name: str | Path, split: str | None = None, progress: Progress | None = None) -> Findings:
    """Look at every file of a folder, or every sample of ``digits`` or of a published set: all splits, or one.

    Images are decoded whole and masks are counted. Raises `UsageError` only when there is nothing to look at: no such
    folder, no layout, no such split.
    """
    official = named(root_or_name)
    if official or str(root_or_name) == "digits":
        splits = (split,) if split else official.about.labelled if official else splits_of("digits")
        return check_samples(str(root_or_name), {name: open_dataset(root_or_name, name) for name in splits}, progress)
    layout = find_layout(Path(root_or_name))
    if split:
        names: tuple[str, ...] = (split,)
    else:  # VOC's trainval is train and val once more
        names = tuple(name for name in layout.names if name != "trainval" or not {"train", "val"} <= set(layout.names))
    return _check_folder(layout, {name: source_of(layout, name) for name in names}, split is None, progress)


def check_samples(name: str, datasets: Mapping[str, Dataset], progress: Progress | None = None) -> Findings:
    """Look at every sample of any data sets that share a label space, by split."""
    labels = next(iter(datasets.values())).labels
    report, done, total = Report(labels), 0, sum(len(d) for d in datasets.values())
    for split, dataset in datasets.items():
        tally = report.tally(split, len(dataset))
        for i in range(len(dataset)):
            try:
                sample = dataset[i]
            except UsageError as error:
                report.add(
                    "unreadable", "error", f"{split}: samples that cannot be read; repair or remove them", str(error)
                )
            else:
                place = f"{split}/{shown(sample.name)}"
                report.hashes.setdefault(hashlib.sha256(sample.image.tobytes()).hexdigest(), []).append((split, place))
                tally.size(sample.image.shape[:2])
                if sample.image.shape[:2] != sample.semantic.shape:
                    line = f"{place}: image {sample.image.shape[:2]}, label {sample.semantic.shape}"
                    report.add(
                        "size", "error", f"{split}: labels of another size than their image; make them equal", line
                    )
                values, counts = np.unique(sample.semantic, return_counts=True)
                facts = MaskFacts((0, 0), False, dict(zip(values.tolist(), counts.tolist(), strict=True)), None)
                coding = Coding(labels, {}, None)
                strays = coding.strays(facts)
                if strays:
                    report.strays(split, coding, place, strays, sample.semantic, colour=False)
                tally.mask(report, place, *coding.pixels(facts))
            done += 1
            if progress:
                progress(done, total)
    return report.findings(name)


# -- folders -----------------------------------------------------------------------------------------------------------


def _check_folder(
    layout: Layout, sources: Mapping[str, Source], everything: bool, progress: Progress | None
) -> Findings:
    report = Report(None)
    scans: dict[Source, Scan] = {}
    for source in sources.values():
        if source not in scans:  # a folder without splits is the source of both
            scans[source] = scan(source)
            report.problems += scans[source].problems
    for name in layout.unlabelled if everything else ():
        report.add(
            "unlabelled", "warning", f"{shown(layout.root)}: splits with images but no masks; they are left out", name
        )
    coding = _coding(layout, report)
    report.labels = None if coding is None else coding.labels
    pairs: dict[str, tuple[tuple[Pair, ...], str | None]] = {}
    for split, source in sources.items():
        try:
            pairs[split] = choose(layout, split, scans[source].pairs)
        except UsageError as error:
            pairs[split] = scans[source].pairs if split == "train" else (), None
            report.once("split", str(error))
    done, total = 0, sum(len(found) for found, _ in pairs.values())
    for split, (found, made) in pairs.items():
        tally = report.tally(split, len(found), made)
        for pair in found:
            _check_pair(report, tally, split, coding, pair)
            done += 1
            if progress:
                progress(done, total)
    return report.findings(shown(layout.root))


def _coding(layout: Layout, report: Report) -> Coding | None:
    """The coding of the folder from those masks that can be read, or the problem in place of it."""
    facts = []
    for mask in coding_masks(layout):
        try:
            facts.append(mask_facts(mask))
        except UsageError:  # reported with its pair
            continue
    try:
        if not facts and not layout.voc and read_rules(layout.root) is None:
            return None
        return coding_of(layout, facts)
    except UsageError as error:
        report.once("classes", str(error))
        return None


def _check_pair(report: Report, tally: Tally, split: str, coding: Coding | None, pair: Pair) -> None:
    _, image_path, mask_path = pair
    size = facts = None
    try:
        _check_bytes(report, split, image_path)
        size = read_image(image_path).shape[:2]
        tally.size(size)
    except UsageError as error:
        report.add(
            "unreadable-image", "error", f"{split}: images that cannot be read; replace or remove them", str(error)
        )
    try:
        facts = mask_facts(mask_path)
    except UsageError as error:
        report.add(
            "unreadable-mask", "error", f"{split}: masks that cannot be read; replace or remove them", str(error)
        )
        return
    if size and size != facts.size:
        line = size_line(image_path, size, mask_path, facts.size)
        report.add("size", "error", f"{split}: masks of another size than their image; give both the same size", line)
    if coding is None:
        return
    strays = coding.strays(facts)
    if strays:
        stored, by_colour = read_label_values(mask_path), coding.keys(facts)[1]
        plain = packed(stored) if by_colour else stored[..., 0] if stored.ndim == 3 else stored
        report.strays(split, coding, mask_path, strays, plain, by_colour)
    tally.mask(report, shown(mask_path), *coding.pixels(facts))


def _check_bytes(report: Report, split: str, path: Path) -> None:
    """Remember the bytes by their hash; warn of a suffix that belies the content and of a PNG that lacks its end."""
    with open_file(path) as stream:
        kind = sniff(stream.read(HEAD_BYTES))[0]
        stream.seek(0)
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        stream.seek(max(0, stream.tell() - 4096))
        tail = stream.read()
    report.hashes.setdefault(digest.hexdigest(), []).append((split, shown(path)))
    if kind and path.suffix.lower() not in FORMAT_SUFFIXES[kind]:
        what = f"{split}: images whose suffix is not that of their format; they are read by content"
        report.add("suffix", "warning", what, f"{shown(path)} is {kind}")
    if kind == "PNG" and b"IEND" not in tail:
        report.add("no-end", "warning", f"{split}: PNG files without an end mark; copy them again", shown(path))
