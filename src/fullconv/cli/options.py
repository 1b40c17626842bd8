"""Settings dataclasses as flags, and the layers they come from: defaults, starting weights, recipe, flags; the later
one counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.config import ModelConfig, Size, TrainConfig, field_type, from_mapping
from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.strict_yaml import load_plain

if TYPE_CHECKING:
    from fullconv.datasets.folder.classes_file import MaskOptions

MODEL_FLAGS = tuple(spec.name for spec in fields(ModelConfig) if spec.name != "num_classes")
TRAIN_FLAGS = tuple(spec.name for spec in fields(TrainConfig))
NOTES = ("about", "expect", "command")
"""Keys of a recipe that are for its reader: what it is, the number to reach with its source, and the command."""

STAGES = "stages"
"""The key of a recipe that trains several nets, each from the one before: a list of what is different in each."""

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
    from fullconv.datasets.folder.classes_file import MaskOptions

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


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _recipes().iterdir() if entry.name.endswith(".yaml"))


def _recipes() -> Any:
    return resources.files("fullconv").joinpath("recipes")


def read_recipe(name: str) -> dict[str, Any]:
    """The settings in a recipe: one of the package's by name, or a YAML file by its path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(
                f"{path}: there is no such recipe file; check the path, or give one of: {', '.join(recipe_names())}"
            )
        content = path.read_bytes()
        if len(content) > 100_000:
            raise UsageError(f"{path}: {len(content):,} bytes are no recipe; give a small YAML file of settings")
    elif name in recipe_names():
        content = _recipes().joinpath(f"{name}.yaml").read_bytes()
    else:
        raise UsageError(
            f"recipe '{name}': there is no such recipe; {suggestion(name, recipe_names())}, or a .yaml file"
        )
    found = load_plain(content, name, [*MODEL_FLAGS, *TRAIN_FLAGS, "input", STAGES, *NOTES])
    return {key: value for key, value in found.items() if key not in NOTES}


def stages_of(recipe: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The recipes of the nets that a recipe trains, one after the other; the recipe itself where it has no stages."""
    stages = recipe.get(STAGES)
    if stages is None:
        return [dict(recipe)]
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise UsageError(f"recipe {where}: stages is no list of settings; give such as `- {{stride: 32, lr: 1.0e-10}}`")
    known = [*MODEL_FLAGS, *TRAIN_FLAGS]
    shared = {key: value for key, value in recipe.items() if key != STAGES}
    for stage in stages:
        for key in stage:
            if key not in known:
                raise UsageError(f"recipe {where}: stages: there is no setting '{key}'; {suggestion(str(key), known)}")
        if "stride" not in stage:
            raise UsageError(f"recipe {where}: stages: each needs its stride; add it")
    return [{**shared, **stage} for stage in stages]


def layered(
    header: Mapping[str, Any], recipe: Mapping[str, Any], args: argparse.Namespace
) -> tuple[ModelConfig, TrainConfig, str | None]:
    """The settings of a run, and the input convention's name if one was given.

    header: the model settings of the starting weights, which hold unless they are overridden. recipe: the settings of
    the recipe, or of one of its stages.
    """
    recipe, given = dict(recipe), vars(args)
    where = f"recipe {args.recipe}" if args.recipe else "recipe"
    _refuse_another_decay(recipe, given)

    def layer(cls: type, names: tuple[str, ...], base: Mapping[str, Any]) -> Any:
        # Each layer is checked by itself, so that an error names the place where the value stands.
        settled: dict[str, Any] = dict(base)
        for origin, values in ((where, recipe), ("command line", given)):
            part = {name: values[name] for name in names if name in values}
            checked: Any = from_mapping(cls, part, origin)
            settled.update({name: getattr(checked, name) for name in part})
        return cls(**settled)

    if "epochs" in given and "steps" in given:
        raise UsageError("command line: --steps and --epochs both say how long to train; give one of them")
    if "epochs" in given:
        recipe.pop("steps", None)  # the length of the run given one way replaces the other
    model = layer(ModelConfig, MODEL_FLAGS, {name: header[name] for name in MODEL_FLAGS if name in header})
    return model, layer(TrainConfig, TRAIN_FLAGS, {}), given.get("input") or recipe.get("input")


def _refuse_another_decay(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A weight decay acts on the gradient: on that of a sum it is next to nothing, on that of a mean it is felt."""
    was, now = recipe.get("loss"), given.get("loss")
    if was is not None and now is not None and was != now and "weight_decay" not in given:
        stronger = "some 100,000 times stronger" if now == "mean" else "some 100,000 times weaker"
        raise UsageError(
            f"--loss {now}: the recipe's weight decay belongs to its loss '{was}' and would act {stronger}, since one "
            "is the other divided by the pixels of a step; give --weight-decay too (and --lr)"
        )
