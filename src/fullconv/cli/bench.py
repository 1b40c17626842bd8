"""Measure things side by side on this machine. dense: what scores at a finer stride cost, by shift-and-stitch, by the
rarefied net, and by upsampling (section 3.2 of the paper).
"""

from __future__ import annotations

import argparse

HELP = "measure side by side on this machine: dense scores by three ways"
EXAMPLE = "fullconv bench dense --image 256 --stride 8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("study", choices=["dense"], metavar="STUDY", help="dense")
    parser.add_argument(
        "--image", type=int, default=256, metavar="N", help="side of the image in pixels (default: 256)"
    )
    parser.add_argument(
        "--stride", type=int, default=8, metavar="N", help="of the scores: 1, 2, 4, 8 or 16 (default: 8)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each way (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table."""
    from rich.console import Console
    from rich.table import Table

    from fullconv.bench import machine
    from fullconv.bench.dense import measure
    from fullconv.cli.show import print_json
    from fullconv.errors import UsageError

    if args.rounds < 1:
        raise UsageError(f"--rounds is {args.rounds}; give at least 1")
    console = Console(stderr=bool(args.json), soft_wrap=True)
    console.print(f"measuring {args.rounds} rounds of three ways ...")
    found = {**measure(args.image, args.stride, rounds=args.rounds), "machine": machine()}
    if args.json:
        print_json(found)
    table = Table("way", box=None, header_style="bold", pad_edge=False)
    for title in ("runs", "scores", "seconds", "of the upsampled"):
        table.add_column(title, justify="right")
    for row in found["ways"]:
        scores = f"{row['scores'][0]}x{row['scores'][1]}"
        table.add_row(row["way"], str(row["runs"]), scores, f"{row['seconds']:.3f}", f"{row['of the upsampled']:.1f}")
    console.print(f"\n{found['net']}; image {args.image}x{args.image}, scores at stride {args.stride}", highlight=False)
    console.print(table)
    console.print(f"\nmedians on {found['machine']['cpu']}, {found['machine']['threads']} threads", highlight=False)
    return 0
