"""What a study finds: measured rows with the paper's rows beside them, a verdict, and what it was measured on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullconv import hardware
from fullconv.errors import RunError
from fullconv.io.atomic import write_atomically
from fullconv.metrics import Scores
from fullconv.reproduce.paper_tables import Entry, PaperTable, table

Say = Callable[[str], None]
"""Takes a sentence on what a study is doing."""

NOTICEABLE = 1.0
"""Points of mean IU, in percent: verdicts call less than this no difference, since a study runs everything once."""


def json_key(column: str) -> str:
    """Return the JSON key of a column: snake_case, with units spelled out.

    >>> [json_key(column) for column in ("mean IU", "pixel acc.", "images/s")]
    ['mean_iu', 'pixel_acc', 'images_per_second']
    """
    spelled = {"images/s": "images per second", "s/step": "seconds per step"}.get(column, column)
    return re.sub(r"\W+", "_", spelled.lower()).strip("_")


@dataclass(frozen=True)
class Row:
    """What was measured of one thing, by column; None for what was not. paper: the same of each of its tables that has
    the row, under the name that it is printed by.
    """

    name: str
    measured: Mapping[str, float | None]
    paper: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)

    def __getitem__(self, column: str) -> float:
        """What was measured; raises `RunError` where nothing was."""
        value = self.measured.get(column)
        if value is None:
            raise RunError(f"{self.name}: no {column} was measured; run the study again with a larger --budget")
        return value


@dataclass(frozen=True)
class Result:
    """A whole study.

    columns: the unit of each. curves: by name, the numbers behind a curve, each step one. settings: what decided the
    numbers, with the budget in minutes and the steps that were chosen for it. notes: what to know for comparing.
    figure: a PNG; it is not in the JSON.
    """

    study: str
    claim: str
    data: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    verdict: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any] = field(default_factory=hardware.machine)
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    figure: bytes = field(default=b"", compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; every number of the paper with its source, its tag and whether it is unverified."""
        rows = [
            {
                "name": row.name,
                "measured": {json_key(column): value for column, value in row.measured.items()},
                "paper": {
                    name: {json_key(column): entry.to_dict() for column, entry in entries.items()}
                    for name, entries in row.paper.items()
                },
            }
            for row in self.rows
        ]
        return {
            "study": self.study,
            "claim": self.claim,
            "data": self.data,
            "columns": {json_key(column): {"title": column, "unit": unit} for column, unit in self.columns.items()},
            "rows": rows,
            "verdict": self.verdict,
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "curves": {name: dict(curve) for name, curve in self.curves.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """The inverse of `to_dict`, without the figure."""
        parts = ("value", "unit", "source", "tag")
        titles = {key: column["title"] for key, column in data["columns"].items()}
        rows = tuple(
            Row(
                row["name"],
                {titles.get(key, key): value for key, value in row["measured"].items()},
                {
                    name: {
                        titles.get(key, key): Entry(**{part: entry[part] for part in parts})
                        for key, entry in entries.items()
                    }
                    for name, entries in row["paper"].items()
                },
            )
            for row in data["rows"]
        )
        plain = {key: data[key] for key in ("study", "claim", "data", "verdict", "settings", "machine")}
        columns = {column["title"]: column["unit"] for column in data["columns"].values()}
        return cls(**plain, columns=columns, rows=rows, notes=tuple(data["notes"]), curves=data["curves"])

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``STUDY.json`` and ``STUDY.png`` into a folder, each whole or not at all; gives both paths."""
        text, picture = folder / f"{self.study}.json", folder / f"{self.study}.png"
        write_atomically(picture, self.figure)
        write_atomically(text, (json.dumps(self.to_dict(), indent=1) + "\n").encode())
        return text, picture


def beside(row: str, **tables: str) -> dict[str, dict[str, Entry]]:
    """The row of each table of the paper that has it: the tables are given as ``label="name"``.

    >>> {label: str(entries["mean IU"]) for label, entries in beside("FCN-8s", paper="table2").items()}
    {'paper': '62.7'}
    """
    found: dict[str, PaperTable] = {label: table(name) for label, name in tables.items()}
    return {label: known.row(row) for label, known in found.items() if row in known.rows}


def too_little(rows: Sequence[Row]) -> str | None:
    """A sentence in place of a verdict where no net has learned to tell classes apart: where the best mean accuracy is
    not twice that of always saying one of the classes in the truth. None where a verdict can be given.
    """
    best, classes = (max(row.measured.get(column) or 0.0 for row in rows) for column in ("mean acc.", "classes"))
    if best * classes >= 2 * 100:
        return None
    return (
        f"No verdict: the best mean accuracy is {best:.1f}, and always saying one of the {classes:g} classes gives "
        f"{100 / max(classes, 1):.1f}; give a larger --budget."
    )


def four(scores: Scores) -> dict[str, float | None]:
    """The four numbers in percent, by the names of their columns, and ``classes``: how many the truth holds."""
    numbers = {
        "pixel acc.": scores.pixel_accuracy,
        "mean acc.": scores.mean_accuracy,
        "mean IU": scores.mean_iu,
        "f.w. IU": scores.frequency_weighted_iu,
    }
    percent = {name: None if value is None else 100 * value for name, value in numbers.items()}
    return {**percent, "classes": float(sum(pixels > 0 for pixels in scores.pixels))}


def compared(name: str, value: float, other: str, than: float, least: float = NOTICEABLE) -> int:
    """1, -1 or 0: whether a value is above another, below, or within `least` of it. The names are for errors."""
    if value != value or than != than:
        raise RunError(f"{name} and {other}: one of them is not a number; look at the data")
    return 0 if abs(value - than) < least else 1 if value > than else -1
