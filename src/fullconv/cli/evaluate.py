"""Evaluate a model on a split: the paper's four numbers, and each class. Under torchrun the processes share the images,
and the numbers are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fullconv import distributed
from fullconv.cli.options import DATA, add_engine, add_reading, reading_of
from fullconv.cli.show import Bars, console_for, four_numbers, print_json, print_scores
from fullconv.errors import UsageError

EXAMPLE = "fullconv evaluate run/model.safetensors photos/ --split val"
ENGINE = "torch"
"""Unless told otherwise: the numbers do not depend on what else is installed. An exported file brings its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a checkpoint (RUN/model.safetensors), or what fullconv export wrote"
    )
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--split", metavar="NAME", help="train, val, test ... (default: val, or the data set's own)")
    add_reading(parser)
    parser.add_argument(
        "--trimap",
        metavar="N,N",
        help="also score the pixels near borders alone, within so many: no number of the paper",
    )
    add_engine(parser, ENGINE)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from fullconv.evaluation.evaluate_model import evaluate_model

    widths = widths_of(args.trimap)
    ours = distributed.join()
    console = console_for(args.json, quiet=not ours.first)
    with Bars(console) as bars:
        found = evaluate_model(
            args.model, args.data, args.split, masks=reading_of(args), trimap=widths, precision=args.precision,
            engine=None if args.engine == ENGINE else args.engine, processes=ours, progress=bars, log=console.print,
        )  # fmt: skip
    distributed.leave(ours)
    if args.json and ours.first:
        print_json({"model": str(args.model), "data": args.data, **found.to_dict()})
    elif ours.first:
        for task, scores in found.tasks.items():
            if len(found.tasks) > 1:
                console.print(f"{task}:")
            print_scores(console, scores, found.labels[task])
        for width, scores in found.trimap.items():
            console.print(f"trimap of {width} pixels: {four_numbers(scores)}")
    return 0


def widths_of(text: str | None) -> list[int]:
    """The widths of ``--trimap``."""
    try:
        widths = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        widths = [0]
    if widths and min(widths) < 1:
        raise UsageError(f"--trimap is '{text}'; give widths in pixels, such as 1,3,10")
    return widths
