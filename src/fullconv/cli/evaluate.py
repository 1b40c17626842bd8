"""Evaluate a model on a split: the paper's four numbers, and each class. Under torchrun the processes share the images,
and the numbers are the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.cli.engines import add_engine
from fullconv.cli.options import DATA, add_reading, reading_of
from fullconv.errors import UsageError

if TYPE_CHECKING:
    from fullconv.metrics import Scores

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
    from rich.console import Console

    from fullconv import distributed
    from fullconv.cli.loading import PredictRequest, load_model
    from fullconv.cli.show import Bar, four_numbers, print_json, print_scores
    from fullconv.datasets.open_dataset import default_splits, open_dataset
    from fullconv.evaluation.evaluate import evaluate_tasks
    from fullconv.evaluation.trimap import trimap_scores
    from fullconv.inference.exported import SUFFIXES, ExportedPredictor

    ours = distributed.join()
    console = Console(stderr=bool(args.json), soft_wrap=True, quiet=not ours.first)
    split = args.split or default_splits(args.data)[1] or "val"
    widths = widths_of(args.trimap)
    dataset = open_dataset(args.data, split, reading_of(args))
    # Of several processes each would find an engine of its own by a trial.
    engine = "auto" if args.model.suffix in SUFFIXES and args.engine == ENGINE else args.engine
    asked = PredictRequest(args.model, engine, args.precision, images=len(dataset) if ours.size == 1 else 1)
    predictor = load_model(asked, lambda _: dataset[0].image, lambda line: console.print(line, highlight=False))
    with Bar(console, f"evaluating {split}", len(dataset)) as bar:
        found = evaluate_tasks(predictor, dataset, lambda done, _: bar.update(done), ours)
    distributed.leave(ours)
    if not ours.first:
        return 0
    near: Mapping[int, Scores] = {}
    if widths:
        with Bar(console, "evaluating near borders", len(dataset)) as bar:
            near = trimap_scores(predictor, dataset, widths, lambda done, _: bar.update(done))
    if args.json:
        semantic, *others = found.items()
        engine, precision = args.model.suffix[1:], args.precision
        if not isinstance(predictor, ExportedPredictor):
            engine, precision = predictor.engine, predictor.precision
        print_json(
            {"model": str(args.model), "data": args.data, "split": split, "images": len(dataset),
             "engine": engine, "precision": precision,
             **semantic[1].to_dict(predictor.labels.names),
             **{task: scores.to_dict(predictor.header.tasks[task].names) for task, scores in others},
             **({"trimap": {width: scores.to_dict(predictor.labels.names) for width, scores in near.items()}}
                if near else {})}
        )  # fmt: skip
        return 0
    for task, scores in found.items():
        if len(found) > 1:
            console.print(f"{task}:", highlight=False)
        print_scores(console, scores, predictor.header.tasks[task])
    for width, scores in near.items():
        console.print(f"trimap of {width} pixels: {four_numbers(scores)}", highlight=False)
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
