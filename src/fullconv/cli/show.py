"""What the verbs print: tables of scores, and progress that also reads well in a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fullconv.reporting.page import percent

if TYPE_CHECKING:
    from fullconv.labels import LabelSpace
    from fullconv.metrics import Scores


def console_for(as_json: bool, quiet: bool = False) -> Console:
    """Return a console for what people read: standard error if JSON goes to standard output. Texts are not markup."""
    return Console(stderr=as_json, soft_wrap=True, markup=False, emoji=False, highlight=False, quiet=quiet)


def four_numbers(scores: Scores) -> str:
    """Return the four numbers in a line."""
    return (
        f"pixel acc. {percent(scores.pixel_accuracy)}   mean acc. {percent(scores.mean_accuracy)}   "
        f"mean IU {percent(scores.mean_iu)}   f.w. IU {percent(scores.frequency_weighted_iu)}   "
        f"(means over {scores.averaged} of {len(scores.iu)} classes)"
    )


def print_scores(console: Console, scores: Scores, labels: LabelSpace) -> None:
    """Print the table of classes and the four numbers below it."""
    rows = zip(labels.names, scores.iu, scores.accuracy, scores.pixels, strict=True)
    console.print(
        table(("class", "IU", "accuracy", "pixels"),
              ((name, percent(iu), percent(accuracy), f"{pixels:,}") for name, iu, accuracy, pixels in rows))
    )  # fmt: skip
    console.print("\n" + four_numbers(scores))


def print_json(data: Any) -> None:
    """Print machine-readable results on standard output."""
    json.dump(data, sys.stdout, indent=1)
    sys.stdout.write("\n")


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[str] = ()) -> Table:
    """Return a table of texts: the first column and those in `left` flush left, the others right."""
    found = Table(header_style="bold", box=None, pad_edge=False)
    for place, title in enumerate(titles):
        found.add_column(Text(title), justify="left" if not place or title in left else "right", overflow="fold")
    for row in rows:
        found.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return found


def key_values(rows: Iterable[tuple[str, str]]) -> Table:
    """Return two quiet columns."""
    found = Table(box=None, show_header=False, pad_edge=False)
    found.add_column(style="dim")
    found.add_column()
    for row in rows:
        found.add_row(*row)
    return found


class Bar:
    """Progress of counted work, shown from its first call: a live bar in a terminal, else a line every few seconds."""

    def __init__(self, console: Console, title: str, done: int = 0, every: float = 5.0) -> None:
        self.console, self.title, self.first, self.every = console, title, done, every
        self.began = self.printed = time.monotonic()
        self.opened = False
        # Narrow enough for a terminal of 80 columns with the longest note.
        columns = (
            TextColumn("{task.description}"), BarColumn(10), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TextColumn("left"), TimeRemainingColumn(compact=True),
        )  # fmt: skip
        self.live = Progress(*columns, console=console) if console.is_terminal else None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live and self.opened:
            self.live.stop()

    def _open(self, total: int) -> None:
        self.opened = True
        if self.live:
            self.task = self.live.add_task(self.title, total=total, completed=self.first, note="")
            self.live.start()
        else:
            before = f", {self.first} done before" if self.first else ""
            self.console.print(f"{self.title}: {total} to do{before}")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how much is done, with a note beside the bar."""
        if not self.opened:
            self._open(total)
        if self.live:
            self.live.update(self.task, completed=done, total=total, note=note)
        elif done > self.first and (time.monotonic() - self.printed >= self.every or done == total):
            self.printed = time.monotonic()
            left = (self.printed - self.began) / (done - self.first) * (total - done)
            self.console.print(f"{self.title}: {done}/{total}  {note}  {left:.0f} s left")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        (self.live.console if self.live else self.console).print(text)


class Bars:
    """A bar for each kind of work, one after the other."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Bar | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.__exit__()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show how much of some work is done."""
        if self.bar is None or self.bar.title != what:
            self.__exit__()
            self.bar = Bar(self.console, what)
        self.bar(done, total, note)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        (self.console.print if self.bar is None else self.bar.line)(text)
