"""Segment images: palette PNGs of class indices at the size of each image, and overlays to look at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import fullconv
from fullconv import distributed
from fullconv.cli.options import add_engine
from fullconv.cli.show import Bar, console_for, print_json
from fullconv.errors import UsageError
from fullconv.inference.inputs import part_of

if TYPE_CHECKING:
    from fullconv.inference.batch import PredictionResults

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
    parser.add_argument(
        "--tile", default="auto", metavar="auto|none|N",
        help="an image larger than memory allows: strips or tiles that are exactly the whole (default: auto), the "
        "whole at once (none), tiles of N pixels",
    )  # fmt: skip
    parser.add_argument(
        "--halo", type=int, metavar="N",
        help="of tiles: look N pixels around each, fewer than the net does; faster, and not exact near the seams",
    )  # fmt: skip
    parser.add_argument("--memory", type=int, metavar="MB", help="the most that the process may take")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="the largest image that is decoded (178000000)")
    parser.add_argument(
        "--format", metavar="png|tif", help="of the masks (default: png; tif in its place for a GeoTIFF)"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Predict every input; bad files are named at the end, the others are done."""
    console = console_for(True)
    number, count = part_of(args.shard)
    settings = {name: value for name, value in vars(args).items() if name not in ("verb", "run", "debug", "json")}
    settings["scales"] = scales_of(args.scales)
    settings["memory"] = args.memory * 10**6 if (args.memory or 0) > 0 else args.memory
    with Bar(console, "predicting" + (f" (part {number} of {count})" if count > 1 else "")) as bar:
        results = fullconv.predict(**settings, progress=bar, log=bar.line)
    report(args, results)
    distributed.wait_for_all("predict")
    if failed := results.failed:
        if len(results) == 1:
            raise UsageError(failed[0])
        listed = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
        raise UsageError(f"{len(failed)} of {len(results)} images could not be read: {listed}")
    return 0


def report(args: argparse.Namespace, results: PredictionResults) -> None:
    """Print what was written, how fast, and where the time went."""
    pace, archive = results.throughput, results.submission
    seconds = {what: round(spent, 6) for what, spent in sorted(results.seconds.items(), key=lambda item: -item[1])}
    if args.json:
        print_json(
            {
                "written": results.written,
                "failed": results.failed,
                "skipped": results.skipped,
                **({"videos": results.videos} if results.videos else {}),
                **({"submission": str(archive)} if archive else {}),
                "images_per_second": round(pace.rate, 3),
                "net_busy": round(pace.busy, 4),
                "seconds": seconds,
            }
        )
        return
    console = console_for(True)
    there = f", {results.skipped} were there" if results.skipped else ""
    console.print(f"{len(results.written)} of {len(results)} written to {args.out}{there}")
    if pace.images:
        spent = ", ".join(f"{what} {number:.1f}" for what, number in seconds.items())
        console.print(f"{pace.rate:.3g} images/s; the net was at work {pace.busy:.0%} of the time; seconds: {spent}")
    if archive:
        console.print(f"for the server of PASCAL VOC: {archive}")


def scales_of(text: str | None) -> tuple[float, ...]:
    """Parse ``0.75,1,1.25``."""
    try:
        return (1.0,) if text is None else tuple(float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"--scales {text}: give numbers with commas between them, such as 0.75,1,1.25") from None
