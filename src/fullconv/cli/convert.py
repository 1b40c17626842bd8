"""Turn weights from elsewhere into one file of ours, and a classifier into its dense form, with proof.

SOURCE is a .caffemodel (the authors' FCNs, or a VGG, AlexNet, CaffeNet or GoogLeNet), a .pth or .safetensors state
dict, a checkpoint of fullconv, the name of published weights (fetched once, and verified), or torchvision:NAME or
timm:NAME. The settings of the net, its classes and the input that it wants go into the header of the file.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import fullconv
from fullconv.cli.show import Bar, console_for, key_values, print_json, table
from fullconv.errors import UsageError

EXAMPLE = "fullconv convert fcn8s-heavy-pascal.caffemodel --prototxt deploy.prototxt --out fcn8s.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a file of weights, or a name (--list shows those known)", nargs="?"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the .safetensors file to write; without it, only say")
    parser.add_argument("--prototxt", type=Path, metavar="P", help="the layers of a .caffemodel (it holds them too)")
    parser.add_argument(
        "--backbone", metavar="NAME", help="which net a state dict is for (default: found by its shapes)"
    )
    parser.add_argument(
        "--input", metavar="NAME", help="the input that the weights want: caffe, torchvision, rgb128, ORDER:MEANS/STD"
    )
    parser.add_argument(
        "--to-input", metavar="NAME", help="change the first layer so that the net takes this input instead"
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="a classes.yaml with the names of the classes")
    parser.add_argument(
        "--verify", action="store_true", help="of a classifier: prove that its dense form is the classifier slid"
    )
    parser.add_argument("--list", action="store_true", help="list the published weights that are known by name")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Convert, print what was done and what was proved."""
    console = console_for(args.json)
    if args.list:
        return list_known(console, args.json)
    if args.source is None:
        raise UsageError("convert: no SOURCE is given; give a file of weights, or --list for those known by name")
    with Bar(console, "fetching MiB") as bar:
        done = fullconv.convert(
            args.source, args.out, prototxt=args.prototxt, backbone=args.backbone, input=args.input,
            to_input=args.to_input, classes=args.classes, verify=args.verify, log=console.print,
            progress=lambda done, total: bar(done >> 20, max(1, -(-(total or done) >> 20))),
        )  # fmt: skip
    converted, report = done.converted, done.report
    rows = [*converted.notes, ("weights", f"{sum(t.numel() for t in converted.tensors.values()):,} numbers")]
    found: dict[str, Any] = {"source": args.source, **dict(rows)}
    console.print(key_values(rows))
    if report is not None:
        side, axis = report.native_size[0], report.trace.last.rows
        console.print(f"\nmade dense, on crops of {side}x{side}:\n{report}")
        found["dense"] = {
            "changes": [asdict(change) for change in report.changes], "native_size": side,
            "stride": str(axis.stride), "receptive_field": str(axis.field), "start": str(axis.start),
        }  # fmt: skip
    if done.proof is not None:
        console.print(f"\n{done.proof}")
        found["proof"] = {**asdict(done.proof), "holds": done.proof.holds}
    elif args.verify:
        console.print("an FCN was not made from a classifier here: its scores were compared with its own graph above")
    if done.path is not None:
        found["written"] = str(done.path)
        console.print(f"\nwritten: {done.path}  (a MODEL, or --weights of fullconv train)")
    if args.json:
        print_json({**found, "model": converted.header.to_dict()["model"]})
    return 0


def list_known(console: Console, as_json: bool) -> int:
    """Print the published weights that are known by name."""
    from fullconv.weights.known import KNOWN

    if as_json:
        print_json([asdict(known) for known in KNOWN.values()])
        return 0
    rows = [
        (known.name, "" if known.mebibytes is None else f"{known.mebibytes:.0f}",
         known.checksum.kind if known.checksum else "none published")
        for known in KNOWN.values()
    ]  # fmt: skip
    console.print(table(("name", "MiB", "checksum"), rows))
    console.print("\nlicences and addresses: --json; a file is fetched once, verified, and kept")
    return 0
