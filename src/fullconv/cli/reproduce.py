"""Reproduce a study of the paper on data at hand: measure what it claims, with the paper's numbers beside.

A study fits into its budget of minutes: the speed of some steps is measured, and the number of steps follows. On
`digits` a classifier is trained first, within the budget. `fullconv reproduce list` names the studies. A number of the
paper that nobody has confirmed is marked "unverified".
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fullconv.cli.options import DATA
from fullconv.cli.show import console_for, print_json
from fullconv.errors import UsageError
from fullconv.reproduce.paper_tables import UNVERIFIED

if TYPE_CHECKING:
    from fullconv.reproduce.result import Result

EXAMPLE = "fullconv reproduce table2 digits --budget 10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("study", metavar="STUDY", help="the name of a study, or list")
    parser.add_argument("data", nargs="?", default="digits", metavar="DATA", help=f"{DATA} (default: digits)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="begin from this classifier")
    parser.add_argument(
        "--input", metavar="NAME", help="what input plain weights want: caffe, torchvision, rgb128, or ORDER:MEANS/STD"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="the net of plain weights (default: vgg16), or one to begin from random weights (default: mobilenet_v2)",
    )
    parser.add_argument(
        "--budget", type=float, default=10.0, metavar="MINUTES", help="minutes for all of it (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/studies"), metavar="DIR",
        help="the folder of STUDY.json and STUDY.png (default: runs/studies)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write."""
    from fullconv.reproduce.setting import open_setting
    from fullconv.reproduce.studies import STUDIES, study

    console = console_for(args.json)
    if args.study == "list":
        if args.json:
            print_json({name: one.about for name, one in STUDIES.items()})
        else:
            for name, one in STUDIES.items():
                console.print(f"{name:13s} {one.about}")
        return 0
    chosen = study(args.study)
    if args.seed < 0:
        raise UsageError(f"--seed is {args.seed}; give at least 0")
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out}: it is a file; give a folder for the result")
    began = time.perf_counter()
    setting = open_setting(
        args.data, args.weights, args.input, args.backbone,
        budget=args.budget, seed=args.seed, trains=chosen.trains, say=console.print,
    )  # fmt: skip
    result = chosen.run(setting, console.print)
    text, picture = result.write(args.out)
    if args.json:
        print_json(result.to_dict())
    show(console, result)
    console.print(f"\nin {time.perf_counter() - began:.0f} seconds; {text}, {picture}")
    return 0


def show(console: Console, result: Result) -> None:
    """The claim, each row with those of the paper below it, the verdict, the notes and the machine."""
    console.print(f"\n{result.claim}\n")
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column("", no_wrap=True)
    grid.add_column("of", style="dim", no_wrap=True)
    for column, unit in result.columns.items():
        title = f"{column}, %" if unit == "percent" else f"{column}, {unit}" if unit else column
        marked = any(entries[column].unverified for row in result.rows for entries in row.paper.values()
                     if column in entries)  # fmt: skip
        # The mark goes below its number where there is little room, and is never cut.
        grid.add_column(title, justify="right", min_width=len(UNVERIFIED) if marked else None)
    for row in result.rows:
        grid.add_row(
            row.name, "here", *(number(row.measured.get(column), unit) for column, unit in result.columns.items())
        )
        for label, entries in (row.paper or {"paper": {}}).items():
            cells = (str(entries[column]) if column in entries else "-" for column in result.columns)
            grid.add_row("", label, *cells)
    console.print(grid)
    console.print(f"\n{result.verdict}")
    for note in result.notes:
        console.print(f"note: {note}")
    steps, count = result.settings.get("steps"), result.settings.get("scored_images")
    length = f"{steps:,} steps each; " if steps else ""
    length += f"{count:,} images scored; " if count else ""
    console.print(f"{length}{result.data}, on {result.machine['cpu']}, {result.machine['threads']} threads")


def number(value: float | None, unit: str = "") -> str:
    """A measured number as it is printed: a dash for none, one decimal of percent, three digits of other small ones.

    >>> [number(value) for value in (None, 62.66, 0.01234, 1234.5, 32.0)], number(83.0, "percent")
    (['-', '62.7', '0.0123', '1,234', '32'], '83.0')
    """
    if value is None:
        return "-"
    if unit == "percent":
        return f"{value:.1f}"
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
