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
    from fullconv.cli.show import Bar
    from fullconv.training import Record
    from fullconv.training.run import Run

HELP = "train an FCN on a folder of images and masks"
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
    parser.add_argument("--json", action="store_true", help="print the records as JSON lines on standard output")
    add_settings(parser, ModelConfig, "the net", without=("num_classes",))
    add_settings(parser, TrainConfig, "the training")


def run(args: argparse.Namespace) -> int:
    """Train, showing what happens; a recipe of several stages one net after the other."""
    from rich.console import Console

    console = Console(stderr=bool(args.json), soft_wrap=True)
    recipe = read_recipe(args.recipe) if args.recipe else {}
    stages = stages_of(recipe, str(args.recipe))
    console.print(f"reading {args.data} ...", highlight=False)
    if len(stages) > 1:
        staged(console, stages, args)
        return 0
    job = prepare(args, stages[0])
    describe(console, job, args)
    follow(console, job, args.json)
    return 0


def staged(console: Any, stages: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """One run for each stage, in a folder of its own (RUN/32s, RUN/16s ...), each from the best net of the one before.
    What is finished is passed over with --resume; the last net and its report are then also in RUN itself.
    """
    import shutil

    from fullconv.errors import UsageError
    from fullconv.training.run import is_finished

    if "stride" in vars(args):
        raise UsageError(f"--stride: the recipe {args.recipe} has a stride for each stage; leave it out")
    top, start = args.out, args.weights
    if top.is_dir() and any(top.iterdir()) and not args.resume:
        raise UsageError(f"{top}: it holds a run already; add --resume to go on with it, or give another --out")
    for number, stage in enumerate(stages, start=1):
        folder = top / f"{stage['stride']}s"
        begun = (folder / "last").is_dir() and any((folder / "last").iterdir())
        ours = argparse.Namespace(**{**vars(args), "out": folder, "weights": start, "resume": args.resume and begun})
        console.print(f"stage {number} of {len(stages)}: FCN-{stage['stride']}s", style="bold", highlight=False)
        job = prepare(ours, stage)
        if is_finished(job):
            console.print(f"finished before: {folder}", highlight=False)
        else:
            describe(console, job, ours)
            follow(console, job, args.json)
        start = folder / "model.safetensors"
    for name in ("model.safetensors", "report.html"):
        shutil.copyfile(start.parent / name, top / name)
    console.print(f"the last net: {top / 'model.safetensors'}", highlight=False)


def prepare(args: argparse.Namespace, recipe: Mapping[str, Any]) -> Run:
    """The run that the arguments ask for, with the settings of a recipe or of one of its stages."""
    from fullconv import weights
    from fullconv.config import CONVENTIONS, InputConvention, to_mapping
    from fullconv.data import default_splits, open_dataset
    from fullconv.errors import UsageError
    from fullconv.training.run import prepare as prepare_run

    header = weights.load(args.weights)[1] if args.weights else None
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
        args.out, args.data, dataset, validation, model, config, convention, args.weights, args.resume, command
    )


def describe(console: Any, job: Run, args: argparse.Namespace) -> None:
    """Say before the first step what will happen."""
    import torch

    from fullconv.cli.show import key_values
    from fullconv.data.check import quick_check

    model, config = job.header.model, job.config
    parameters = sum(p.numel() for p in job.state.net.parameters())
    begin = "random weights" if job.transplant is None else f"{args.weights} ({len(job.transplant.taken)} tensors)"
    val = "none" if job.validation is None else f"{len(job.validation)} images"
    rows = [
        ("net", f"FCN-{model.stride}s on {model.backbone}, {parameters:,} parameters, {model.padding} padding, "
                f"{model.num_classes} classes"),
        ("data", f"{len(job.dataset)} images to train, {val} to validate"),
        ("begins with", begin if not job.state.step else f"step {job.state.step} of the run in {job.folder}"),
        ("training", f"{job.total} steps of {config.batch_size}, loss {config.loss}, "
                     f"lr {config.lr:g} ({config.schedule}), "
                     f"{config.precision}, {torch.get_num_threads()} threads, seed {config.seed}"),
    ]  # fmt: skip
    made = getattr(job.dataset, "split_made", None)
    if made:
        rows.append(("split", made))
    rows += [("note", note) for note in getattr(job.dataset, "notes", ())]
    console.print(key_values(rows))
    looked = [] if job.state.step else quick_check(job.dataset, job.validation)
    for doubt in (*job.doubts, *looked):
        console.print(f"note: {doubt}", highlight=False)
    height, width = job.dataset[0].image.shape[:2]
    if config.crop is None and height * width > 1_500_000:
        console.print(f"note: images of {height}x{width} as a whole need much memory and time; give --crop 512x512")
    if job.transplant is None and not job.state.step and model.backbone.startswith("vgg"):
        console.print(
            "note: a VGG from random weights rarely leaves the background; give --weights of a classifier (section 4.1)"
        )


def follow(console: Any, job: Run, as_lines: bool) -> None:
    """Show the records as they come, and write the report at the end."""
    import json

    from fullconv.cli.show import Bar, four_numbers
    from fullconv.report.run import write_run_report
    from fullconv.training.guards import Watch
    from fullconv.training.run import as_json, records

    best = None
    watch = Watch(job.header.labels, job.total, pretrained=job.transplant is not None)
    with Bar(console, "training", job.total, job.state.step) as bar:
        for record in records(job):
            step(bar, record)
            said = watch.step(record.step, record.valid)
            if said is None and record.scores is not None:
                said = watch.evaluated(record.step, record.scores)
            if said:
                bar.line(f"note: {said}")
            if record.scores is not None:
                best = record.scores if best is None or (record.scores.mean_iu or 0) >= (best.mean_iu or 0) else best
                bar.line(f"step {record.step}: {four_numbers(record.scores)}")
            if as_lines:
                print(json.dumps(as_json(record, job.header.labels.names)), flush=True)
    console.print("writing the report ...")
    import fullconv

    predictor = fullconv.load(job.folder / "model.safetensors")
    page = write_run_report(job.folder, predictor, job.validation)
    console.print(f"\nthe best net: {job.folder / 'model.safetensors'}\nthe report:   {page}", highlight=False)
    if best is not None:
        console.print(four_numbers(best), highlight=False)


def step(bar: Bar, record: Record) -> None:
    """Progress of one record."""
    from fullconv.report import percent

    reached = f"  mean IU {percent(record.scores.mean_iu)}" if record.scores else ""
    bar.update(
        record.step, f"loss {record.loss:.3f}  {record.images / max(record.seconds, 1e-9):.1f} images/s{reached}"
    )
