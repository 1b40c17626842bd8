"""Compare runs: what each reached and took, in which settings they differ, and each class beside that of the first.

A folder that holds runs (RUN/32s, RUN/16s ... of a recipe in stages) stands for all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fullconv.cli.show import console_for, print_json, table
from fullconv.errors import UsageError, shown
from fullconv.reporting.formatting import plain

EXAMPLE = "fullconv compare runs/a runs/b --out compare.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, or one that holds runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a page with the curves too: compare.html")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Read the runs, print them side by side, and write the page if one is asked for."""
    from fullconv.reporting.compare_page import class_rows, header_of_runs, row_of_run, with_classes, write_compare_page
    from fullconv.reporting.run_facts import differences, notes, read_runs, runs_in

    if args.out is not None and args.out.is_dir():
        raise UsageError(f"{shown(args.out)}: it is a folder; give a file such as {shown(args.out / 'compare.html')}")
    console = console_for(args.json)
    folders, remarks = [], []
    for given in args.runs:
        inside = runs_in(given)
        folders += inside
        if len(inside) > 1 or inside[0].parent == given:
            remarks.append(f"{shown(given)} holds {len(inside)} runs: {', '.join(path.name for path in inside)}.")
    runs = read_runs(folders)
    if len(runs) < 2:
        raise UsageError(f"{shown(runs[0].folder)}: one run alone; give another to compare it with")
    settings, sentences = differences(runs), [*remarks, *notes(runs)]
    if args.out is not None:
        write_compare_page(args.out, runs, remarks)
    if args.json:
        print_json({"runs": [one.to_dict() for one in runs], "differences": settings, "notes": sentences})
    else:
        (_, *names), *facts = zip(header_of_runs(), *(row_of_run(one) for one in runs), strict=True)
        console.print(table(("", *names), facts), end="\n\n")
        if settings:
            titles = ("setting", *(one.name for one in runs))
            rows = ((name, *map(plain, values)) for name, values in settings.items())
            console.print(table(titles, rows, left=titles), end="\n\n")
        if scored := with_classes(runs):
            titles, classes, _ = class_rows(scored)
            console.print(table(("IU of class", *titles[1:]), classes), end="\n\n")
    for sentence in sentences:
        console.print(f"note: {sentence}")
    if args.out is not None:
        console.print(f"the page: {args.out}")
    return 0
