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
from pathlib import Path
from typing import Any

from fullconv.errors import UsageError, shown, suggestion

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
    from rich.console import Console

    if args.action not in ACTIONS:
        raise UsageError(f"data: there is no action '{shown(args.action)}'; {suggestion(args.action, ACTIONS)}")
    action, least, most, wanted = ACTIONS[args.action]
    if not least <= len(args.given) <= most:
        raise UsageError(f"data {args.action}: {len(args.given)} arguments; give {wanted}")
    return action(args, Console(stderr=bool(args.json), soft_wrap=True))


def _list(args: argparse.Namespace, console: Any) -> int:
    from rich.table import Table

    from fullconv.cli.show import key_values, print_json
    from fullconv.datasets.published.catalog import abouts

    chosen = [_about(args.given[0])] if args.given else list(abouts().values())
    if args.json:
        print_json([_as_json(about) for about in chosen])
    elif args.given:
        (about,) = chosen
        counts = ", ".join(f"{split} {count:,}" if count else split for split, count in about.splits.items())
        rows = [("name", about.name), ("title", about.title), ("splits", counts), ("files", about.form)]
        rows += [(f"{task} classes", ", ".join(space.names)) for task, space in about.tasks.items()]
        rows += [("cite", about.citation), ("terms", about.terms), ("home", about.home)]
        rows += [("to fetch", file.url) for file in about.files]
        rows += [("by hand", about.by_hand)] if about.by_hand else []
        console.print(key_values(rows))
    else:
        table = Table("name", "what", "classes", "images", "get", header_style="bold", box=None, pad_edge=False)
        for about in chosen:
            classes = " + ".join(str(len(space)) for space in about.tasks.values())
            counts = ", ".join(f"{split} {count:,}" if count else split for split, count in about.splits.items())
            table.add_row(about.name, about.title, classes, counts, "yes" if about.files else "by hand")
        console.print(table)
        console.print("\nfullconv data list NAME: files, classes, terms, whom to cite", highlight=False)
    return 0


def _get(args: argparse.Namespace, console: Any) -> int:
    from fullconv.cli.show import Bar, print_json
    from fullconv.datasets.published.download import get

    about = _about(args.given[0])
    folder = args.out or Path(about.name)
    console.print(f"{about.title}\nterms: {about.terms}\ncite: {about.citation}\ninto {folder}", highlight=False)
    bars: dict[str, Bar] = {}

    def progress(what: str, done: int, total: int | None) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.__exit__(None, None, None)
            bars[what] = Bar(console, f"{what}, MiB", 1)
            bars[what].__enter__()
        bars[what].follow(done >> 20, max(1, -(-(total or done) >> 20)))

    said: list[str] = []
    try:
        files = get(about, folder, said.append, progress)
    finally:
        for bar in bars.values():
            bar.__exit__(None, None, None)
    for line in said:
        console.print(line, highlight=False)
    if about.by_hand:
        console.print(f"by hand: {about.by_hand}", highlight=False)
    if args.json:
        print_json({"name": about.name, "folder": str(folder), "files": [str(file) for file in files]})
    else:
        console.print(f"next: fullconv data verify {about.name}:{folder}", highlight=False)
    return 0


def _verify(args: argparse.Namespace, console: Any) -> int:
    from dataclasses import asdict

    from rich.table import Table

    from fullconv.cli.show import Bar, print_json
    from fullconv.datasets.published.download import verify

    named = _named(args.given[0])
    bar = Bar(console, "reading", 1)
    with bar:
        found = verify(named, bar.follow)
    if args.json:
        print_json([{**asdict(split), "complete": split.complete} for split in found])
    else:
        table = Table("split", header_style="bold", box=None, pad_edge=False)
        for title in ("images", "published", "state", "SHA-256"):
            table.add_column(title, justify="right" if title in ("images", "published") else "left")
        for split in found:
            state = "complete" if split.complete else "other files" if split.problem is None else "missing"
            count = f"{split.published:,}" if split.published else "not known"
            table.add_row(split.split, f"{split.samples:,}", count, state, (split.fingerprint or "")[:16])
        console.print(table)
        for split in found:
            if split.problem:
                console.print(f"{split.split}: {split.problem}", highlight=False)
    wanted = {named.about.train, named.about.val}
    return 0 if all(split.complete for split in found if split.split in wanted) else 2


def _convert(args: argparse.Namespace, console: Any) -> int:
    from fullconv.cli.show import Bar, print_json
    from fullconv.datasets.published.prepare import to_png

    named = _named(args.given[0], "sbd")
    bar = Bar(console, "converting", 1)
    with bar:
        written, failed = to_png(named, bar.follow)
    if args.json:
        print_json({"written": written, "failed": failed})
    else:
        console.print(f"{written:,} labels written as PNG", highlight=False)
    if failed:
        listed = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
        raise UsageError(f"{len(failed)} labels could not be read: {listed}")
    return 0


def _leak_free(args: argparse.Namespace, console: Any) -> int:
    from fullconv.cli.show import print_json
    from fullconv.datasets.published.prepare import leak_free_list

    pascal, boundaries = _named(args.given[0], "voc2011", "voc2012"), _named(args.given[1], "sbd")
    path, count = leak_free_list(pascal, boundaries)
    published = pascal.about.splits.get("seg11valid", 0)
    if args.json:
        print_json({"list": str(path), "images": count, "published": published or None})
    else:
        console.print(f"{count:,} images of val are not in SBD's train: {path}", highlight=False)
        if published and count != published:
            console.print(f"note: the paper's list has {published}; these are not the official lists", highlight=False)
    return 0


def _hha(args: argparse.Namespace, console: Any) -> int:
    from fullconv.cli.show import Bar, print_json
    from fullconv.datasets.hha import encode_folder

    if not (Path(args.given[0]) / "depth").is_dir():
        raise UsageError(f"{shown(args.given[0])}: it has no folder depth; give the folder that holds depth/ID.png")
    folder = Path(args.given[0])
    bar = Bar(console, "encoding", 1)
    raw = folder / "rawdepth"
    with bar:
        camera = _camera(args.camera, folder / "depth")
        written = encode_folder(folder / "depth", folder / "hha", camera, raw if raw.is_dir() else None, bar.follow)
    if args.json:
        print_json({"written": written})
    else:
        console.print(f"{len(written):,} pictures written to {folder / 'hha'}", highlight=False)
    return 0


def _camera(text: str | None, depth: Path) -> Any:
    """The camera of ``--camera``, or that of NYUDv2 for pictures of its size, whole or without the white border."""
    from fullconv.datasets.depth_geometry import NYUD, Camera
    from fullconv.io.image import read_label_values

    if text is not None:
        try:
            return Camera(*(float(number) for number in text.split(",")))
        except (TypeError, ValueError):
            raise UsageError(f"--camera is '{shown(text)}'; give FX,FY,CX,CY in pixels") from None
    first = next(iter(sorted(depth.glob("*.png"))), None)
    size = read_label_values(first).shape[:2] if first else (480, 640)
    known = {(480, 640): NYUD, (425, 560): NYUD.cropped(top=45, left=40)}
    if size not in known:
        raise UsageError(f"{shown(first)}: {size[0]}x{size[1]} is no size of NYUDv2; give its --camera FX,FY,CX,CY")
    return known[size]


def _bounds(args: argparse.Namespace, console: Any) -> int:
    from rich.table import Table

    from fullconv.cli.show import Bar, print_json
    from fullconv.datasets.open_dataset import default_splits, open_dataset
    from fullconv.evaluation.upper_bounds import upper_bounds
    from fullconv.reporting.page import percent

    split = args.split or default_splits(args.given[0])[1] or "train"
    data = open_dataset(args.given[0], split)
    try:
        factors = [int(factor) for factor in args.factors.split(",")]
    except ValueError:
        raise UsageError(f"--factors is '{args.factors}'; give whole numbers such as 32,16,8") from None
    with Bar(console, f"scoring {split}", len(data)) as bar:
        found = upper_bounds(data, factors, lambda done, _: bar.update(done))
    if args.json:
        print_json({factor: scores.to_dict(data.labels.names) for factor, scores in found.items()})
        return 0
    table = Table("factor", header_style="bold", box=None, pad_edge=False)
    for title in ("mean IU", "pixel acc."):
        table.add_column(title, justify="right")
    for factor, scores in found.items():
        table.add_row(str(factor), percent(scores.mean_iu), percent(scores.pixel_accuracy))
    console.print(table)
    return 0


ACTIONS: dict[str, tuple[Callable[[argparse.Namespace, Any], int], int, int, str]] = {
    "list": (_list, 0, 1, "a NAME or nothing"),
    "get": (_get, 1, 1, "the NAME of a data set"),
    "verify": (_verify, 1, 1, "NAME:DIR"),
    "convert": (_convert, 1, 1, "sbd:DIR"),
    "seg11valid": (_leak_free, 2, 2, "voc2011:DIR and sbd:DIR"),
    "hha": (_hha, 1, 1, "the folder that holds depth/, with 16-bit PNGs of millimetres"),
    "bounds": (_bounds, 1, 1, "DATA"),
}
"""Each action: what does it, how many arguments it takes at least and at most, and which."""


def _about(name: str) -> Any:
    from fullconv.datasets.published.catalog import abouts

    if name not in abouts():
        raise UsageError(f"{shown(name)}: there is no data set of this name; {suggestion(name, abouts())}")
    return abouts()[name]


def _named(text: str, *allowed: str) -> Any:
    """The data set and folder of NAME:DIR, which must be one of the allowed names."""
    from fullconv.datasets.published.catalog import named

    found = named(text)
    if found is None:
        raise UsageError(f"{shown(text)}: it does not say what is in it; give {allowed[0] if allowed else 'NAME'}:DIR")
    if allowed and found.about.name not in allowed:
        raise UsageError(f"{shown(text)}: this is for {' or '.join(allowed)}; give {allowed[0]}:DIR")
    return found


def _as_json(about: Any) -> dict[str, Any]:
    return {
        "name": about.name,
        "title": about.title,
        "classes": {task: list(space.names) for task, space in about.tasks.items()},
        "splits": {split: count or None for split, count in about.splits.items()},
        "files": about.form,
        "modalities": list(about.modalities),
        "citation": about.citation,
        "terms": about.terms,
        "home": about.home,
        "fetched": [{"url": file.url, "checksum": file.checksum} for file in about.files],
        "by_hand": about.by_hand or None,
    }
