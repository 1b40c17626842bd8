"""Look through a data set: everything that is wrong with it at once, in plain words, and what it holds."""

from __future__ import annotations

import argparse
from typing import Any

from fullconv.cli.options import DATA

HELP = "everything that is wrong with a data set, and what it holds"
EXAMPLE = "fullconv check photos/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--split", metavar="NAME", help="only this split")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Check, print; 2 when there are errors."""
    from rich.console import Console

    from fullconv.cli.show import Bar, print_json
    from fullconv.data.check import check_dataset

    console = Console(stderr=bool(args.json), soft_wrap=True)
    bar = Bar(console, "checking", 1)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done)

    with bar:
        found = check_dataset(args.data, args.split, progress)
    if args.json:
        print_json(found.to_dict())
    else:
        show(console, found)
    return 0 if found.ok else 2


def show(console: Any, found: Any) -> None:
    """The findings as tables: what is there, then what is wrong, errors first."""
    from rich.table import Table
    from rich.text import Text

    from fullconv.report import percent

    splits = Table("split", header_style="bold", box=None, pad_edge=False)
    for title in ("images", "sizes (height x width)", "void", "all void", "all background"):
        splits.add_column(title, justify="right")
    for name, split in found.splits.items():
        low, high = split.smallest, split.largest
        sizes = (
            "-"
            if low is None or high is None
            else f"{low[0]}x{low[1]}" + ("" if low == high else f" to {high[0]}x{high[1]}")
        )
        splits.add_row(
            name,
            f"{split.images:,}",
            sizes,
            percent(split.void_share) + " %",
            str(split.all_void),
            str(split.all_background),
        )
    console.print(splits)
    for name, split in found.splits.items():
        if split.made:
            console.print(f"{name}: {split.made}", highlight=False)
    if found.labels is not None:
        classes = Table("class", header_style="bold", box=None, pad_edge=False)
        for name in found.splits:
            classes.add_column(f"{name} %", justify="right")
        for index, (label, colour) in enumerate(zip(found.labels.names, found.labels.palette, strict=True)):
            swatch = Text("■ ", style="rgb({},{},{})".format(*colour)) + Text(f"{index} {label}")
            classes.add_row(swatch, *(percent(split.shares[index]) for split in found.splits.values()))
        console.print()
        console.print(classes)
    console.print()
    for problem in found.problems:
        style = "bold red" if problem.severity == "error" else "yellow"
        console.print(Text(f"{problem.severity}: ", style=style) + Text(problem.line()))
    errors = sum(problem.severity == "error" for problem in found.problems)
    warnings = len(found.problems) - errors
    verdict = "ready to train" if found.ok else "cannot be used as it is"
    console.print(f"{found.name}: {errors} errors, {warnings} warnings; {verdict}", highlight=False)
