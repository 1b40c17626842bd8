"""The published data sets: what they are, how to come by them, whether a copy is whole, and what is made from them.

list: all of them; list NAME says everything about one.
get NAME: fetch what is published for everybody, verify it, unpack it.
verify NAME:DIR: count and fingerprint what is there.
convert sbd:DIR: SBD's .mat labels as palette PNGs beside them.
seg11valid voc2011:DIR sbd:DIR: the list on which the paper validates, VOC2011's val without SBD's train.
hha DIR: HHA pictures in DIR/hha from the depth in DIR/depth.
bounds DATA: the upper bounds on mean IU of coarse scores (appendix A of the paper).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fullconv.cli.show import Bar, Bars, console_for, key_values, print_json, table
from fullconv.errors import UsageError, shown, suggestion
from fullconv.reporting.page import percent

if TYPE_CHECKING:
    from fullconv.datasets.published.catalog import Named
    from fullconv.datasets.published.description import DatasetInfo

EXAMPLE = "fullconv data get camvid; fullconv data verify voc2012:VOC"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("action", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("given", nargs="*", metavar="ARGUMENT", help="a NAME, NAME:DIR, or a folder (see above)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of get: where to (default: a folder of its name here)")
    parser.add_argument("--split", metavar="NAME", help="of bounds: the split (default: the data set's for validation)")
    parser.add_argument(
        "--camera",
        metavar="FX,FY,CX,CY",
        help="of hha: focal lengths and centre, in pixels (default: NYUDv2's)",
    )
    parser.add_argument("--factors", default="128,64,32,16,8,4", metavar="N,N", help="of bounds (default: the paper's)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Do one of the actions."""
    if args.action not in ACTIONS:
        raise UsageError(f"data: there is no action '{shown(args.action)}'; {suggestion(args.action, ACTIONS)}")
    action, least, most, wanted = ACTIONS[args.action]
    if not least <= len(args.given) <= most:
        raise UsageError(f"data {args.action}: {len(args.given)} arguments; give {wanted}")
    return action(args, console_for(args.json))


def _list(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.published.catalog import abouts

    chosen = [_about(args.given[0])] if args.given else list(abouts().values())
    counts = {
        about.name: ", ".join(f"{split} {count:,}" if count else split for split, count in about.splits.items())
        for about in chosen
    }
    if args.json:
        print_json([about.to_dict() for about in chosen])
    elif args.given:
        (about,) = chosen
        rows = [("name", about.name), ("title", about.title), ("splits", counts[about.name]), ("files", about.form)]
        rows += [(f"{task} classes", ", ".join(space.names)) for task, space in about.tasks.items()]
        rows += [("cite", about.citation), ("terms", about.terms), ("home", about.home)]
        rows += [("to fetch", file.url) for file in about.files]
        rows += [("by hand", about.by_hand)] if about.by_hand else []
        console.print(key_values(rows))
    else:
        titles = ("name", "what", "classes", "images", "get")
        all_rows = (
            (about.name, about.title, " + ".join(str(len(space)) for space in about.tasks.values()),
             counts[about.name], "yes" if about.files else "by hand")
            for about in chosen
        )  # fmt: skip
        console.print(table(titles, all_rows, left=titles))
        console.print("\nfullconv data list NAME: files, classes, terms, whom to cite")
    return 0


def _get(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.published.download import get

    about = _about(args.given[0])
    folder = args.out or Path(about.name)
    console.print(f"{about.title}\nterms: {about.terms}\ncite: {about.citation}\ninto {folder}")
    lines: list[str] = []
    with Bars(console) as bars:

        def progress(what: str, done: int, total: int | None) -> None:
            bars(f"{what}, MiB", done >> 20, max(1, -(-(total or done) >> 20)))

        files = get(about, folder, lines.append, progress)
    for line in lines:
        console.print(line)
    if about.by_hand:
        console.print(f"by hand: {about.by_hand}")
    if args.json:
        print_json({"name": about.name, "folder": str(folder), "files": [str(file) for file in files]})
    else:
        console.print(f"next: fullconv data verify {about.name}:{folder}")
    return 0


def _verify(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.published.download import verify

    named = _named(args.given[0])
    with Bar(console, "reading") as bar:
        found = verify(named, bar)
    if args.json:
        print_json([{**asdict(split), "complete": split.complete} for split in found])
    else:
        rows = []
        for split in found:
            state = "complete" if split.complete else "other files" if split.problem is None else "missing"
            count = f"{split.published:,}" if split.published else "not known"
            rows.append((split.split, f"{split.samples:,}", count, state, (split.fingerprint or "")[:16]))
        console.print(table(("split", "images", "published", "state", "SHA-256"), rows, left=("state", "SHA-256")))
        for split in found:
            if split.problem:
                console.print(f"{split.split}: {split.problem}")
    wanted = {named.about.train, named.about.val}
    return 0 if all(split.complete for split in found if split.split in wanted) else 2


def _convert(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.published.prepare import to_png

    with Bar(console, "converting") as bar:
        written, failed = to_png(_named(args.given[0], "sbd"), bar)
    if args.json:
        print_json({"written": written, "failed": failed})
    else:
        console.print(f"{written:,} labels written as PNG")
    if failed:
        listed = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
        raise UsageError(f"{len(failed)} labels could not be read: {listed}")
    return 0


def _leak_free(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.published.prepare import leak_free_list

    pascal, boundaries = _named(args.given[0], "voc2011", "voc2012"), _named(args.given[1], "sbd")
    path, count = leak_free_list(pascal, boundaries)
    published = pascal.about.splits.get("seg11valid", 0)
    if args.json:
        print_json({"list": str(path), "images": count, "published": published or None})
    else:
        console.print(f"{count:,} images of val are not in SBD's train: {path}")
        if published and count != published:
            console.print(f"note: the paper's list has {published}; these are not the official lists")
    return 0


def _hha(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.hha import encode_dataset

    folder = Path(args.given[0])
    with Bar(console, "encoding") as bar:
        written = encode_dataset(folder, args.camera, bar)
    if args.json:
        print_json({"written": written})
    else:
        console.print(f"{len(written):,} pictures written to {folder / 'hha'}")
    return 0


def _bounds(args: argparse.Namespace, console: Console) -> int:
    from fullconv.datasets.open_dataset import default_splits, open_dataset
    from fullconv.evaluation.upper_bounds import upper_bounds

    split = args.split or default_splits(args.given[0])[1] or "train"
    data = open_dataset(args.given[0], split)
    try:
        factors = [int(factor) for factor in args.factors.split(",")]
    except ValueError:
        raise UsageError(f"--factors is '{args.factors}'; give whole numbers such as 32,16,8") from None
    with Bar(console, f"scoring {split}") as bar:
        found = upper_bounds(data, factors, bar)
    if args.json:
        print_json({factor: scores.to_dict(data.labels.names) for factor, scores in found.items()})
    else:
        rows = ((factor, percent(s.mean_iu), percent(s.pixel_accuracy)) for factor, s in found.items())
        console.print(table(("factor", "mean IU", "pixel acc."), rows))
    return 0


ACTIONS: dict[str, tuple[Callable[[argparse.Namespace, Console], int], int, int, str]] = {
    "list": (_list, 0, 1, "a NAME or nothing"),
    "get": (_get, 1, 1, "the NAME of a data set"),
    "verify": (_verify, 1, 1, "NAME:DIR"),
    "convert": (_convert, 1, 1, "sbd:DIR"),
    "seg11valid": (_leak_free, 2, 2, "voc2011:DIR and sbd:DIR"),
    "hha": (_hha, 1, 1, "the folder that holds depth/, with 16-bit PNGs of millimetres"),
    "bounds": (_bounds, 1, 1, "DATA"),
}
"""Each action: what does it, how many arguments it takes at least and at most, and which."""


def _about(name: str) -> DatasetInfo:
    from fullconv.datasets.published.catalog import abouts

    if name not in abouts():
        raise UsageError(f"{shown(name)}: there is no data set of this name; {suggestion(name, abouts())}")
    return abouts()[name]


def _named(text: str, *allowed: str) -> Named:
    """The data set and folder of NAME:DIR, which must be one of the allowed names."""
    from fullconv.datasets.published.catalog import named

    found = named(text)
    if found is None:
        raise UsageError(f"{shown(text)}: it does not say what is in it; give {allowed[0] if allowed else 'NAME'}:DIR")
    if allowed and found.about.name not in allowed:
        raise UsageError(f"{shown(text)}: this is for {' or '.join(allowed)}; give {allowed[0]}:DIR")
    return found
