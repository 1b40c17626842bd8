"""Several runs as plain facts: what each reached, what it took, in which settings they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.config import to_mapping
from fullconv.errors import UsageError, shown
from fullconv.inference.predictor import load_checkpoint
from fullconv.labels import LabelSpace
from fullconv.training.log import read_log


@dataclass(frozen=True)
class RunFacts:
    """One run.

    name: short, and its own among those that are compared. log: the lines of ``log.jsonl``. scores: those of the best
    net on the validation split, as noted in its checkpoint; None without validation. settings: setting -> value, of
    net, training and input, and what it was trained on. fingerprint: of the data, where one was noted.
    """

    name: str
    folder: Path
    labels: LabelSpace
    parameters: int
    log: Sequence[Mapping[str, Any]]
    scores: Mapping[str, Any] | None
    best_step: int | None
    settings: Mapping[str, Any]
    fingerprint: Any = None

    @property
    def steps(self) -> int:
        """How many steps were done."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def seconds(self) -> float:
        """How long the steps took, evaluation left out."""
        return float(sum(line["seconds"] for line in self.log))

    @property
    def images_per_second(self) -> float | None:
        """Over the whole run."""
        return sum(line["images"] for line in self.log) / self.seconds if self.seconds > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name, "folder": str(self.folder), "scores": self.scores, "best_step": self.best_step,
            "steps": self.steps, "seconds": self.seconds, "images_per_second": self.images_per_second,
            "parameters": self.parameters, "settings": dict(self.settings),
        }  # fmt: skip


def runs_in(given: Path) -> list[Path]:
    """The folder of a run itself, or of the runs in it: the stages of a recipe, the coarsest first, or all runs of a
    folder by name. A checkpoint stands for the folder it lies in.

    Raises `UsageError` where there is no run.
    """
    folder = given.parent if given.is_file() and given.name == "model.safetensors" else given
    if not folder.exists():
        raise UsageError(f"{shown(given)}: there is no such folder; give the folder of a run")
    if _is_run(folder):
        return [folder]
    inside = sorted((path for path in folder.iterdir() if _is_run(path)), key=_order) if folder.is_dir() else []
    if inside:
        return inside
    if (folder / "model.safetensors").is_file():
        return [folder]
    raise UsageError(f"{shown(given)}: it is no run and holds none; give a folder that fullconv train --out made")


def _is_run(folder: Path) -> bool:
    return (folder / "log.jsonl").is_file()


def _order(folder: Path) -> tuple[Any, ...]:
    stage = re.fullmatch(r"(?:fcn-?)?(\d+)s", folder.name)
    if stage:
        return (0, -int(stage[1]))
    return (1, [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", folder.name)])


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as they must be to differ.

    >>> short_names([Path("runs/a/8s"), Path("runs/b/8s")]), short_names([Path("runs/a"), Path("runs/b")])
    (['a/8s', 'b/8s'], ['a', 'b'])
    """
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_runs(folders: Sequence[Path]) -> list[RunFacts]:
    """The facts of the runs in these folders, each folder once. Raises `UsageError` for a run without a net yet."""
    once = list({folder.resolve(): folder for folder in folders}.values())
    return [_read(folder, name) for folder, name in zip(once, short_names(once), strict=True)]


def _read(folder: Path, name: str) -> RunFacts:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UsageError(f"{shown(folder)}: it has no model.safetensors yet; wait for its first evaluation")
    predictor = load_checkpoint(path)
    header = predictor.header
    provenance = header.provenance
    settings = {
        **to_mapping(header.model),
        **(provenance.get("train") or {}),
        **{f"input {key}": value for key, value in header.input.to_dict().items()},
        **{key: provenance.get(key) for key in ("data", "images", "weights", "fullconv", "torch")},
    }
    return RunFacts(
        name, folder, header.labels, sum(p.numel() for p in predictor.net.parameters()), read_log(folder),
        provenance.get("val"), provenance.get("step"), settings, provenance.get("data_fingerprint"),
    )  # fmt: skip


def differences(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """The settings in which the runs are not all alike, with the value of each run (None where it has no such)."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def one_label_space(runs: Sequence[RunFacts]) -> bool:
    """Whether all runs have the same classes in the same order."""
    return all(run.labels.names == runs[0].labels.names for run in runs)


def notes(runs: Sequence[RunFacts]) -> list[str]:
    """What makes the numbers of these runs less comparable than they look, a sentence each."""
    found, first = [], runs[0]
    if without := [run.name for run in runs if run.scores is None]:
        found.append(
            f"{_listed(without)} {'was' if len(without) == 1 else 'were'} trained without validation and "
            f"{'has' if len(without) == 1 else 'have'} no scores; fullconv evaluate gives them."
        )
    if not one_label_space(runs):
        sizes = ", ".join(f"{run.name} {len(run.labels)}" for run in runs)
        found.append(
            f"The runs have different classes ({sizes}): only the four numbers are compared, and they are means over "
            "different things."
        )
    elif others := [run.name for run in runs[1:] if _other_validation(first, run)]:
        found.append(
            f"{_listed(others)} {'was' if len(others) == 1 else 'were'} scored on other validation data than "
            f"{first.name}: a difference of the scores may be one of the data."
        )
    if others := [run.name for run in runs[1:] if _other_training(first, run)]:
        found.append(f"{_listed(others)} learned from other training data than {first.name}.")
    kinds = {tuple(str(run.settings.get(key)) for key in ("loss", "hard", "class_weights")) for run in runs}
    if len(kinds) > 1:
        found.append("The losses are not computed alike: compare how they fall, not how high they are.")
    return found


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _other_validation(first: RunFacts, run: RunFacts) -> bool:
    """By the noted fingerprints; without them by the pixels of each class in the truth, which other images change."""
    noted = [_part(one.fingerprint, "val") for one in (first, run)]
    if None not in noted:
        return noted[0] != noted[1]
    pixels = [
        {name: row["pixels"] for name, row in one.scores["classes"].items()} for one in (first, run) if one.scores
    ]
    return len(pixels) == 2 and pixels[0] != pixels[1]


def _other_training(first: RunFacts, run: RunFacts) -> bool:
    noted = [_part(one.fingerprint, "train") for one in (first, run)]
    if None not in noted:
        return noted[0] != noted[1]
    return first.settings.get("images") != run.settings.get("images")


def _part(fingerprint: Any, split: str) -> Any:
    """Of a fingerprint for each split the one asked for; a single one is that of the training data."""
    if isinstance(fingerprint, Mapping):
        return fingerprint.get(split)
    return fingerprint if split == "train" else None
