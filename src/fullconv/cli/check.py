"""Look through a data set: everything that is wrong with it at once, in plain words, and what it holds.

With --fix a clean copy of a folder is written beside it, with --html a page to look at and to hand on, with --augment a
picture of what the settings of a training make of the images.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

import fullconv
from fullconv.cli.options import DATA, add_reading, add_settings, reading_of
from fullconv.cli.show import Bar, console_for, print_json, table
from fullconv.config import InputConvention, TrainConfig
from fullconv.errors import UsageError
from fullconv.reporting.page import percent
from fullconv.training.recipes import merge_settings, read_recipe, recipe_names, stages_of

if TYPE_CHECKING:
    from fullconv.checking.findings import Findings

EXAMPLE = "fullconv check photos/ --html check.html --fix photos-clean"
AUGMENTATION = ("crop", "scale", "flip", "jitter", "color", "seed")
"""The settings of a training that change what a sample looks like."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--split", metavar="NAME", help="only this split")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON on standard output")
    parser.add_argument("--threads", type=int, metavar="N", help="files read at once (default: the cores, at most 8)")
    parser.add_argument(
        "--fix", type=Path, metavar="OUT", help="write a clean copy of the folder into the new folder OUT"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the findings as a page with pictures")
    parser.add_argument(
        "--augment", type=Path, metavar="FILE", help="draw what the settings below make of some images (PNG), and stop"
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help=f"settings from a recipe ({', '.join(recipe_names())}) or file"
    )
    parser.add_argument(
        "--input", default=argparse.SUPPRESS, metavar="NAME",
        help="whose mean colour stands outside the image: caffe, torchvision, rgb128, or ORDER:MEANS/STD",
    )  # fmt: skip
    add_reading(parser)
    others = tuple(spec.name for spec in fields(TrainConfig) if spec.name not in AUGMENTATION)
    add_settings(parser, TrainConfig, "augmentation, for --augment", without=others)


def run(args: argparse.Namespace) -> int:
    """Check, print, write what was asked for; 2 when there are errors and no clean copy was asked for."""
    console = console_for(args.json)
    if args.augment is not None:
        if args.html is not None or args.fix is not None:
            raise UsageError("--augment draws, and checks nothing; leave out --html and --fix, or run it by itself")
        return augment(console, args)
    if args.recipe is not None or any(hasattr(args, name) for name in (*AUGMENTATION, "input")):
        raise UsageError("check: settings of augmentation without --augment; add --augment FILE.png")
    if args.fix is not None and args.split is not None:
        raise UsageError("--fix: a clean copy holds all splits; leave out --split")
    if args.fix is not None and not Path(args.data).is_dir():
        raise UsageError(f"--fix: {args.data} is no folder of images and masks; published sets are as they should be")
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads is {args.threads}; give at least 1")
    with Bar(console, "checking") as bar:
        findings = fullconv.check(args.data, args.split, bar, args.threads, reading_of(args))
    if args.json:
        print_json(findings.to_dict())
    else:
        show(console, findings)
    if args.html is not None:
        from fullconv.reporting.check_page import write_check_page

        console.print(f"written: {write_check_page(args.html, findings)}")
    if args.fix is not None:
        return fix(console, args, findings)
    return 0 if findings.ok else 2


def fix(console: Console, args: argparse.Namespace, findings: Findings) -> int:
    """Write the clean copy, and print what is in it."""
    from fullconv.checking.repair import LEFT_OUT, repair

    with Bar(console, "writing") as bar:
        made = repair(Path(args.data), args.fix, findings, bar)
    pairs = ", ".join(f"{count:,} {split}" for split, count in made.pairs.items())
    console.print(f"written: {args.fix}: {pairs}")
    console.print(
        f"{made.masks_rewritten:,} masks in other numbers than before, {made.images_turned:,} images turned upright, "
        f"{len(made.left_out):,} entries left out" + (f" (see {args.fix / LEFT_OUT})" if made.left_out else "")
    )
    return 0


def augment(console: Console, args: argparse.Namespace) -> int:
    """Draw samples as a training with the given settings would see them."""
    from fullconv.datasets.open_dataset import default_splits
    from fullconv.reporting.augmentation_preview import draw_augmented

    recipe = stages_of(read_recipe(args.recipe), args.recipe)[0] if args.recipe else {}
    _, config, convention = merge_settings({}, recipe, vars(args), args.recipe)
    dataset = fullconv.open_dataset(args.data, args.split or default_splits(args.data)[0], reading_of(args))
    picture = draw_augmented(dataset, config, InputConvention.named(convention or "torchvision"), rows=4, columns=6)
    args.augment.write_bytes(picture)
    console.print(f"written: {args.augment}")
    return 0


def show(console: Console, found: Findings) -> None:
    """Print the findings as tables: what is there, then what is wrong, errors first."""
    from fullconv.reporting.check_page import sizes, weight

    titles = ("split", "images", "sizes (height x width)", "void", "all void", "all background")
    console.print(
        table(titles, (
            (name, f"{split.images:,}", sizes(split.smallest, split.largest), percent(split.void_share) + " %",
             split.all_void, split.all_background)
            for name, split in found.splits.items()
        ))
    )  # fmt: skip
    for name, split in found.splits.items():
        if split.made:
            console.print(f"{name}: {split.made}")
    if found.labels is not None:
        rows = []
        for index, (label, colour) in enumerate(zip(found.labels.names, found.labels.palette, strict=True)):
            swatch = Text("■ ", style="rgb({},{},{})".format(*colour)) + Text(f"{index} {label}")
            shares = (percent(split.shares[index]) for split in found.splits.values())
            rows.append((swatch, *shares, weight(found.weights[index])))
        console.print()
        console.print(table(("class", *(f"{name} %" for name in found.splits), "weight"), rows))
    console.print()
    for problem in found.problems:
        style = "bold red" if problem.severity == "error" else "yellow"
        times = f" [{problem.count:,} times]" if problem.count > len(problem.examples) > 0 else ""
        console.print(Text(f"{problem.severity}: ", style=style) + Text(problem.line() + times))
    errors = sum(problem.severity == "error" for problem in found.problems)
    warnings = len(found.problems) - errors
    verdict = "ready to train" if found.ok else "cannot be used as it is"
    console.print(f"{found.name}: {errors} errors, {warnings} warnings; {verdict}")
