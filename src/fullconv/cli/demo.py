"""The paper's story on the built-in digits, in some minutes and without a download.

A classifier of single digits becomes fully convolutional and reads a whole scene; then FCN-32s, FCN-16s and FCN-8s are
trained, each from the one before, and scored on handwriting that no training saw.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

EXAMPLE = "fullconv demo --out runs/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="the folder of the runs and the report"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps only: the machinery, not the numbers")
    parser.add_argument("--json", action="store_true", help="print the table as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Tell the story with progress bars, and print the table."""
    import time

    from rich.console import Console

    from fullconv.cli.show import Bar, print_json

    console = Console(stderr=bool(args.json), soft_wrap=True)
    console.print("loading torch and the digits ...")
    began = time.perf_counter()
    from fullconv.reproduce.demo import QUICK, Ending, Settings, story

    settings = QUICK if args.quick else Settings()
    chapter, bar, ending = None, None, None
    with ExitStack() as open_bar:
        for event in story(args.out, settings):
            if isinstance(event, Ending):
                ending = event
                continue
            if event.total and event.chapter != chapter:
                open_bar.close()
                chapter = event.chapter
                bar = open_bar.enter_context(Bar(console, f"training {chapter}", event.total))
            if bar is not None and event.total and event.loss is not None:
                rate = event.images / max(event.seconds, 1e-9)
                bar.update(event.step, f"loss {event.loss:.3f}  {rate:.0f} images/s")
            if event.says:
                (bar.line if bar is not None else console.print)(event.says)
    assert ending is not None
    if args.json:
        print_json(as_json(ending, time.perf_counter() - began))
    show(console, ending, settings.unseen)
    console.print(f"\nin {time.perf_counter() - began:.0f} seconds; the report: {ending.page}", highlight=False)
    return 0


def as_json(ending: Any, seconds: float) -> dict[str, Any]:
    """The ending as plain values."""
    rows = [{"net": r.name, "stride": r.stride, "seconds": r.seconds, **r.scores.to_dict()} for r in ending.rows]
    return {"classifier_accuracy": ending.accuracy, "nets": rows, "seconds": seconds, "report": str(ending.page)}


def show(console: Any, ending: Any, unseen: int) -> None:
    """The table at the end."""
    from rich.table import Table

    from fullconv.reporting.page import percent

    table = Table("net", header_style="bold", box=None, pad_edge=False)
    for title in ("pixel acc.", "mean acc.", "mean IU", "f.w. IU", "seconds"):
        table.add_column(title, justify="right")
    for row in ending.rows:
        s = row.scores
        numbers = (s.pixel_accuracy, s.mean_accuracy, s.mean_iu, s.frequency_weighted_iu)
        table.add_row(row.name, *map(percent, numbers), f"{row.seconds:.0f}")
    console.print(f"\non {unseen} scenes of handwriting that no training saw, in percent:\n", highlight=False)
    console.print(table)
