"""The report of a training run: how good the net is, where it fails, and everything that is needed to do it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.data.dataset import SEMANTIC, Dataset, facts_of
from fullconv.evaluation.evaluate import confusions
from fullconv.inference.model import Model
from fullconv.inference.predictor import Predictor
from fullconv.io.atomic import write_atomically
from fullconv.labels import LabelSpace
from fullconv.metrics import Counts, scores
from fullconv.profiling.process_memory import format_bytes
from fullconv.reporting import figures
from fullconv.reporting.audit import audit_section
from fullconv.reporting.formatting import counted, data_name, duration, with_sign
from fullconv.reporting.label_audit import TRAINING, Audit, Overheard, Passing, look_at_training
from fullconv.reporting.page import Figure, Section, Strip, Table, percent, render
from fullconv.reporting.pictures import over_gray, seen, view
from fullconv.reporting.reproducibility import again_section, settings_section
from fullconv.training.log import read_log

FOUR = {
    "mean_iu": "mean IU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iu": "frequency weighted IU",
}
"""The four numbers of the paper, the one that nets are compared by first."""

NARROW = 358
"""CSS pixels that a figure is drawn wide for a phone."""
_WIDTH = 238  # CSS pixels of a picture, three in a row


@dataclass(frozen=True)
class Evaluated:
    """One pass over the validation split.

    counts: its confusion matrix, by task. ranking: (mean IU, index, name) of each image that has one, the worst first.
    """

    counts: Mapping[str, Counts]
    ranking: tuple[tuple[float, int, str], ...]


def write_run_report(
    folder: Path,
    predictor: Predictor,
    validation: Dataset | None,
    worst_and_best: int = 3,
    training: Dataset | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``report.html`` into the run folder, whole or not at all, and return its path.

    predictor: the best net of the run. validation: what it is scored on now; without it, the scores noted in the
    checkpoint are shown, if any. worst_and_best: how many images to show of each kind, never one as both.
    training: what it was trained on, of which up to `TRAINING` images are audited beside those of `validation`.
    progress: called with (images done, images in all). Raises `UsageError` when the data is of another label space
    than the net, `RunError` when the file cannot be written.
    """
    log = read_log(folder)
    provenance = predictor.header.provenance
    validation = validation if validation is not None and len(validation) else None
    sizes = {split: len(data) for split, data in (("val", validation), ("train", training)) if data is not None}
    audit = Audit(predictor.labels)
    follow = _parts(progress, sizes.get("val", 0), min(TRAINING, sizes.get("train", 0)))
    evaluated = _evaluate(predictor, validation, audit, follow[0]) if validation is not None else None
    if training is not None:
        look_at_training(audit, predictor, training, progress=follow[1])
    names = predictor.labels.names
    numbers = provenance.get("val")
    if evaluated is not None and validation is not None:
        numbers = scores(evaluated.counts[SEMANTIC], facts_of(validation).present_only).to_dict(names)

    sections = [_training(log)]
    if numbers:
        sections.append(_classes(numbers, predictor.labels))
    if evaluated is not None and validation is not None:
        sections.append(_confusion(evaluated.counts[SEMANTIC], names))
        sections.append(_pictures(evaluated, predictor, validation, worst_and_best))
    if audit.images:
        sections.append(audit_section(audit, numbers["mean_iu"] if numbers else None, sizes))
    sections += [settings_section(predictor), again_section(predictor)]

    if numbers:
        facts = {name: with_sign(percent(numbers[key])) for key, name in FOUR.items()}
        if evaluated is not None and "geometric" in evaluated.counts:
            reached = scores(evaluated.counts["geometric"]).pixel_accuracy
            facts["geometric pixel accuracy"] = with_sign(percent(reached))
    else:
        facts = {"steps": f"{log[-1]['step']:,}", "last loss": f"{log[-1]['loss']:.4g}"} if log else {}
    model = predictor.header.model
    page = render(
        f"FCN-{model.stride}s of {model.backbone} on {data_name(str(provenance.get('data', 'its data')))}",
        _lead(predictor, numbers, validation, log),
        sections,
        facts,
    )
    target = folder / "report.html"
    write_atomically(target, page.encode())
    return target


def _parts(progress: Callable[[int, int], None] | None, *lengths: int) -> list[Callable[[int, int], None] | None]:
    """One progress for several parts of the work, one after the other."""
    if progress is None:
        return [None] * len(lengths)
    whole = sum(lengths)

    def part(before: int) -> Callable[[int, int], None]:
        return lambda done, _: progress(before + done, whole)

    return [part(sum(lengths[:number])) for number in range(len(lengths))]


def _evaluate(
    predictor: Model, validation: Dataset, audit: Audit, progress: Callable[[int, int], None] | None
) -> Evaluated:
    """All images once. Of each only its mean IU is kept: the matrices of many classes would fill the memory."""
    total = {task: np.zeros((len(space),) * 2, np.int64) for task, space in predictor.header.tasks.items()}
    ranking = []
    overheard, passing = Overheard(predictor), Passing(validation)
    for index, (name, counts) in enumerate(confusions(overheard, passing)):
        assert passing.last is not None
        audit.look("val", passing.last, torch.from_numpy(overheard.said[SEMANTIC].logits()))
        for task, found in counts.items():
            total[task] += found
        reached = scores(counts[SEMANTIC]).mean_iu
        if reached is not None:  # an image that is void all over has no score
            ranking.append((reached, index, name))
        if progress is not None:
            progress(index + 1, len(validation))
    return Evaluated(total, tuple(sorted(ranking)))


# -- the parts of the page --------------------------------------------------------------------------------------------


def _lead(
    predictor: Predictor, numbers: Mapping[str, Any] | None, validation: Dataset | None, log: list[dict[str, Any]]
) -> str:
    model, provenance = predictor.header.model, predictor.header.provenance
    width = "" if model.width == 1 else f" at {model.width:g} of its width"
    length = f" for {counted(log[-1]['step'], 'step')}" if log else ""
    trained = (
        f"An FCN-{model.stride}s of {model.backbone}{width}, trained on {provenance.get('data', 'its data')}{length}."
    )
    if not numbers:
        return f"{trained} No validation split was given, so nothing here says how it does on images it has not seen."
    where = f"{counted(len(validation), 'validation image')}" if validation is not None else "the validation split"
    over = counted(numbers["classes_averaged"], "class", "classes")
    reached = f"It reaches a mean IU of {with_sign(percent(numbers['mean_iu']))} on {where}, averaged over {over}."
    chosen = f"This is the net of step {provenance['step']:,}" if provenance.get("step") else ""
    if chosen:  # without a validation split during training there was nothing to choose by
        chosen += ", the best of the run." if provenance.get("val") else "."
    noted = "" if validation is not None else "The scores are those noted during training."
    return " ".join(filter(None, (trained, reached, chosen, noted)))


def _training(log: list[dict[str, Any]]) -> Section:
    if not log:
        return Section("Training", "The log of this run holds no step.")
    seconds = [line["seconds"] for line in log]
    batch = counted(max(line["images"] for line in log), "image")
    text = (
        f"{counted(len(log), 'step')} of up to {batch}, {duration(sum(seconds))} in all, {median(seconds):.2g} s a "
        f"step (median). The loss went from {log[0]['loss']:.4g} to {log[-1]['loss']:.4g}."
    )
    evaluations = counted(sum(1 for line in log if line.get("scores")), "evaluation")
    memory = max((line["memory"] for line in log if line.get("memory")), default=None)
    if memory is not None:
        text += f" The process needed up to {format_bytes(memory)} of memory."
    alt = f"Curves over the steps: the loss, the mean IU at {evaluations}, the learning rate. {text}"
    return Section("Training", text, (Figure(figures.curves(log), "", alt, figures.curves(log, NARROW)),))


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
        figures.confusion(counts, names), "Of the pixels of each class, the percentage taken for each class.", alt,
        figures.confusion(counts, names, NARROW),
    )  # fmt: skip
    return Section("Mistakes", "", (matrix, table) if rows else (matrix,))


def _pictures(evaluated: Evaluated, predictor: Model, validation: Dataset, most: int) -> Section:
    """At most half of the images as worst and half as best, so that none is both; a single one counts as worst."""
    ranking = evaluated.ranking
    worst = ranking[: min(most, (len(ranking) + 1) // 2)]
    best = ranking[::-1][: min(most, len(ranking) // 2)]
    strips = tuple(
        _picture(predictor, validation, place, kind)
        for kind, places in (("Worst", worst), ("Best", best))
        for place in places
    )
    text = (
        "The validation images with the lowest mean IU, the worst first, then those with the highest, the best first. "
        "Each is scored over the classes that it holds or that were predicted in it. Truth and prediction lie in the "
        "colours of their classes over the image in gray; background and void are left gray."
    )
    return Section("Worst and best images", text if strips else "No validation image could be scored.", strips)


def _picture(predictor: Model, validation: Dataset, place: tuple[float, int, str], kind: str) -> Strip:
    reached, index, name = place
    sample, labels = validation[index], predictor.labels
    prediction = predictor(sample.image).prediction
    image, truth = seen(sample.image), sample.semantic
    words = f"{name}: mean IU {with_sign(percent(reached))}. Truth: {_held(truth, labels)}. "
    words += f"Prediction: {_held(prediction, labels)}."
    views = {
        "image": image,
        "truth": over_gray(image, truth, labels),
        "prediction": over_gray(image, prediction, labels),
    }
    shown = tuple(Figure(view(p, _WIDTH), title, f"{title} of {name}") for title, p in views.items())
    return Strip(shown, f"{kind}: {words}")


def _held(values: NDArray[np.integer], labels: LabelSpace) -> str:
    """The names of the classes in a label, the largest first, in so many words."""
    counts = np.bincount(values[values != labels.ignore_index], minlength=len(labels))
    found = [labels.names[i] for i in np.argsort(-counts, kind="stable") if counts[i]]
    rest = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return ", ".join(found[:6]) + rest if found else "void only"
