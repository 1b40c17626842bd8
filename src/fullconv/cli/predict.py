"""Segment images: palette PNGs of class indices at the size of each image, and overlays to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from fullconv.errors import UsageError, shown

HELP = "segment images and folders of images"
EXAMPLE = "fullconv predict run/model.safetensors holiday/ photo.jpg --out masks --overlay"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint: RUN/model.safetensors")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="images, or folders of images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where <name>.png goes")
    parser.add_argument("--overlay", action="store_true", help="also write <name>.overlay.jpg")
    parser.add_argument(
        "--precision", default="fp32", metavar="fp32|bf16", help="arithmetic of the net (default: fp32)"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Predict every input; bad files are named at the end, the others are done."""
    from rich.console import Console

    from fullconv.cli.show import Bar, print_json
    from fullconv.data.images import write_label, write_overlay
    from fullconv.inference import load

    console = Console(stderr=True, soft_wrap=True)
    predictor = load(args.model, args.precision)
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out}: it is a file; give a folder for the masks")
    files = collect(args.inputs)
    args.out.mkdir(parents=True, exist_ok=True)
    written, failed = [], []
    with Bar(console, "predicting", len(files)) as bar:
        for number, (file, name) in enumerate(files, start=1):
            try:
                found = predictor(file)
            except UsageError as problem:
                failed.append(str(problem))
                bar.update(number)
                continue
            mask = args.out / f"{name}.png"
            write_label(mask, found.prediction, found.labels)
            if args.overlay:
                write_overlay(args.out / f"{name}.overlay.jpg", found.image, found.prediction, found.labels)
            height, width = found.prediction.shape
            present = sorted({found.labels.names[k] for k in set(found.prediction.ravel().tolist())})
            written.append(
                {"input": str(file), "output": str(mask), "height": height, "width": width, "classes": present}
            )
            bar.update(number)
    if args.json:
        print_json({"written": written, "failed": failed})
    else:
        console.print(f"{len(written)} of {len(files)} written to {args.out}", highlight=False)
    if failed:
        listed = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
        raise UsageError(
            listed if len(files) == 1 else f"{len(failed)} of {len(files)} images could not be read: {listed}"
        )
    return 0


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
