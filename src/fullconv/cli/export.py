"""Export a model for other programs: ONNX, OpenVINO, torch.export. The file is run before it is kept, and compared with
the model; classes, palette and input convention travel inside.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import fullconv
from fullconv.cli.options import DATA, add_reading, reading_of
from fullconv.cli.show import console_for, key_values, print_json
from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.exporting.export import Checked

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
    """Export, check, and print what was found."""
    console = console_for(args.json)
    size = size_of(args.size)
    console.print(f"exporting to {args.out} ...")
    checked = fullconv.export(
        args.model, args.out, size, data=args.data, split=args.split, limit=args.limit, int8=args.int8,
        int8_images=args.calibration, masks=reading_of(args),
    )  # fmt: skip
    if args.json:
        print_json(checked.to_dict())
    else:
        console.print(key_values(rows_of(checked)))
    return 0


def size_of(text: str) -> tuple[int, int] | None:
    """What ``--size`` says."""
    if text == DYNAMIC:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"--size is '{shown(text)}'; give HEIGHTxWIDTH in pixels, such as 360x480, or dynamic")
    return int(height), int(width)


def rows_of(checked: Checked) -> list[tuple[str, str]]:
    """Return what was found, in words."""
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
