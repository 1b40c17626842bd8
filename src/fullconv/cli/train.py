"""Train an FCN on a folder of images and masks (or on the built-in scenes, `digits`).

Settings come from a recipe, from flags, and from the weights to begin with; a flag counts most. The run folder holds
model.safetensors (the best), last/ (to go on from), log.jsonl (the records) and report.html.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import fullconv
from fullconv import distributed
from fullconv.cli.options import DATA, add_reading, add_settings, reading_of
from fullconv.cli.show import console_for
from fullconv.config import ModelConfig, TrainConfig
from fullconv.errors import UsageError
from fullconv.training.recipes import MODEL_FLAGS, TRAIN_FLAGS, recipe_names

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
    """Train, showing what happens. Under torchrun, with others."""
    from fullconv.cli.progress import TrainingView
    from fullconv.training.stop import Stop

    stop = Stop(args.out / "stop", seconds_of(args.max_time))
    processes = distributed.join(args.dist_timeout)
    # torchrun starts all processes anew when one was lost: they go on from the last saved state.
    resume = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    console = console_for(args.json, quiet=not processes.first)
    console.print(f"reading {args.data} ...")
    model, config = ({name: value for name, value in vars(args).items() if name in names}
                     for names in (MODEL_FLAGS, TRAIN_FLAGS))  # fmt: skip
    with stop, TrainingView(console, args.json) as view:
        fullconv.train(
            args.data, args.out, model=model, config=config, recipe=args.recipe, weights=args.weights,
            input=getattr(args, "input", None), split=args.split, val=args.val, val_split=args.val_split,
            masks=reading_of(args), resume=resume, force=args.force, tensorboard=args.tensorboard, stop=stop,
            processes=processes, command=shlex.join(["fullconv", *sys.argv[1:]]), progress=view,
        )  # fmt: skip
    if view.staged and not stop.reason:
        console.print(f"the last net: {args.out / 'model.safetensors'}")
    distributed.leave(processes)
    return stop.exit_code if stop.reason else 0


def seconds_of(text: str | None) -> float | None:
    """``--max-time`` in seconds: minutes, or hours, minutes and seconds.

    >>> seconds_of("90"), seconds_of("1:30:00"), seconds_of(None)
    (5400.0, 5400.0, None)
    """
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
