"""Recipes, and the settings of a run from defaults, starting weights, recipe and caller; the later one counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from fullconv.config import ModelConfig, TrainConfig, from_mapping
from fullconv.errors import UsageError, suggestion
from fullconv.io.strict_yaml import load_plain

MODEL_FLAGS = tuple(spec.name for spec in fields(ModelConfig) if spec.name != "num_classes")
TRAIN_FLAGS = tuple(spec.name for spec in fields(TrainConfig))
NOTES = ("about", "expect", "command")
"""Keys of a recipe that are for its reader: what it is, the number to reach with its source, and the command."""

STAGES = "stages"
"""The key of a recipe that trains several nets, each from the one before: a list of what is different in each."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _recipes().iterdir() if entry.name.endswith(".yaml"))


def _recipes() -> Any:
    return resources.files("fullconv").joinpath("recipes")


def read_recipe(name: str) -> dict[str, Any]:
    """Read the settings of a recipe: one of the package's by name, or a YAML file by its path."""
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
    """Return the settings of each stage of a recipe; the recipe itself if it has no stages."""
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


def merge_settings(
    header: Mapping[str, Any], recipe: Mapping[str, Any], given: Mapping[str, Any], name: str | None = None
) -> tuple[ModelConfig, TrainConfig, str | None]:
    """Return the settings of a run, and the name of the input convention if one was given.

    header: the model settings of the starting weights. recipe: the settings of a recipe, or of one of its stages; name:
    that of the recipe. given: the settings of the caller. Later sources override earlier ones.
    """
    recipe = dict(recipe)
    where = f"recipe {name}" if name else "recipe"
    _refuse_another_decay(recipe, given)

    def layer(cls: type, names: tuple[str, ...], base: Mapping[str, Any]) -> Any:
        # Each layer is checked separately, so that an error names the place of the value.
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
