"""Train an FCN on a folder of images and masks (or on the built-in scenes, `digits`).

Settings come from a recipe, from flags, and from the weights to begin with; a flag counts most. The run folder holds
model.safetensors (the best), last/ (to go on from), log.jsonl (the records) and report.html.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.cli.options import (
    DATA,
    add_reading,
    add_settings,
    layered,
    read_recipe,
    reading_of,
    recipe_names,
    stages_of,
)
from fullconv.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    from fullconv.training.run import Run
    from fullconv.training.stop import Stop

EXAMPLE = "fullconv train photos/ --out run --epochs 30 --crop 320x320 --flip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--split", metavar="NAME", help="the split to train on (default: train, or the data set's own)")
    parser.add_argument("--val", metavar="DATA", help="another data set to validate on (default: DATA)")
    parser.add_argument("--val-split", metavar="NAME", help="the split to validate on (default: val, or its own)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the folder of the run")
    parser.add_argument("--recipe", metavar="NAME", help=f"a recipe ({', '.join(recipe_names())}) or a YAML file")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="begin from these: a classifier, or a coarser FCN (32s -> 16s -> 8s)",
    )
    parser.add_argument(
        "--input", default=argparse.SUPPRESS, metavar="NAME",
        help="what input plain weights want: caffe, torchvision, rgb128, or ORDER:MEANS/STD "
        "(files of fullconv say it themselves)",
    )  # fmt: skip
    add_reading(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN from its last saved step")
    parser.add_argument(
        "--force", action="store_true", help="with --resume: go on though settings or data are not as they were"
    )
    parser.add_argument(
        "--max-time", metavar="MINUTES", help="end in time, with the state saved, to go on with --resume; or H:MM:SS"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard too")
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=60,
        metavar="SECONDS",
        help="under torchrun: how long a process waits for the others (default: 60)",
    )
    parser.add_argument("--json", action="store_true", help="print the records as JSON lines on standard output")
    add_settings(parser, ModelConfig, "the net", without=("num_classes",))
    add_settings(parser, TrainConfig, "the training")


def run(args: argparse.Namespace) -> int:
    """Train, showing what happens; a recipe of several stages one net after the other. Under torchrun, with others."""
    import os

    from rich.console import Console

    from fullconv import distributed
    from fullconv.cli.progress import describe, follow
    from fullconv.data.loader import worker_faults
    from fullconv.training.stop import Stop

    recipe = read_recipe(args.recipe) if args.recipe else {}
    stages = stages_of(recipe, str(args.recipe))
    stop = Stop(args.out / "stop", seconds_of(args.max_time))
    args.processes = distributed.join(args.dist_timeout)
    # torchrun starts all processes anew when one was lost: they go on from the last saved state.
    args.resume = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    console = Console(stderr=bool(args.json), soft_wrap=True, quiet=not args.processes.first)
    console.print(f"reading {args.data} ...", highlight=False)
    with stop, worker_faults():
        if len(stages) > 1:
            staged(console, stages, args, stop)
        else:
            job = prepare(args, stages[0])
            describe(console, job, args)
            follow(console, job, args, stop)
    distributed.leave(args.processes)
    return stop.exit_code if stop.reason else 0


def seconds_of(text: str | None) -> float | None:
    """``--max-time`` in seconds: minutes, or hours, minutes and seconds.

    >>> seconds_of("90"), seconds_of("1:30:00"), seconds_of(None)
    (5400.0, 5400.0, None)
    """
    from fullconv.errors import UsageError

    if text is None:
        return None
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or min(numbers) < 0 or not all(number < 1e6 for number in numbers):
        raise UsageError(f"--max-time is '{text}'; give minutes, such as 90, or H:MM:SS, such as 1:30:00")
    return numbers[0] * 60 if len(numbers) == 1 else numbers[0] * 3600 + numbers[1] * 60 + numbers[2]


def staged(console: Any, stages: list[dict[str, Any]], args: argparse.Namespace, stop: Stop) -> None:
    """One run for each stage, in a folder of its own (RUN/32s, RUN/16s ...), each from the best net of the one before.
    What is finished is passed over with --resume; the last net and its report are then also in RUN itself.
    """
    import shutil

    from fullconv.cli.progress import describe, follow
    from fullconv.errors import UsageError
    from fullconv.training.run import is_finished

    if "stride" in vars(args):
        raise UsageError(f"--stride: the recipe {args.recipe} has a stride for each stage; leave it out")
    top, start = args.out, args.weights
    folders = [top / f"{stage['stride']}s" for stage in stages]
    if any(begun(folder) for folder in folders) and not args.resume:
        raise UsageError(f"{top}: it holds a run already; add --resume to go on with it, or give another --out")
    for number, (stage, folder) in enumerate(zip(stages, folders, strict=True), start=1):
        ours = argparse.Namespace(
            **{**vars(args), "out": folder, "weights": start, "resume": args.resume and begun(folder)}
        )
        console.print(f"stage {number} of {len(stages)}: FCN-{stage['stride']}s", style="bold", highlight=False)
        job = prepare(ours, stage)
        if is_finished(job):
            console.print(f"finished before: {folder}", highlight=False)
        else:
            describe(console, job, ours)
            follow(console, job, ours, stop)
        if stop.reason:
            return
        start = folder / "model.safetensors"
        args.processes.after_first(f"{folder}/over")  # nobody reads it before it is whole
    if args.processes.first:
        for name in ("model.safetensors", "report.html"):
            shutil.copyfile(start.parent / name, top / name)
    console.print(f"the last net: {top / 'model.safetensors'}", highlight=False)


def begun(folder: Path) -> bool:
    """Whether a folder holds a state of a run."""
    return (folder / "last").is_dir() and any((folder / "last").iterdir())


def prepare(args: argparse.Namespace, recipe: Mapping[str, Any]) -> Run:
    """The run that the arguments ask for, with the settings of a recipe or of one of its stages."""
    from fullconv.config import CONVENTIONS, InputConvention, to_mapping
    from fullconv.datasets.open_dataset import default_splits, open_dataset
    from fullconv.errors import UsageError
    from fullconv.training.run import prepare as prepare_run
    from fullconv.weights import checkpoint

    header = checkpoint.load(args.weights)[1] if args.weights else None
    model, config, named = layered(to_mapping(header.model) if header else {}, recipe, args)
    if named is not None:
        convention = InputConvention.named(named)
        if header is not None and convention != header.input:
            raise UsageError(
                f"--input {named}: {args.weights} says itself what it wants ({header.input.order}); leave --input out"
            )
    elif header is not None:
        convention = header.input
    elif args.weights is not None:
        raise UsageError(
            f"{args.weights}: it does not say what input it wants; add --input caffe (BGR minus mean), "
            "torchvision (RGB standardised) or rgb128"
        )
    else:
        convention = CONVENTIONS["torchvision"]
    reading = reading_of(args)
    dataset = open_dataset(args.data, args.split or default_splits(args.data)[0], reading)
    beside = args.val or args.data
    split = args.val_split or default_splits(beside)[1]
    validation = open_dataset(beside, split, reading) if split else None
    command = shlex.join(["fullconv", *sys.argv[1:]])
    return prepare_run(
        args.out, args.data, dataset, validation, model, config, convention, args.weights, args.resume, command,
        args.force, args.processes,
    )  # fmt: skip
