"""The page of `fullconv check`: what was found, what the data set holds, and some of its samples to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fullconv.checking.findings import Findings, SampleProblem
from fullconv.data.dataset import Dataset, Sample, facts_of
from fullconv.errors import UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.labels import LabelSpace
from fullconv.reporting.figures import FAINT, new_figure, style_axes, to_png
from fullconv.reporting.formatting import counted
from fullconv.reporting.page import Figure, Gallery, Section, Table, percent, render
from fullconv.reporting.pictures import INK, over_gray, seen, shortened, side_by_side

SAMPLES, MARKED = 4, 8
SEVERITY = {"error": (205, 60, 60), "warning": (222, 158, 44)}
MARKERS = "Ds^v"
LEAST_SHARE = 1e-4


def write_check_page(path: Path, found: Findings, seed: int = 0) -> Path:
    """Write the findings as one HTML file that asks the network for nothing, whole or not at all; returns its path.

    Of each split `SAMPLES` samples are shown, drawn with `seed`, and up to `MARKED` of those with a finding, errors
    first and of each kind in turn. Raises `RunError` when the file cannot be written.
    """
    errors = sum(problem.severity == "error" for problem in found.problems)
    warnings = len(found.problems) - errors
    sections: list[Section | None] = [_problems(found), _splits(found)]
    if found.labels is not None:
        sections.append(_classes(found, found.labels))
        sections.append(_marked(found, found.labels))
        sections += [_some(split, found.samples[split], found.labels, seed) for split in found.samples]
    images_in_all = sum(split.images for split in found.splits.values())
    facts = {"pairs": f"{images_in_all:,}", "classes": str(len(found.labels)) if found.labels else "-"}
    facts |= {"errors": str(errors), "warnings": str(warnings)}
    verdict = "It is ready to train." if found.ok else "It cannot be used as it is."
    counts = [counted(n, word) for n, word in ((errors, "error"), (warnings, "warning")) if n]
    what = f"there {'is' if errors + warnings == 1 else 'are'} {' and '.join(counts)}" if counts else "nothing is wrong"
    lead = f"All files of {found.name} were read: {what}. {verdict}"
    page = render(f"Check of {Path(found.name).name or found.name}", lead, [s for s in sections if s], facts)
    write_atomically(path, page.encode())
    return path


def class_shares(shares: Mapping[str, Sequence[float]], labels: LabelSpace, width: int = 720) -> bytes:
    """The share of each class in each split, as PNG: bars of the first split, markers of the others, on a logarithmic
    scale from 0.01 % to 100 %, so that a rare class can be told from an absent one.

    shares: split -> share of each class, 0 to 1. width: in CSS pixels.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [shortened(name, 24) for name in labels.names]
    side = 7.4 * max(map(len, names)) + 14
    height = 21 * len(names) + 66
    figure = new_figure(width, height)
    axes = figure.add_axes((side / width, 44 / height, (width - side - 20) / width, 1 - 66 / height))
    style_axes(axes, grid=False)
    axes.set_xscale("log")
    axes.set_xlim(LEAST_SHARE, 1)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([0.0001, 0.001, 0.01, 0.1, 1], ["0.01", "0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("share of the pixels that are not void, % (logarithmic)")
    axes.set_yticks(range(len(names)), names, parse_math=False)
    (first, bars), *others = shares.items()
    colours = [tuple(channel / 255 for channel in colour) for colour in labels.palette]
    lengths = [max(0.0, share - LEAST_SHARE) for share in bars]
    axes.barh(
        range(len(names)), lengths, left=LEAST_SHARE, height=0.66, color=colours, edgecolor=INK, linewidth=0.5
    )  # fmt: skip
    handles: list[Patch | Line2D] = [Patch(facecolor=FAINT, edgecolor=INK, linewidth=0.5, label=first)]
    for (split, values), marker in zip(others, MARKERS, strict=False):
        held = [(max(share, LEAST_SHARE), i) for i, share in enumerate(values) if share]
        x, y = zip(*held, strict=True) if held else ((), ())
        handles += axes.plot(
            x, y, linestyle="", marker=marker, markersize=6.5, color="white", markeredgecolor=INK,
            markeredgewidth=1.3, label=split, clip_on=False,
        )  # fmt: skip
    if others:
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(shares), frameon=False,
            fontsize=10.5, labelcolor=INK, borderpad=0, borderaxespad=0.2, handletextpad=0.5,
        )  # fmt: skip
    return to_png(figure)


# -- the parts of the page ---------------------------------------------------------------------------------------------


def _problems(found: Findings) -> Section:
    if not found.problems:
        text = "Nothing: every file could be read, every value is a class, and nothing else looks as if it were wrong."
        return Section("What was found", text)
    rows = tuple(
        (problem.severity, problem.message, f"{problem.count:,}", ", ".join(problem.examples) or "-")
        for problem in found.problems
    )
    swatches = tuple(SEVERITY.get(problem.severity, (128, 128, 128)) for problem in found.problems)
    text = "Errors first. An error stops training; a warning says what to look at before you trust the scores."
    return Section(
        "What was found", text, (Table(("", "what, and what to do", "times", "for example"), rows, "", swatches),)
    )


def _splits(found: Findings) -> Section:
    rows = tuple(
        (
            name,
            f"{split.images:,}",
            sizes(split.smallest, split.largest),
            percent(split.void_share),
            f"{split.all_void:,}",
            f"{split.all_background:,}",
        )
        for name, split in found.splits.items()
    )
    header = ("split", "pairs", "height x width", "void, %", "void all over", "class 0 only")
    made = "\n\n".join(f"{name}: {split.made}." for name, split in found.splits.items() if split.made)
    return Section("Splits", made, (Table(header, rows),))


def sizes(low: tuple[int, int] | None, high: tuple[int, int] | None) -> str:
    """The smallest and the largest (height, width) in words.

    >>> sizes((4, 5), (4, 5)), sizes((4, 5), (6, 7)), sizes(None, None)
    ('4x5', '4x5 to 6x7', '-')
    """
    if low is None or high is None:
        return "-"
    return f"{low[0]}x{low[1]}" + ("" if low == high else f" to {high[0]}x{high[1]}")


def _classes(found: Findings, labels: LabelSpace) -> Section:
    shares = {name: split.shares for name, split in found.splits.items()}
    rows = tuple(
        (name, *(_share(values[i]) for values in shares.values()), weight(found.weights[i]))
        for i, name in enumerate(labels.names)
    )
    table = Table(("class", *(f"{split}, %" for split in shares), "weight"), rows, swatches=labels.palette)
    text = (
        "The share of each class in the pixels that are not void. The weight is a suggestion for the loss where rare "
        "classes matter, by median frequency balancing (Eigen and Fergus, 2015): the median of the frequencies of all "
        "classes over that of the class, each counted in the images that hold it."
    )
    alt = "Bars: the share of each class in each split. The numbers stand in the table that follows."
    return Section("Classes", text, (Figure(class_shares(shares, labels), "", alt), table))


def _share(share: float) -> str:
    """Percent, with as many decimals as a rare class needs."""
    return "-" if not share else percent(share) if share >= 0.01 else f"{100 * share:.3f}"


def weight(value: float | None) -> str:
    """A suggested weight in a table.

    >>> weight(1.234), weight(None)
    ('1.23', '-')
    """
    return "-" if value is None else f"{value:.3g}"


def _marked(found: Findings, labels: LabelSpace) -> Section | None:
    """Samples with a finding that can still be drawn, errors first, the kinds in turn."""
    figures: list[Figure] = []
    seen: set[tuple[str, str]] = set()
    for mark in _in_turn(found.marks):
        if len(figures) == MARKED or (mark.split, mark.name) in seen or mark.split not in found.samples:
            continue
        seen.add((mark.split, mark.name))
        dataset = found.samples[mark.split]
        index = next((i for i, pair in enumerate(facts_of(dataset).pairs) if pair[0] == mark.name), None)
        sample = None if index is None else _read(dataset, index)
        if sample is not None:
            figures.append(_strip(sample, labels, f"{mark.severity.capitalize()}: {mark.line}"))
    if not figures:
        return None
    text = "Some of the samples with a finding, as far as they can be drawn: the image, and its label over it."
    return Section("Samples with findings", text, (Gallery(tuple(figures), columns=2),))


def _in_turn(marks: Sequence[SampleProblem]) -> list[SampleProblem]:
    """Errors first; of each severity the first mark of every kind, then the second of every kind ..."""
    rank: dict[str, int] = {}
    order = []
    for place, mark in enumerate(marks):
        rank[mark.kind] = rank.get(mark.kind, -1) + 1
        order.append((mark.severity, rank[mark.kind], place))
    return [marks[place] for _, _, place in sorted(order)]


def _some(split: str, dataset: Dataset, labels: LabelSpace, seed: int) -> Section | None:
    figures: list[Figure] = []
    for index in np.random.default_rng(seed).permutation(len(dataset)).tolist()[: 4 * SAMPLES]:
        sample = _read(dataset, index) if len(figures) < SAMPLES else None
        if sample is not None:
            figures.append(_strip(sample, labels, shown(sample.name)))
    return Section(f"Samples of {split}", "", (Gallery(tuple(figures), columns=2),)) if figures else None


def _read(dataset: Dataset, index: int) -> Sample | None:
    try:
        sample = dataset[index]
    except UsageError:
        return None
    return sample if sample.semantic.shape == sample.image.shape[:2] else None


def _strip(sample: Sample, labels: LabelSpace, words: str) -> Figure:
    """The image, and its label in the colours of the classes over the image in gray."""
    image = seen(sample.image)
    label = np.where(sample.semantic < len(labels), sample.semantic, labels.ignore_index)
    over = over_gray(image, label, labels)
    return Figure(side_by_side([[image, over]], width=358), words, f"Image and label of {words}")
