"""The report of a training run: how good the net is, where it fails, and everything that is needed to do it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.atomic import write_atomically
from fullconv.config import InputConvention, ModelConfig, TrainConfig, to_mapping
from fullconv.data import SEMANTIC, Dataset, images, photograph
from fullconv.evaluation import confusions, present_only
from fullconv.inference import Predictor
from fullconv.labels import LabelSpace
from fullconv.metrics import Counts, scores
from fullconv.report import figures
from fullconv.report.page import Code, Figure, Gallery, Section, Table, percent, render
from fullconv.training.run import read_log

FOUR = {
    "mean_iu": "mean IU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iu": "frequency weighted IU",
}
"""The four numbers of the paper, the one that nets are compared by first."""


@dataclass(frozen=True)
class Evaluated:
    """One pass over the validation split.

    counts: its confusion matrix, by task. ranking: (mean IU, index, name) of each image that has one, the worst first.
    """

    counts: Mapping[str, Counts]
    ranking: tuple[tuple[float, int, str], ...]


def write_run_report(folder: Path, predictor: Predictor, validation: Dataset | None, worst_and_best: int = 3) -> Path:
    """Write ``report.html`` into the run folder, whole or not at all, and return its path.

    predictor: the best net of the run. validation: what it is scored on now; without it, the scores noted in the
    checkpoint are shown, if any. worst_and_best: how many images to show of each kind, never one as both.
    Raises `UsageError` when the data is of another label space than the net, `RunError` when the file cannot be
    written.
    """
    log = read_log(folder)
    provenance = predictor.header.provenance
    evaluated = _evaluate(predictor, validation) if validation is not None and len(validation) else None
    names = predictor.labels.names
    numbers = provenance.get("val")
    if evaluated is not None and validation is not None:
        numbers = scores(evaluated.counts[SEMANTIC], present_only(validation)).to_dict(names)

    sections = [_training(log)]
    if numbers:
        sections.append(_classes(numbers, predictor.labels))
    if evaluated is not None and validation is not None:
        sections.append(_confusion(evaluated.counts[SEMANTIC], names))
        sections.append(_pictures(evaluated, predictor, validation, worst_and_best))
    sections += [_settings(predictor), _again(predictor)]

    if numbers:
        facts = {name: _with_sign(percent(numbers[key])) for key, name in FOUR.items()}
        if evaluated is not None and "geometric" in evaluated.counts:
            reached = scores(evaluated.counts["geometric"]).pixel_accuracy
            facts["geometric pixel accuracy"] = _with_sign(percent(reached))
    else:
        facts = {"steps": f"{log[-1]['step']:,}", "last loss": f"{log[-1]['loss']:.4g}"} if log else {}
    model = predictor.header.model
    page = render(
        f"FCN-{model.stride}s of {model.backbone} on {_data_name(str(provenance.get('data', 'its data')))}",
        _lead(predictor, numbers, validation if evaluated is not None else None, log),
        sections,
        facts,
    )
    target = folder / "report.html"
    write_atomically(target, page.encode())
    return target


def _evaluate(predictor: Predictor, validation: Dataset) -> Evaluated:
    """All images once. Of each only its mean IU is kept: the matrices of many classes would fill the memory."""
    total = {task: np.zeros((len(space),) * 2, np.int64) for task, space in predictor.header.tasks.items()}
    ranking = []
    for index, (name, counts) in enumerate(confusions(predictor, validation)):
        for task, found in counts.items():
            total[task] += found
        reached = scores(counts[SEMANTIC]).mean_iu
        if reached is not None:  # an image that is void all over has no score
            ranking.append((reached, index, name))
    return Evaluated(total, tuple(sorted(ranking)))


# -- the parts of the page --------------------------------------------------------------------------------------------


def _lead(
    predictor: Predictor, numbers: Mapping[str, Any] | None, validation: Dataset | None, log: list[dict[str, Any]]
) -> str:
    model, provenance = predictor.header.model, predictor.header.provenance
    width = "" if model.width == 1 else f" at {model.width:g} of its width"
    length = f" for {_count(log[-1]['step'], 'step')}" if log else ""
    trained = (
        f"An FCN-{model.stride}s of {model.backbone}{width}, trained on {provenance.get('data', 'its data')}{length}."
    )
    if not numbers:
        return f"{trained} No validation split was given, so nothing here says how it does on images it has not seen."
    where = f"{_count(len(validation), 'validation image')}" if validation is not None else "the validation split"
    over = _count(numbers["classes_averaged"], "class", "classes")
    reached = f"It reaches a mean IU of {_with_sign(percent(numbers['mean_iu']))} on {where}, averaged over {over}."
    chosen = f"This is the net of step {provenance['step']:,}, the best of the run." if provenance.get("step") else ""
    noted = "" if validation is not None else "The scores are those noted during training."
    return " ".join(filter(None, (trained, reached, chosen, noted)))


def _training(log: list[dict[str, Any]]) -> Section:
    if not log:
        return Section("Training", "The log of this run holds no step.")
    seconds = [line["seconds"] for line in log]
    batch = _count(max(line["images"] for line in log), "image")
    text = (
        f"{_count(len(log), 'step')} of up to {batch}, {_duration(sum(seconds))} in all, {median(seconds):.2g} s a "
        f"step (median). The loss went from {log[0]['loss']:.4g} to {log[-1]['loss']:.4g}."
    )
    evaluations = _count(sum(1 for line in log if line.get("scores")), "evaluation")
    alt = f"Curves over the steps: the loss, the mean IU at {evaluations}, the learning rate. {text}"
    return Section("Training", text, (Figure(figures.curves(log), "", alt),))


def _classes(numbers: Mapping[str, Any], labels: LabelSpace) -> Section:
    # By the names in their order, which a header does not keep: its keys are sorted.
    found = [(name, numbers["classes"][name]) for name in labels.names]
    rows = tuple((name, percent(row["iu"]), percent(row["accuracy"]), f"{row['pixels']:,}") for name, row in found)
    text = (
        "In percent. IU: of the pixels that are of the class or were taken for it, the share that are both. Accuracy: "
        "of the pixels of the class, the share that were found. A dash stands where there was nothing to count."
    )
    return Section("Classes", text, (Table(("class", "IU", "accuracy", "pixels"), rows, swatches=labels.palette),))


def _confusion(counts: Counts, names: tuple[str, ...]) -> Section:
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:8]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    rows = tuple((names[i], names[j], percent(counts[i, j] / counts[i].sum()), f"{counts[i, j]:,}") for i, j in pairs)
    table = Table(
        ("truth", "predicted", "% of truth", "pixels"), rows, "The most frequent mistakes, by number of pixels."
    )
    alt = "Confusion matrix, rows are truth. The most frequent mistakes stand in the table that follows."
    matrix = Figure(
        figures.confusion(counts, names), "Of the pixels of each class, the percentage taken for each class.", alt
    )
    return Section("Mistakes", "", (matrix, table) if rows else (matrix,))


def _pictures(evaluated: Evaluated, predictor: Predictor, validation: Dataset, most: int) -> Section:
    """At most half of the images as worst and half as best, so that none is both; a single one counts as worst."""
    ranking = evaluated.ranking
    worst = ranking[: min(most, (len(ranking) + 1) // 2)]
    best = ranking[::-1][: min(most, len(ranking) // 2)]
    galleries = tuple(
        Gallery(tuple(_picture(predictor, validation, place, kind) for place in places), columns=1)
        for kind, places in (("Worst", worst), ("Best", best))
        if places
    )
    text = (
        "The validation images with the lowest mean IU, the worst first, then those with the highest, the best first. "
        "Each is scored over the classes that it holds or that were predicted in it. Truth and prediction lie in the "
        "colours of their classes over the image in gray; background and void are left gray."
    )
    return Section("Worst and best images", text if galleries else "No validation image could be scored.", galleries)


def _picture(predictor: Predictor, validation: Dataset, place: tuple[float, int, str], kind: str) -> Figure:
    reached, index, name = place
    sample, labels = validation[index], predictor.labels
    prediction = predictor(sample.image).prediction
    # Gray, and lifted towards the middle: under it no colour of a class changes its hue, or drowns.
    image, truth = photograph(sample.image), sample.semantic
    gray = (48 + 0.7 * (image @ np.array([0.299, 0.587, 0.114]))).astype(np.uint8)
    ground = np.repeat(gray[:, :, None], 3, axis=2)
    strip = [image, *(images.overlay(ground, values, labels, 0.7) for values in (truth, prediction))]
    words = f"{name}: mean IU {_with_sign(percent(reached))}. Truth: {_held(truth, labels)}. "
    words += f"Prediction: {_held(prediction, labels)}."
    png = figures.side_by_side([strip], ("image", "truth", "prediction"))
    return Figure(png, f"{kind}: {words}", f"Image, truth and prediction of {words}")


def _held(values: NDArray[np.integer], labels: LabelSpace) -> str:
    """The names of the classes in a label, the largest first, in so many words."""
    counts = np.bincount(values[values != labels.ignore_index], minlength=len(labels))
    found = [labels.names[i] for i in np.argsort(-counts, kind="stable") if counts[i]]
    rest = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return ", ".join(found[:6]) + rest if found else "void only"


def _settings(predictor: Predictor) -> Section:
    header = predictor.header
    tables = (
        ("Model", ModelConfig, to_mapping(header.model)),
        ("Training", TrainConfig, header.provenance.get("train") or {}),
        ("Input: how pixels become the input of the net", InputConvention, header.input.to_dict()),
    )
    return Section("Settings", "", tuple(_setting_table(*table) for table in tables if table[2]))


def _setting_table(caption: str, settings: type, values: Mapping[str, Any]) -> Table:
    meaning = {spec.name: str(spec.metadata.get("help", "")) for spec in fields(settings)}
    order = [*(name for name in meaning if name in values), *(name for name in values if name not in meaning)]
    rows = tuple((name, _plain(values[name]), meaning.get(name, "")) for name in order)
    if not all(row[2] for row in rows):
        return Table(("setting", "value"), tuple(row[:2] for row in rows), caption)
    return Table(("setting", "value", "meaning"), rows, caption)


def _again(predictor: Predictor) -> Section:
    """What else is needed to do it again: data, weights, versions, machine, command."""
    import torch

    provenance = predictor.header.provenance
    rows = (
        ("data", _plain(provenance.get("data"))),
        ("classes", str(len(predictor.labels))),
        ("weights begun with", _plain(provenance.get("weights") or "none, random")),
        ("parameters", f"{sum(p.numel() for p in predictor.net.parameters()):,}"),
        ("fullconv", _plain(provenance.get("fullconv"))),
        ("PyTorch", _plain(provenance.get("torch"))),
        ("Python", platform.python_version()),
        ("processor", f"{_processor()}, {_count(torch.get_num_threads(), 'thread')}"),
        ("system", f"{platform.system()} {platform.machine()}"),
    )
    parts: tuple[Table | Code, ...] = (Table(("what", "which"), rows),)
    if provenance.get("command"):
        parts += (Code(str(provenance["command"]), "The command of this run."),)
    text = (
        "The versions of fullconv and PyTorch are those of the training; the machine is the one that wrote this page."
    )
    return Section("To do it again", text, parts)


# -- words and numbers ------------------------------------------------------------------------------------------------


def _processor() -> str:
    """The processor as its maker calls it; on Linux only /proc knows."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def _plain(value: Any) -> str:
    """A setting as one would write it.

    >>> _plain([288, 384]), _plain(True), _plain(None), _plain([103.53, 116.28])
    ('288, 384', 'true', '-', '103.53, 116.28')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data_name(data: str) -> str:
    """A data set in a title.

    >>> _data_name("voc2012:/data/VOC2012"), _data_name("pictures/leaves"), _data_name("digits")
    ('voc2012', 'leaves', 'digits')
    """
    name, colon, _ = data.partition(":")
    return name if colon and "/" not in name and len(name) > 1 else Path(data).name or data


def _with_sign(number: str) -> str:
    return number if number == "-" else f"{number} %"


def _count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 step``, ``1,000 steps``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _duration(seconds: float) -> str:
    """A time to be read.

    >>> _duration(4.23), _duration(125), _duration(7260)
    ('4.2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
