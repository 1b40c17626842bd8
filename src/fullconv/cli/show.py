"""What the verbs print: tables of scores, and progress that also reads well in a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fullconv.labels import LabelSpace
from fullconv.metrics import Scores
from fullconv.reporting.page import percent


def four_numbers(found: Scores) -> str:
    """The four numbers in a line."""
    return (
        f"pixel acc. {percent(found.pixel_accuracy)}   mean acc. {percent(found.mean_accuracy)}   "
        f"mean IU {percent(found.mean_iu)}   f.w. IU {percent(found.frequency_weighted_iu)}   "
        f"(means over {found.averaged} of {len(found.iu)} classes)"
    )


def print_scores(console: Console, found: Scores, labels: LabelSpace) -> None:
    """The per-class table and the four numbers below it."""
    table = Table("class", header_style="bold", box=None, pad_edge=False)
    for title in ("IU", "accuracy", "pixels"):
        table.add_column(title, justify="right")
    for name, iu, accuracy, pixels in zip(labels.names, found.iu, found.accuracy, found.pixels, strict=True):
        table.add_row(name, percent(iu), percent(accuracy), f"{pixels:,}")
    console.print(table)
    console.print("\n" + four_numbers(found), highlight=False)


def print_json(data: Any) -> None:
    """Machine-readable results on standard output."""
    json.dump(data, sys.stdout, indent=1)
    sys.stdout.write("\n")


class Bar:
    """Progress of counted work: a live bar in a terminal, a line every few seconds in a file or a pipe."""

    def __init__(self, console: Console, title: str, total: int, done: int = 0, every: float = 5.0) -> None:
        self.console, self.title, self.total, self.done, self.every = console, title, total, done, every
        self.began, self.first, self.printed = time.monotonic(), done, time.monotonic()
        self.note = ""
        # Narrow enough for a terminal of 80 columns with the longest note.
        note, left = TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(10),
            MofNCompleteColumn(),
            note,
            TextColumn("left"),
            left,
        )
        self.live = Progress(*columns, console=console) if console.is_terminal else None
        self.task = self.live.add_task(title, total=total, completed=done, note="") if self.live else None

    def __enter__(self) -> Bar:
        if self.live:
            self.live.start()
        else:
            self.console.print(
                f"{self.title}: {self.total} to do" + (f", {self.done} done before" if self.done else "")
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def update(self, done: int, note: str | None = None) -> None:
        """Show that `done` of the total are done, with a note beside the bar."""
        self.done = done
        self.note = self.note if note is None else note
        if self.live and self.task is not None:
            self.live.update(self.task, completed=done, total=self.total, note=self.note)
        elif time.monotonic() - self.printed >= self.every or done == self.total:
            self.printed = time.monotonic()
            left = (self.printed - self.began) / max(1, done - self.first) * (self.total - done)
            self.console.print(f"{self.title}: {done}/{self.total}  {self.note}  {left:.0f} s left", highlight=False)

    def follow(self, done: int, total: int) -> None:
        """`update` for work whose length is learned on the way."""
        self.total = total
        self.update(done)

    def line(self, text: str) -> None:
        """A line above the bar."""
        (self.live.console if self.live else self.console).print(text, highlight=False)


def key_values(rows: Sequence[tuple[str, str]]) -> Table:
    """Two quiet columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table
