"""Export a model for other programs: ONNX, OpenVINO, torch.export. The file is run before it is kept, and compared with
the model; classes, palette and input convention travel inside.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.cli.options import DATA, add_reading, reading_of
from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.data.dataset import Dataset, Image
    from fullconv.exporting.export import Checked, Measure

EXAMPLE = "fullconv export run/model.safetensors --out m.onnx --data photos/"

DYNAMIC = "dynamic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint: RUN/model.safetensors")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="m.onnx; m.xml for OpenVINO (writes m.bin too); m.pt2 for torch.export",
    )  # fmt: skip
    parser.add_argument(
        "--size", default=DYNAMIC, metavar="HxW|dynamic",
        help="of the images that it takes (default: dynamic, images of any size)",
    )  # fmt: skip
    parser.add_argument(
        "--int8", metavar="DATA", help="8-bit integers, with their ranges from images of the training split of DATA"
    )
    parser.add_argument(
        "--calibration", type=int, default=100, metavar="N", help="how many images of --int8 (default: 100)"
    )
    parser.add_argument(
        "--data", metavar="DATA", help=f"compare on its images, and the mean IU before and after: {DATA}"
    )
    parser.add_argument("--split", metavar="NAME", help="of --data (default: val, or the data set's own)")
    parser.add_argument("--limit", type=int, metavar="N", help="no more than the first so many images of --data")
    add_reading(parser)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Export, check, and say what was found."""
    from rich.console import Console

    from fullconv.cli.show import key_values, print_json
    from fullconv.data.dataset import Subset
    from fullconv.datasets.open_dataset import default_splits, open_dataset
    from fullconv.exporting.export import export, refuse
    from fullconv.inference.predictor import load_checkpoint

    console = Console(stderr=bool(args.json), soft_wrap=True)
    size = size_of(args.size)
    for flag in ("calibration", "limit"):
        if (given := getattr(args, flag)) is not None and given < 1:
            raise UsageError(f"--{flag} is {given}; give at least 1")
    refuse(args.out, args.int8 is not None)
    predictor = load_checkpoint(args.model)
    reading = reading_of(args)
    calibration: list[Image] = []
    images: list[Image] = []
    dataset: Dataset | None = None
    if args.int8 is not None:
        seen = open_dataset(args.int8, default_splits(args.int8)[0], reading)
        calibration = [seen[index].image for index in spread(len(seen), args.calibration)]
        shown_to = default_splits(args.int8)[1]
        if args.data is None:  # labels are compared on images that no range was taken from, where there are such
            held = open_dataset(args.int8, shown_to, reading) if shown_to else seen
            images = [held[index].image for index in spread(len(held), COMPARED)]
    if args.data is not None:
        split = args.split or default_splits(args.data)[1] or "val"
        opened = open_dataset(args.data, split, reading)
        dataset = Subset(opened, range(min(len(opened), args.limit or len(opened))))
        images = [dataset[index].image for index in spread(len(dataset), COMPARED)]
        other = next((image.shape[:2] for image in images if size not in (None, image.shape[:2])), None)
        if other is not None:
            raise UsageError(
                f"--size {args.size}: an image of {shown(args.data)} is {other[0]}x{other[1]}; export with --size "
                "dynamic, or without --data"
            )
    console.print(f"exporting to {args.out} ...", highlight=False)
    checked = export(predictor, args.out, size, images, calibration, measure(dataset) if dataset else None)
    if args.json:
        print_json(to_dict(checked))
    else:
        console.print(key_values(told(checked)))
    return 0


COMPARED = 20
"""Images of a data set on which scores and labels are compared; the mean IU is over all of the split."""


def spread(length: int, wanted: int) -> list[int]:
    """Numbers of images, over all of a data set.

    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(length, wanted)
    return [number * length // count for number in range(count)]


def measure(dataset: Dataset) -> Measure:
    """Return a function that gives the mean IU of a model on this data."""
    from fullconv.evaluation.evaluate import evaluate

    return lambda model: evaluate(model, dataset).mean_iu


def size_of(text: str) -> tuple[int, int] | None:
    """What ``--size`` says."""
    if text == DYNAMIC:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"--size is '{shown(text)}'; give HEIGHTxWIDTH in pixels, such as 360x480, or dynamic")
    return int(height), int(width)


def told(checked: Checked) -> list[tuple[str, str]]:
    """What was found, in words."""
    from fullconv.profiling.process_memory import format_bytes

    found = checked.agreement
    sizes = ", ".join(f"{height}x{width}" for height, width in found.sizes[:6])
    more = f" and {len(found.sizes) - 6} more" if len(found.sizes) > 6 else ""
    takes = f"images of {checked.size[0]}x{checked.size[1]}" if checked.size else "images of any size"
    takes += f" from {checked.least}x{checked.least} up" if checked.least > 1 else ""
    kept = f" (fp32 in the first {checked.exact} convolutions)" if checked.exact else ""
    rows = [
        ("written", f"{checked.path}, {format_bytes(checked.bytes)}, {checked.precision}{kept}, for {takes}"),
        ("checked", f"the file was run beside the net on {found.images} images of {sizes}{more}"),
        ("scores", f"differ by {found.difference:.2g} at most, {found.relative:.1e} of their range"),
        ("labels", f"{100 * found.labels:.4g} % of {found.pixels:,} pixels have the same"),
    ]
    if checked.mean_iu is not None:
        before, after = (100 * mean for mean in checked.mean_iu)
        rows.append(("mean IU", f"{before:.2f} of the net, {after:.2f} of the file"))
    return rows


def to_dict(checked: Checked) -> dict[str, Any]:
    """What was found, as plain values."""
    found = checked.agreement
    return {
        "file": str(checked.path),
        "bytes": checked.bytes,
        "precision": checked.precision,
        "first_in_fp32": checked.exact,
        "size": list(checked.size) if checked.size else DYNAMIC,
        "least": checked.least,
        "images": found.images,
        "sizes": [list(size) for size in found.sizes],
        "largest_difference": found.difference,
        "of_the_range": found.relative,
        "equal_labels": found.labels,
        **({"mean_iu": dict(zip(("before", "after"), checked.mean_iu, strict=True))} if checked.mean_iu else {}),
    }
