"""Flags that several verbs share, and settings dataclasses as flags."""

from __future__ import annotations

import argparse
from dataclasses import fields

from fullconv.config import Size, field_type
from fullconv.datasets.folder.classes_file import MaskOptions
from fullconv.errors import UsageError, shown

DATA = "a folder of images and masks, NAME:DIR of a published set (fullconv data list), or digits"
"""What DATA is, for the help of every verb that takes it."""


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The flags that say how the masks of a folder are to be read."""
    group = parser.add_argument_group("the masks of a folder, beside what its classes.yaml says")
    group.add_argument(
        "--map", action="append", default=[], metavar="V=K", help="mask value V is class K; --map 255=1 for 0/255 masks"
    )
    group.add_argument(
        "--colors", metavar="voc|auto", help="masks of colours: PASCAL VOC's, or a class for each colour that occurs"
    )
    group.add_argument(
        "--skip-unpaired", action="store_true", help="leave out images without a mask and masks without an image"
    )


def reading_of(args: argparse.Namespace) -> MaskOptions | None:
    """What those flags say; None where none was given."""
    mapping: dict[int, int] = {}
    for pair in ",".join(args.map).split(",") if args.map else []:
        value, equals, index = pair.partition("=")
        if not (equals and value.strip().isdecimal() and index.strip().isdecimal()):
            raise UsageError(f"--map is '{shown(pair)}'; give VALUE=CLASS, such as 255=1")
        mapping[int(value)] = int(index)
    if args.colors not in (None, "voc", "auto"):
        raise UsageError(f"--colors is '{shown(args.colors)}'; give voc or auto")
    reading = MaskOptions(mapping, args.colors or "", args.skip_unpaired)
    return None if reading == MaskOptions() else reading


def add_engine(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add the flags ``--engine`` and ``--precision``."""
    parser.add_argument(
        "--engine", default=default, metavar="NAME",
        help="what runs it: torch, onnx, openvino, compile, eager (the module as it is), or auto: the fastest that "
        "agrees with it, tried once where there is work for some minutes and kept beside the model "
        f"(default: {default})",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="fp32", metavar="fp32|bf16|auto",
        help="arithmetic of the net; auto: the fastest with the same labels (default: fp32)",
    )  # fmt: skip


def add_settings(parser: argparse.ArgumentParser, cls: type, title: str, without: tuple[str, ...] = ()) -> None:
    """A flag for each field of a settings dataclass; only those that are given appear in the namespace."""
    group = parser.add_argument_group(title)
    for spec in fields(cls):
        if spec.name in without:
            continue
        kind, _ = field_type(cls, spec.name)
        flag = "--" + spec.name.replace("_", "-")
        note = "" if spec.default is None else f" (default: {spec.default})"
        help = spec.metadata["help"] + note
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help)
        else:
            choices = spec.metadata.get("choices") or ()
            metavar = (
                "|".join(choices) if choices else "HxW" if kind == Size else {int: "N", float: "X"}.get(kind, "NAME")
            )
            group.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=help.replace("%", "%%"))
