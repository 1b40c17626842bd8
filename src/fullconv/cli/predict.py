"""Segment images: palette PNGs of class indices at the size of each image, and overlays to look at."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.cli import tiling
from fullconv.cli.engines import add_engine
from fullconv.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from fullconv.cli.loading import PredictRequest
    from fullconv.cli.segmenting import Told
    from fullconv.inference.inputs import Input
    from fullconv.inference.pipeline import Throughput

EXAMPLE = "fullconv predict run/model.safetensors holiday/ photo.jpg --out masks --overlay"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a checkpoint (RUN/model.safetensors), or what fullconv export wrote"
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="images, videos, folders of images, patterns ('photos/*.jpg'), @LIST (a file with one path a line, from "
        "its folder), or NAME:DIR of a published set",
    )  # fmt: skip
    parser.add_argument(
        "--split", metavar="NAME", help="of a published set: the split (default: its own for validation)"
    )
    parser.add_argument("--recursive", action="store_true", help="also the subfolders of folders, kept below --out")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of videos: every N-th frame (default: 1)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where <name>.png goes")
    parser.add_argument(
        "--overlay", action="store_true", help="also write <name>.overlay.jpg; of a video <name>.overlay.mp4"
    )
    parser.add_argument(
        "--probability", action="store_true", help="also write <name>.probability.png: how sure the class is, 255 for 1"
    )
    parser.add_argument(
        "--entropy", action="store_true", help="also write <name>.entropy.png: 0 for sure, 255 for all classes alike"
    )
    parser.add_argument("--flip", action="store_true", help="mean of the probabilities with those of the mirror image")
    parser.add_argument(
        "--scales", metavar="S,S,...", help="mean of the probabilities in several sizes, such as 0.75,1,1.25"
    )
    parser.add_argument("--skip-existing", action="store_true", help="leave out images whose pictures are all there")
    parser.add_argument(
        "--shard", metavar="I/N", help="only part I of N of the images (under torchrun each process takes its own)"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS",
        help="predict on a cluster with Ray: auto, HOST:PORT, or local for processes on this machine; MODEL, INPUT and "
        "DIR lie on a disk that all machines share",
    )  # fmt: skip
    parser.add_argument("--ray-workers", type=int, metavar="N", help="how many (default: one for each CPU)")
    parser.add_argument(
        "--submission", metavar="comp5|comp6", help="of VOC: also write DIR/submission.zip for its server"
    )
    add_engine(parser)
    tiling.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Predict every input; bad files are named at the end, the others are done."""
    from rich.console import Console

    from fullconv import distributed
    from fullconv.cli.loading import ready
    from fullconv.cli.segmenting import Told, segment
    from fullconv.cli.show import Bar
    from fullconv.inference.outputs import OutputWriter

    console = Console(stderr=True, soft_wrap=True)
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out}: it is a file; give a folder for the masks")
    asked = asked_of(args)
    inputs, part = inputs_of(args)
    outputs = OutputWriter(args.out, args.overlay, args.probability, args.entropy)
    outputs.refuse_clashes(inputs)
    args.out.mkdir(parents=True, exist_ok=True)
    asked = replace(asked, images=len(inputs))
    first = next((given.read for given in inputs if given.video is None), None)
    # What is wrong with the model is said here, once, and an engine is found for all.
    prepared = ready(asked, outputs, first, lambda line: console.print(line, highlight=False))
    told = Told()
    with Bar(console, f"predicting{part}", len(inputs)) as bar:

        def seen(told: Told, number: int) -> None:
            bar.follow(told.done, number)

        if args.ray:
            from fullconv.cli.cluster import segment_on_cluster

            pace = segment_on_cluster(args, asked, inputs, outputs, told, seen)
        else:
            pace = segment(prepared, inputs, outputs, told, args.every, args.skip_existing, seen)
    archive = None
    if args.submission and not told.failed:
        archive = submit(args, {entry["name"]: (entry["height"], entry["width"]) for entry in told.written})
    report(args, console, told, pace, archive)
    distributed.wait_for_all("predict")
    if told.failed:
        raise UsageError(failures(told))
    return 0


def asked_of(args: argparse.Namespace) -> PredictRequest:
    """The flags about the model and its passes."""
    from fullconv.cli.loading import PredictRequest

    settings = tiling.settings_of(args)
    return PredictRequest(args.model, args.engine, args.precision, 1, scales_of(args.scales), args.flip, settings)


def report(args: argparse.Namespace, console: Console, told: Told, pace: Throughput, archive: Path | None) -> None:
    """Say what was written, how fast, and what the time went for."""
    from fullconv.cli.show import print_json

    seconds = {what: round(spent, 6) for what, spent in sorted(told.seconds.items(), key=lambda item: -item[1])}
    if args.json:
        print_json(
            {
                "written": told.written,
                "failed": told.failed,
                "skipped": told.skipped,
                **({"videos": told.videos} if told.videos else {}),
                **({"submission": str(archive)} if archive else {}),
                "images_per_second": round(pace.rate, 3),
                "net_busy": round(pace.busy, 4),
                "seconds": seconds,
            }
        )
        return
    there = f", {told.skipped} were there" if told.skipped else ""
    console.print(f"{len(told.written)} of {told.done} written to {args.out}{there}", highlight=False)
    if pace.images:
        spent = ", ".join(f"{what} {number:.1f}" for what, number in seconds.items())
        console.print(
            f"{pace.rate:.3g} images/s; the net was at work {pace.busy:.0%} of the time; seconds: {spent}",
            highlight=False,
        )
    if archive:
        console.print(f"for the server of PASCAL VOC: {archive}", highlight=False)


def failures(told: Told) -> str:
    """One line for what could not be read."""
    failed = told.failed
    if told.done == 1:
        return failed[0]
    listed = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
    return f"{len(failed)} of {told.done} images could not be read: {listed}"


def submit(args: argparse.Namespace, sizes: dict[str, tuple[int, int]]) -> Path:
    """Write the archive for the server of PASCAL VOC."""
    from fullconv.evaluation.submission import submission

    year = args.inputs[0].partition(":")[0].removeprefix("voc")
    archive: Path = args.out / "submission.zip"
    submission(args.out, sizes, year, args.submission, archive)
    return archive


def scales_of(text: str | None) -> tuple[float, ...]:
    """The numbers of ``0.75,1,1.25``."""
    try:
        return (1.0,) if text is None else tuple(float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"--scales {text}: give numbers with commas between them, such as 0.75,1,1.25") from None


def inputs_of(args: argparse.Namespace) -> tuple[list[Input], str]:
    """What this process predicts of what was given, and which part of it that is."""
    from fullconv import distributed
    from fullconv.inference.inputs import gather, of_dataset, of_shard, shard_of

    for flag, number in (("--every", args.every), ("--ray-workers", args.ray_workers)):
        if number is not None and number < 1:
            raise UsageError(f"{flag} {number}: give 1 or more")
    rank, size = distributed.place()
    if size > 1 and (args.shard or args.ray):
        raise UsageError("torchrun: it divides the images by itself; leave --shard and --ray out")
    if args.shard and args.ray:
        raise UsageError("--ray: it divides the images by itself; leave --shard out")
    number, count = shard_of(args.shard) if args.shard else (rank + 1, size)
    if count > 1 and args.submission:
        raise UsageError("--submission: it needs all images; leave --shard and torchrun out")
    inputs = of_dataset(args.inputs, args.split, args.submission) or gather(args.inputs, args.out, args.recursive)
    return of_shard(inputs, number, count), f" (part {number} of {count})" if count > 1 else ""
