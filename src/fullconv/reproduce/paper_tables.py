"""The tables of the paper, and the numbers in its text that studies are compared with, each with its evidence.

A cell is a number, which has the evidence of its table, or (number, tag), or None where nothing is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fullconv.errors import UsageError, suggestion

EVIDENCE = {
    "P": "printed in the paper (arXiv 1411.4038 v2, CVPR 2015)",
    "R": "from the authors' released code, or the journal version's abstract",
    "J+": "from the journal version (arXiv 1605.06211), confirmed by a second source",
    "J?": "recalled of the journal version, not confirmed",
    "X": "computed from printed numbers",
}
"""What each tag means."""

UNVERIFIED = "unverified"
"""The mark of a number that nobody has confirmed, wherever it is printed."""


@dataclass(frozen=True)
class Entry:
    """One number of the paper.

    value: in `unit` (percent, ms, pixels, or M for millions; empty for a count or a ratio). source: the section or
    table that it stands in. tag: a key of `EVIDENCE`.

    >>> str(Entry(62.7, "percent", "table 2", "P")), str(Entry(84.5, "percent", "journal version", "J?"))
    ('62.7', '84.5 unverified')
    """

    value: float
    unit: str
    source: str
    tag: str

    def __post_init__(self) -> None:
        if self.tag not in EVIDENCE:
            raise ValueError(f"tag '{self.tag}'; one of {', '.join(EVIDENCE)}")

    @property
    def unverified(self) -> bool:
        """Whether nobody has confirmed the number, so that it must not be printed as a fact."""
        return self.tag == "J?"

    def __str__(self) -> str:
        value = f"{self.value:.1f}" if self.unit == "percent" else f"{self.value:g}"
        return value + (f" {UNVERIFIED}" if self.unverified else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the mark among them."""
        return {**asdict(self), UNVERIFIED: self.unverified}


Cell = float | tuple[float, str] | None

FOUR = {"pixel acc.": "percent", "mean acc.": "percent", "mean IU": "percent", "f.w. IU": "percent"}
"""The four numbers, in the order in which the paper prints them."""


@dataclass(frozen=True)
class PaperTable:
    """A table: columns with their units, rows of as many cells, where it stands, and the evidence of its cells."""

    title: str
    source: str
    tag: str
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[Cell, ...]]

    def row(self, name: str) -> dict[str, Entry]:
        """The numbers of a row by column; what is not printed is left out. Raises `UsageError` for an unknown row."""
        if name not in self.rows:
            raise UsageError(f"paper, {self.source}: there is no row '{name}'; {suggestion(name, self.rows)}")
        found = {}
        for (column, unit), cell in zip(self.columns.items(), self.rows[name], strict=True):
            if cell is not None:
                value, tag = cell if isinstance(cell, tuple) else (cell, self.tag)
                found[column] = Entry(value, unit, self.source, tag)
        return found


TABLES = {
    "table1": PaperTable(
        "Three classifiers made into FCN-32s, on PASCAL VOC 2011 val; times at 500x500 on a Tesla K40c",
        "section 4.1, table 1",
        "P",
        {"mean IU": "percent", "forward": "ms", "conv. layers": "", "parameters": "M", "rf size": "pixels",
         "max stride": "pixels"},
        {
            "AlexNet": (39.8, 50, 8, 57, 355, 32),
            "VGG16": (56.0, 210, 16, 134, 404, 32),
            "GoogLeNet": (42.5, 59, 22, 6, 907, 32),
        },
    ),
    "journal times": PaperTable(
        "Forward time at 500x500",
        "journal version, table 1",
        "J?",
        {"forward": "ms"},
        {"AlexNet": (16,), "VGG16": (100,), "GoogLeNet": (20,)},
    ),
    "with SBD": PaperTable(
        "FCN-32s trained on SBD's 8,498 images, scored on the 736 of VOC 2011 val that are not in them",
        "section 4.1",
        "P",
        {"mean IU": "percent"},
        {"VGG16": (59.4,), "AlexNet": (48.0,)},
    ),
    "table2": PaperTable(
        "Skips, on the 736 images of PASCAL VOC 2011 val that are not in SBD's training split",
        "section 4.2, table 2",
        "P",
        FOUR,
        {
            "FCN-32s-fixed": (83.0, 59.7, 45.4, 72.0),
            "FCN-32s": (89.1, 73.3, 59.4, 81.4),
            "FCN-16s": (90.0, 75.7, 62.4, 83.0),
            "FCN-8s": (90.3, 75.9, 62.7, 83.2),
        },
    ),
    "released": PaperTable(
        "The released nets (heavy training), on the same 736 images",
        "released nets and journal version",
        "J?",
        FOUR,
        {
            "FCN-32s-fixed": (82.9, 64.6, 46.6, 72.3),
            "FCN-32s": ((90.5, "J+"), 76.5, (63.6, "R"), 83.5),
            "FCN-16s": ((91.0, "J+"), 78.1, (65.0, "R"), 84.3),
            "FCN-8s": ((91.2, "J+"), 77.6, (65.5, "R"), 84.5),
            "FCN-8s at once": (91.1, 78.5, (65.4, "R"), 84.4),
            "pool5 only": (87.4, 60.5, 50.0, 78.5),
            "pool4 only": (78.7, 31.7, 22.4, 67.0),
            "pool3 only": (70.9, 13.7, 9.2, 57.6),
            "FCN-AlexNet": (None, None, (48.0, "R"), None),
        },
    ),
    "optimization": PaperTable(
        "FCN-32s by batch size and momentum",
        "journal version, table 2",
        "J?",
        FOUR,
        {
            "batch 20, momentum 0.9": (86.0, 66.5, 51.9, 76.5),
            "batch 1, momentum 0.9": (89.3, 76.2, 60.7, 81.8),
            "batch 1, momentum 0.99": (90.5, 76.5, 63.6, 83.5),
        },
    ),
    "voc test": PaperTable(
        "Mean IU on the test splits of PASCAL VOC, and the time of an image",
        "section 5, PASCAL VOC",
        "P",
        {"VOC 2011": "percent", "VOC 2012": "percent", "time": "ms"},
        {
            "R-CNN": (47.9, None, None),
            "SDS": (52.6, 51.6, 50_000),
            "FCN-8s": (62.7, 62.2, 175),
            "FCN-8s, journal": ((67.5, "J?"), (67.2, "R"), (100, "R")),
        },
    ),
    "table4": PaperTable(
        "NYUDv2, 40 classes",
        "section 5, table 4",
        "P",
        FOUR,
        {
            "Gupta et al.": (60.3, None, 28.6, 47.0),
            "FCN-32s RGB": (60.0, 42.2, 29.2, 43.9),
            "FCN-32s RGBD": (61.5, 42.4, 30.5, 45.5),
            "FCN-32s HHA": (57.1, 35.2, 24.2, 40.4),
            "FCN-32s RGB-HHA": (64.3, 44.9, 32.8, 48.0),
            "FCN-16s RGB-HHA": (65.4, 46.1, 34.0, 49.5),
        },
    ),
    "table5": PaperTable(
        "SIFT Flow, 33 semantic and 3 geometric classes",
        "section 5, table 5",
        "P",
        {**FOUR, "geometric acc.": "percent"},
        {
            "Liu et al.": (76.7, None, None, None, None),
            "Tighe et al., 2010": (None, None, None, None, 90.8),
            "Tighe et al. 1": (75.6, 41.1, None, None, None),
            "Tighe et al. 2": (78.6, 39.2, None, None, None),
            "Farabet et al. 1": (72.3, 50.8, None, None, None),
            "Farabet et al. 2": (78.5, 29.6, None, None, None),
            "Pinheiro et al.": (77.7, 29.8, None, None, None),
            "FCN-16s": (85.2, 51.7, 39.5, 76.1, 94.3),
            "FCN-8s, journal": ((85.9, "J?"), (53.9, "J?"), (41.2, "J?"), (77.2, "J?"), (94.6, "J?")),
        },
    ),
    "context 59": PaperTable(
        "PASCAL-Context, 59 classes",
        "arXiv v2, table 6",
        "P",
        FOUR,
        {
            "O2P": (None, None, 18.1, None),
            "CFM": (None, None, 31.5, None),
            "FCN-32s": (63.8, 42.7, 31.8, 48.3),
            "FCN-16s": (65.7, 46.2, 34.8, 50.7),
            "FCN-8s": (65.9, 46.5, 35.1, 51.0),
        },
    ),
    "context 33": PaperTable(
        "PASCAL-Context, 33 classes",
        "arXiv v2, table 6",
        "P",
        FOUR,
        {
            "O2P": (None, None, 29.2, None),
            "CFM": (None, None, 46.1, None),
            "FCN-32s": (69.8, 65.1, 50.4, 54.9),
            "FCN-16s": (71.8, 68.0, 53.4, 57.5),
            "FCN-8s": (71.8, 67.6, 53.5, 57.7),
        },
    ),
    "upper bounds": PaperTable(
        "Mean IU of the truth brought down by a factor and up again, on images of PASCAL VOC 2011 val",
        "arXiv v2, appendix A",
        "P",
        {"mean IU": "percent"},
        {"128": (50.9,), "64": (73.3,), "32": (86.1,), "16": (92.8,), "8": (96.4,), "4": (98.5,)},
    ),
    "timing": PaperTable(
        "AlexNet: a 500x500 image, which gives 10x10 outputs, and patches of 227x227, each; on a GPU",
        "section 3.1",
        "P",
        {"forward": "ms", "backward": "ms", "forward ratio": "", "backward ratio": ""},
        {
            "whole image": (22, 37, None, None),
            "patches in batches": (1.2, 2.4, (5.5, "X"), (6.5, "X")),
            "patches one by one": (5.4, None, (24.5, "X"), None),
        },
    ),
    "balance": PaperTable(
        "Share of background among the pixels of PASCAL VOC",
        "section 4.3, class balancing",
        "P",
        {"background": "percent"},
        {"data": (75,)},
    ),
}  # fmt: skip
"""All tables by name. A ratio of ``timing`` is that of 100 patches to the whole image, computed here to a decimal."""


def table(name: str) -> PaperTable:
    """A table by name; raises `UsageError` with the nearest one for an unknown name."""
    if name not in TABLES:
        raise UsageError(f"paper: there is no table '{name}'; {suggestion(name, TABLES)}")
    return TABLES[name]


def lookup(name: str, row: str, column: str) -> Entry | None:
    """One number, None where the paper prints none. Raises `UsageError` for an unknown table, row or column.

    >>> found = lookup("table2", "FCN-8s", "mean IU")
    >>> found.value, found.source, found.tag
    (62.7, 'section 4.2, table 2', 'P')
    """
    found = table(name)
    if column not in found.columns:
        raise UsageError(f"paper, {found.source}: there is no column '{column}'; {suggestion(column, found.columns)}")
    return found.row(row).get(column)
