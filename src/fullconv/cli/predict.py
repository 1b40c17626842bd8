"""Segment images: palette PNGs of class indices at the size of each image, and overlays to look at."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fullconv.cli import tiling
from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.inference import Predictor
    from fullconv.segmentation import Segmentation

HELP = "segment images and folders of images"
EXAMPLE = "fullconv predict run/model.safetensors holiday/ photo.jpg --out masks --overlay"


@dataclass(frozen=True)
class Input:
    """One image to predict: the name of its output, where it is from, and how to read it."""

    name: str
    source: str
    read: Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a checkpoint (RUN/model.safetensors), or what fullconv export wrote"
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="images, folders of images, or NAME:DIR of a published set"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="of a published set: the split (default: its own for validation)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where <name>.png goes")
    parser.add_argument("--overlay", action="store_true", help="also write <name>.overlay.jpg")
    parser.add_argument(
        "--submission", metavar="comp5|comp6", help="of VOC: also write DIR/submission.zip for its server"
    )
    parser.add_argument(
        "--precision", default="fp32", metavar="fp32|bf16", help="arithmetic of the net (default: fp32)"
    )
    tiling.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Predict every input; bad files are named at the end, the others are done."""
    from rich.console import Console

    from fullconv.cli.loading import load_model
    from fullconv.cli.show import Bar, print_json
    from fullconv.deployed import SUFFIXES

    console = Console(stderr=True, soft_wrap=True)
    exported = args.model.suffix in SUFFIXES  # run without torch, a whole image at a time
    if exported:
        tiling.refuse(args)
    predictor = load_model(args.model, args.precision)
    settings = None if exported else tiling.settings_of(args)
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out}: it is a file; give a folder for the masks")
    inputs = of_dataset(args.inputs, args.split, args.submission) or [
        Input(name, str(file), partial(Path, file)) for file, name in collect([Path(path) for path in args.inputs])
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    written: list[dict[str, Any]] = []
    failed = []
    with Bar(console, "predicting", len(inputs)) as bar:
        for number, given in enumerate(inputs, start=1):
            try:
                source, said = given.read(), None
                if settings and isinstance(source, Path):  # what is no file was read by its data set
                    said = tiling.predict(
                        cast("Predictor", predictor), source, args.out, given.name, settings, args.overlay, bar.line,
                        partial(bar.update, number - 1),
                    )  # fmt: skip
                written.append(said or write(predictor(source), given, args.out, args.overlay))
            except UsageError as problem:
                failed.append(str(problem))
            bar.update(number)
    archive = None
    if args.submission and not failed:
        archive = submit(args, {entry["name"]: (entry["height"], entry["width"]) for entry in written})
    if args.json:
        print_json({"written": written, "failed": failed, **({"submission": str(archive)} if archive else {})})
    else:
        console.print(f"{len(written)} of {len(inputs)} written to {args.out}", highlight=False)
        if archive:
            console.print(f"for the server of PASCAL VOC: {archive}", highlight=False)
    if failed:
        listed = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
        raise UsageError(
            listed if len(inputs) == 1 else f"{len(failed)} of {len(inputs)} images could not be read: {listed}"
        )
    return 0


def write(found: Segmentation, given: Input, out: Path, overlay: bool) -> dict[str, Any]:
    """Write the pictures of one image, and what there is to say of them."""
    from fullconv.data.images import write_label, write_overlay

    said: dict[str, Any] = {"name": given.name, "input": given.source}
    for ending, part in (("", found), (".geometric", found.geometric)):
        if part is None:
            continue
        mask = out / f"{given.name}{ending}.png"
        write_label(mask, part.prediction, part.labels)
        if overlay:
            write_overlay(out / f"{given.name}{ending}.overlay.jpg", part.image, part.prediction, part.labels)
        said[f"output{ending}"] = str(mask)
    said["height"], said["width"] = found.prediction.shape
    said["classes"] = sorted({found.labels.names[k] for k in set(found.prediction.ravel().tolist())})
    return said


def of_dataset(inputs: list[str], split: str | None, competition: str | None) -> list[Input]:
    """The images of a published set, where that is the one input; else nothing."""
    from fullconv.data.official import named

    official = named(inputs[0]) if len(inputs) == 1 else None
    if official is None:
        if split is not None or competition is not None:
            flag = "--split" if split is not None else "--submission"
            raise UsageError(f"{flag} belongs to a published set; give NAME:DIR as the one INPUT, or leave it out")
        return []
    if competition is not None and not official.about.name.startswith("voc"):
        raise UsageError(f"--submission: {official.about.name} has no such server; leave it out")
    data = official.open(split or official.about.val)
    sources = zip(data.files.names, data.files.images, strict=True)
    return [Input(name, str(files[0]), partial(data.image, number)) for number, (name, files) in enumerate(sources)]


def submit(args: argparse.Namespace, sizes: dict[str, tuple[int, int]]) -> Path:
    """Write the archive for the server of PASCAL VOC."""
    from fullconv.evaluation.submission import submission

    year = args.inputs[0].partition(":")[0].removeprefix("voc")
    archive: Path = args.out / "submission.zip"
    submission(args.out, sizes, year, args.submission, archive)
    return archive


def collect(inputs: list[Path]) -> list[tuple[Path, str]]:
    """The image files and the name each output takes: its stem, or with the suffix where two share a stem.

    Raises `UsageError` for a path that is not there, a folder without images, or two files of one name.
    """
    from fullconv.data.layouts import IMAGE_SUFFIXES

    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
            if not inside:
                raise UsageError(
                    f"{shown(path)}: no images in this folder; give a folder of {', '.join(IMAGE_SUFFIXES)} files"
                )
            files += inside
        elif path.exists():
            files.append(path)
        else:
            near = next(parent for parent in path.absolute().parents if parent.exists())
            raise UsageError(
                f"{shown(path)}: there is no such file or folder; the nearest that exists is {shown(near)}"
            )
    files = list(dict.fromkeys(files))
    stems = [f.stem for f in files]
    names = [f.stem if stems.count(f.stem) == 1 else f.name for f in files]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UsageError(
            f"'{shown(twice)}': two inputs have this name and would take one output; predict their folders one by one"
        )
    return list(zip(files, names, strict=True))
