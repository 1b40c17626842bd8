"""Evaluate a model on a split: the paper's four numbers, and each class."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the paper's four numbers of a model on a split"
EXAMPLE = "fullconv evaluate run/model.safetensors photos/ --split val"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint: RUN/model.safetensors")
    parser.add_argument("data", metavar="DATA", help="a folder of images and masks, or digits")
    parser.add_argument("--split", default="val", metavar="NAME", help="train, val or test (default: val)")
    parser.add_argument(
        "--precision", default="fp32", metavar="fp32|bf16", help="arithmetic of the net (default: fp32)"
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from rich.console import Console

    from fullconv.cli.show import Bar, print_json, print_scores
    from fullconv.data import open_dataset
    from fullconv.evaluation import evaluate
    from fullconv.inference import load

    console = Console(stderr=bool(args.json), soft_wrap=True)
    predictor = load(args.model, args.precision)
    dataset = open_dataset(args.data, args.split)
    with Bar(console, f"evaluating {args.split}", len(dataset)) as bar:
        found = evaluate(predictor, dataset, lambda done, _: bar.update(done))
    if args.json:
        print_json({"model": str(args.model), "data": args.data, "split": args.split, "images": len(dataset),
                    "precision": args.precision, **found.to_dict(predictor.labels.names)})  # fmt: skip
    else:
        print_scores(console, found, predictor.labels)
    return 0
