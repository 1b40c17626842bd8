"""Compare runs: what each reached and took, in which settings they differ, and each class beside that of the first.

A folder that holds runs (RUN/32s, RUN/16s ... of a recipe in stages) stands for all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

EXAMPLE = "fullconv compare runs/a runs/b --out compare.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, or one that holds runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a page with the curves too: compare.html")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Read the runs, print them side by side, and write the page where one is asked for."""
    from rich.console import Console

    from fullconv.cli.show import print_json
    from fullconv.errors import UsageError, shown
    from fullconv.reporting.compare_page import (
        class_rows,
        header_of_runs,
        row_of_run,
        with_classes,
        write_compare_page,
    )
    from fullconv.reporting.formatting import plain
    from fullconv.reporting.run_facts import differences, notes, read_runs, runs_in

    if args.out is not None and args.out.is_dir():
        raise UsageError(f"{shown(args.out)}: it is a folder; give a file such as {shown(args.out / 'compare.html')}")
    console = Console(stderr=bool(args.json), soft_wrap=True)
    folders, said = [], []
    for given in args.runs:
        inside = runs_in(given)
        folders += inside
        if len(inside) > 1 or inside[0].parent == given:
            said.append(f"{shown(given)} holds {len(inside)} runs: {', '.join(path.name for path in inside)}.")
    runs = read_runs(folders)
    if len(runs) < 2:
        raise UsageError(f"{shown(runs[0].folder)}: one run alone; give another to compare it with")
    found, told = differences(runs), [*said, *notes(runs)]
    if args.out is not None:
        write_compare_page(args.out, runs, said)
    if args.json:
        print_json({"runs": [one.to_dict() for one in runs], "differences": found, "notes": told})
    else:
        facts = list(zip(header_of_runs(), *(row_of_run(one) for one in runs), strict=True))
        _print(console, ("", *facts[0][1:]), facts[1:])
        if found:
            rows = [(name, *map(plain, values)) for name, values in found.items()]
            _print(console, ("setting", *(one.name for one in runs)), rows, numbers=False)
        if scored := with_classes(runs):
            titles, rows, _ = class_rows(scored)
            _print(console, ("IU of class", *titles[1:]), rows)
    for sentence in told:
        console.print(f"note: {sentence}", highlight=False, markup=False)
    if args.out is not None:
        console.print(f"the page: {args.out}", highlight=False, markup=False)
    return 0


def _print(console: Any, titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> None:
    """A table of texts, which are shown as they are; numbers flush right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=None, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if place and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print()
