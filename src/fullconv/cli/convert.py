"""Turn weights from elsewhere into one file of ours, and a classifier into its dense form, with proof.

SOURCE is a .caffemodel (the authors' FCNs, or a VGG, AlexNet, CaffeNet or GoogLeNet), a .pth or .safetensors state
dict, a checkpoint of fullconv, the name of published weights (fetched once, and verified), or torchvision:NAME or
timm:NAME. The settings of the net, its classes and the input that it wants go into the header of the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.errors import RunError, UsageError, shown, suggestion

if TYPE_CHECKING:
    from rich.console import Console

    from fullconv.config import InputConvention
    from fullconv.models.verify import Proof
    from fullconv.weights.convert import Converted

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
    """Convert, say what was done, prove it, write it."""
    from rich.console import Console

    from fullconv.cli.show import key_values, print_json

    console = Console(stderr=bool(args.json), soft_wrap=True)
    if args.list:
        return list_known(console, args.json)
    if args.source is None:
        raise UsageError("convert: no SOURCE is given; give a file of weights, or --list for those known by name")
    if args.out is not None and args.out.suffix != ".safetensors":
        raise UsageError(f"{args.out}: our files end in .safetensors; give such a name")
    converted = read(args, console)
    rows = [*converted.notes, ("weights", f"{sum(t.numel() for t in converted.tensors.values()):,} numbers")]
    found: dict[str, Any] = {"source": args.source, **dict(rows)}
    console.print(key_values(rows), highlight=False)
    proof = dense_form(converted, args.verify, console, found) if converted.header.kind == "classifier" else None
    if proof is not None and not proof.holds:
        raise RunError(f"{args.source}: the dense form is not the classifier slid; nothing was written")
    if args.verify and proof is None:
        console.print("an FCN was not made from a classifier here: its scores were compared with its own graph above")
    if args.out is not None:
        write(converted, args.out)
        found["written"] = str(args.out)
        console.print(f"\nwritten: {args.out}  (a MODEL, or --weights of fullconv train)", highlight=False)
    if args.json:
        print_json({**found, "model": converted.header.to_dict()["model"]})
    return 0


def dense_form(converted: Converted, verify: bool, console: Console, found: dict[str, Any]) -> Proof | None:
    """Make the classifier dense, say what became what, and prove it where asked."""
    from dataclasses import asdict

    from fullconv.models.build import native_size
    from fullconv.models.convolutionalize import convolutionalize
    from fullconv.models.verify import prove

    net, side = converted.net(), native_size(converted.header.model)
    dense, report = convolutionalize(net, side)
    console.print(f"\nmade dense, on crops of {side}x{side}:\n{report}", highlight=False)
    axis = report.trace.last.rows
    found["dense"] = {
        "changes": [asdict(change) for change in report.changes], "native_size": side,
        "stride": str(axis.stride), "receptive_field": str(axis.field), "start": str(axis.start),
    }  # fmt: skip
    if not verify:
        return None
    proof = prove(net, dense, side)
    console.print(f"\n{proof}", highlight=False)
    found["proof"] = {**asdict(proof), "holds": proof.holds}
    return proof


def read(args: argparse.Namespace, console: Console) -> Converted:
    """The source, whatever it is, with the input and the classes that were asked for."""
    from fullconv.config import InputConvention
    from fullconv.datasets.folder.classes_file import parse_rules
    from fullconv.labels import LabelSpace
    from fullconv.models.backbones.external import is_zoo_name
    from fullconv.weights.convert import convert, convert_zoo, with_input

    labels = None
    if args.classes is not None:
        rules = parse_rules(args.classes.read_bytes(), str(args.classes))
        if rules.names is None:
            raise UsageError(f"{args.classes}: it has no 'names'; list the classes there")
        labels = LabelSpace.of(rules.names, rules.palette)
    convention = None if args.input is None else InputConvention.named(args.input)
    path = Path(args.source)
    if is_zoo_name(args.source) and not path.exists():
        converted = convert_zoo(args.source, labels)
    else:
        if not path.exists():
            path, convention = fetched(args.source, convention, console)
        converted = convert(path, prototxt=args.prototxt, backbone=args.backbone, convention=convention, labels=labels)
    if args.to_input is not None:
        converted = with_input(converted, InputConvention.named(args.to_input), args.source)
    return converted


def write(converted: Converted, out: Path) -> None:
    """The file, whole or not at all."""
    from dataclasses import replace

    from fullconv import __version__
    from fullconv.weights import checkpoint

    header = converted.header
    provenance = {"fullconv": __version__, **header.provenance}
    checkpoint.save(out, converted.tensors, replace(header, provenance=provenance))


def list_known(console: Console, as_json: bool) -> int:
    """The published weights that are known by name."""
    from dataclasses import asdict

    from rich.table import Table

    from fullconv.cli.show import print_json
    from fullconv.weights.known import KNOWN

    if as_json:
        print_json([asdict(known) for known in KNOWN.values()])
        return 0
    table = Table("name", "MiB", "checksum", header_style="bold", box=None, pad_edge=False)
    for known in KNOWN.values():
        size = "" if known.mebibytes is None else f"{known.mebibytes:.0f}"
        table.add_row(known.name, size, known.checksum.kind if known.checksum else "none published")
    console.print(table)
    console.print("\nlicences and addresses: --json; a file is fetched once, verified, and kept")
    return 0


def fetched(source: str, convention: InputConvention | None, console: Console) -> tuple[Path, InputConvention | None]:
    """The file of published weights by name or address, fetched if it is not kept already, and what input it wants."""
    from fullconv.cli.show import Bar
    from fullconv.config import InputConvention
    from fullconv.io.download.fetch import cache_folder
    from fullconv.weights.known import KNOWN
    from fullconv.weights.pretrained import fetch

    known = KNOWN.get(source)
    if known is None and not source.startswith(("http://", "https://")):
        near = suggestion(source, list(KNOWN))
        near = (
            near.split(" One of")[0]
            if near.startswith("did you mean")
            else "fullconv convert --list shows those that are known"
        )
        raise UsageError(f"{shown(source)}: there is no such file, and no published weights of that name; {near}")
    if known is not None:
        console.print(f"{source}: {known.url}\nlicence: {known.licence}", highlight=False)
        if convention is None and known.input is not None:
            convention = InputConvention.named(known.input)
    console.print(f"kept in {cache_folder()}", highlight=False)
    with Bar(console, "fetching MiB", 1) as bar:

        def progress(done: int, total: int | None) -> None:
            if total:
                bar.total = -(-total >> 20)
            bar.update(done >> 20)

        path = fetch(source, progress=progress)
    return path, convention
