"""The paper's story on the built-in digits, in some minutes and without a download.

A classifier of single digits becomes fully convolutional and reads a whole scene; then FCN-32s, FCN-16s and FCN-8s are
trained, each from the one before, and scored on handwriting that no training saw.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fullconv.cli.show import Bars, console_for, print_json, table
from fullconv.reporting.page import percent

if TYPE_CHECKING:
    from fullconv.reproduce.demo import Ending

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
    console = console_for(args.json)
    console.print("loading torch and the digits ...")
    began = time.perf_counter()
    from fullconv.reproduce.demo import QUICK, Ending, Settings, story

    settings = QUICK if args.quick else Settings()
    ending = None
    with Bars(console) as bars:
        for event in story(args.out, settings):
            if isinstance(event, Ending):
                ending = event
                continue
            if event.total and event.loss is not None:
                rate = event.images / max(event.seconds, 1e-9)
                note = f"loss {event.loss:.3f}  {rate:.0f} images/s"
                bars(f"training {event.chapter}", event.step, event.total, note)
            if event.says:
                bars.line(event.says)
    assert ending is not None
    seconds = time.perf_counter() - began
    if args.json:
        print_json(as_json(ending, seconds))
    show(console, ending, settings.unseen)
    console.print(f"\nin {seconds:.0f} seconds; the report: {ending.page}")
    return 0


def as_json(ending: Ending, seconds: float) -> dict[str, Any]:
    """Return the ending as plain values."""
    rows = [{"net": r.name, "stride": r.stride, "seconds": r.seconds, **r.scores.to_dict()} for r in ending.rows]
    return {"classifier_accuracy": ending.accuracy, "nets": rows, "seconds": seconds, "report": str(ending.page)}


def show(console: Console, ending: Ending, unseen: int) -> None:
    """Print the table at the end."""
    rows = []
    for row in ending.rows:
        s = row.scores
        numbers = (s.pixel_accuracy, s.mean_accuracy, s.mean_iu, s.frequency_weighted_iu)
        rows.append((row.name, *map(percent, numbers), f"{row.seconds:.0f}"))
    console.print(f"\non {unseen} scenes of handwriting that no training saw, in percent:\n")
    console.print(table(("net", "pixel acc.", "mean acc.", "mean IU", "f.w. IU", "seconds"), rows))
