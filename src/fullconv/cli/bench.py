"""Measure things side by side on this machine.

dense: what scores at a finer stride cost, by shift-and-stitch, by the rarefied net, and by upsampling (section 3.2 of
the paper). loader: images a second that are read and augmented, beside what a training step takes. train: a training
step beside the plain form of it. predict: our engines beside the plain net. timing: the paper's own study, one pass
over an image beside its patches (section 3.1), which is also fullconv reproduce timing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fullconv.cli.show import console_for, print_json, table
from fullconv.errors import UsageError
from fullconv.hardware import machine

if TYPE_CHECKING:
    from fullconv.bench.prediction import Others

EXAMPLE = "fullconv bench predict --backbone vgg16 --sizes 500x500,375x500"
STUDIES = ("dense", "loader", "train", "predict", "timing")
TIMING = 3.0
"""Minutes for the paper's study."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help="of the loader: a folder or a name (default: pictures made for it)"
    )
    parser.add_argument(
        "--image", type=int, default=256, metavar="N", help="of dense: side of the image in pixels (default: 256)"
    )
    parser.add_argument(
        "--stride", type=int, default=8, metavar="N", help="of dense: of the scores, 1, 2, 4, 8 or 16 (default: 8)"
    )
    add_predict_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the measurements of a net."""
    parser.add_argument("--backbone", default="vgg16", metavar="NAME", help="of train and predict (default: vgg16)")
    parser.add_argument(
        "--width", type=float, default=1.0, metavar="X", help="of train and predict: of its channels (default: 1)"
    )
    parser.add_argument(
        "--padding", default="paper", metavar="paper|tight", help="of train and predict (default: paper)"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="of predict: a trained net in place of a random one")
    parser.add_argument(
        "--sizes", default="500x500", metavar="HxW,...", help="of predict: of the images (default: 500x500)"
    )
    parser.add_argument(
        "--threads", metavar="N,...", help="of predict: numbers of threads (default: as many as torch takes)"
    )
    parser.add_argument("--compile", action="store_true", help="of predict: torch's compiler too, half a minute a size")
    parser.add_argument(
        "--memory", action="store_true", help="of predict: also what a process of each way alone has in memory at most"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each way (default: 5)")


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table."""
    if args.rounds < 1:
        raise UsageError(f"--rounds is {args.rounds}; give at least 1")
    if args.data is not None and args.study != "loader":
        raise UsageError(f"bench {args.study} takes no data; leave out '{args.data}'")
    if args.study == "timing":
        return _timing(args)
    console = console_for(args.json)
    console.print(f"measuring {args.rounds} rounds of each way ...")
    found = {**_measured(args, console), "machine": machine()}
    if args.json:
        print_json(found)
    show = {"dense": _show_dense, "loader": _show_loader, "train": _show_train, "predict": show_predict}
    show[args.study](console, found)
    on = found["machine"]
    console.print(f"\nmedians on {on['cpu']} ({on['instructions']}), {on['threads']} threads")
    return 0


def _timing(args: argparse.Namespace) -> int:
    """The study of the paper, which writes nothing here."""
    from fullconv.cli.reproduce import show
    from fullconv.reproduce.setting import open_setting
    from fullconv.reproduce.studies import study

    console = console_for(args.json)
    chosen = study("timing")
    setting = open_setting(
        "digits", None, None, None, budget=TIMING, seed=0, trains=chosen.trains, say=console.print
    )  # fmt: skip
    result = chosen.run(setting, console.print)
    if args.json:
        print_json(result.to_dict())
    show(console, result)
    return 0


def _measured(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    if args.study == "predict":
        return predict(args, console.print)
    if args.study == "loader":
        from fullconv.bench import data_loading

        return data_loading.measure(args.data, args.rounds)
    if args.study == "train":
        from fullconv.bench import training_step

        return training_step.measure(backbone=args.backbone, width=args.width, padding=args.padding, rounds=args.rounds)
    from fullconv.bench import dense

    return dense.measure(args.image, args.stride, rounds=args.rounds)


def predict(args: argparse.Namespace, say: Callable[[str], Any], others: Others | None = None) -> dict[str, Any]:
    """Measure what the flags of `add_predict_arguments` ask for. others: more ways to compare with."""
    import torch

    from fullconv.bench import prediction

    threads = _numbers(args.threads, "--threads", "1,2") if args.threads else [torch.get_num_threads()]
    sizes = [_size(part) for part in args.sizes.split(",")]
    return prediction.measure(
        args.backbone, args.width, args.padding, sizes, threads, args.rounds, args.model, args.compile, args.memory,
        others, say,
    )  # fmt: skip


def _numbers(text: str, flag: str, example: str) -> list[int]:
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise UsageError(f"{flag} is '{text}'; give whole numbers from 1 on, such as {example}")
    return [int(part) for part in text.split(",")]


def _size(text: str) -> tuple[int, int]:
    height, width = (*_numbers(text.replace("x", ","), "--sizes", "500x500,375x500"), 0)[:2]
    return height, width or height


def show_predict(console: Console, found: dict[str, Any]) -> None:
    """Print the ways of every size and number of threads."""
    from fullconv.profiling.process_memory import format_bytes

    console.print(f"\n{found['net']}, {found['weights']} weights")
    for run in found["runs"]:
        limit = ", ".join(f"{rate:,.0f} GFLOP/s {name}" for name, rate in run["limit_gflop_per_second"].items())
        console.print(
            f"\n{'x'.join(map(str, run['size']))}, {run['threads']} threads; {run['gflop']} GFLOP; the machine "
            f"multiplies at {limit} at best",
        )
        rows = [
            (row["way"], f"{row['seconds']:.3f}", f"{row['speedup']:.2f}",
             *((f"{row['gflop_per_second']:.0f}",
                f"{100 * row['share_of_limit']:.0f} %" if row["share_of_limit"] else "-",
                f"{row['max_rel_diff']:.0e}", f"{100 * row['labels']:.2f} %") if "labels" in row else ("-",) * 4),
             *((format_bytes(row["peak_bytes"]) if row["peak_bytes"] else "-",) if "peak_bytes" in row else ()))
            for row in run["ways"]
        ]  # fmt: skip
        titles = ["way", "seconds", "times as fast", "GFLOP/s", "of the limit", "scores off by", "labels as plain"]
        console.print(table(titles + ["memory"] * ("peak_bytes" in run["ways"][0]), rows))


def _show_dense(console: Console, found: dict[str, Any]) -> None:
    size, stride = found["image"], found["stride"]
    console.print(f"\n{found['net']}; image {size[0]}x{size[1]}, scores at stride {stride}")
    rows = [
        (row["way"], row["runs"], f"{row['scores'][0]}x{row['scores'][1]}", f"{row['seconds']:.3f}",
         f"{row['ratio_to_upsampled']:.1f}")
        for row in found["ways"]
    ]  # fmt: skip
    console.print(table(("way", "runs", "scores", "seconds", "of the upsampled"), rows))


def _show_loader(console: Console, found: dict[str, Any]) -> None:
    crop = "x".join(map(str, found["crop"]))
    console.print(f"\n{found['data']}; {found['net']}, batches of {found['batch']}, crop {crop}")
    rows = [(row["way"], f"{row['images_per_second']:.1f}", f"{row['share_of_training']:.1f}") for row in found["ways"]]
    console.print(table(("way", "images/s", "of training"), rows))


def _show_train(console: Console, found: dict[str, Any]) -> None:
    console.print(f"\n{found['net']}; image {'x'.join(map(str, found['image']))}")
    rows = [
        (row["way"], f"{row['seconds']:.2f}", f"{row['speedup']:.2f}", f"{row['loss_rel_diff']:.1e}")
        for row in found["ways"]
    ]
    console.print(table(("way", "seconds", "times as fast", "loss off by"), rows))
