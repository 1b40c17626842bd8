"""Evaluate a model on a split in one call: the scores of each head, and those near borders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.data.dataset import Dataset, adapt
from fullconv.datasets.folder.classes_file import MaskOptions
from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.distributed import ALONE, ProcessGroup
from fullconv.evaluation.evaluate import evaluate_tasks
from fullconv.evaluation.trimap import trimap_scores
from fullconv.inference.model import Model
from fullconv.inference.request import PredictRequest, load_model
from fullconv.labels import LabelSpace
from fullconv.metrics import Scores

Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a split.

    tasks: by task, ``semantic`` first. trimap: over the pixels within each width of a border. labels: by task.
    """

    tasks: Mapping[str, Scores]
    trimap: Mapping[int, Scores]
    labels: Mapping[str, LabelSpace]
    split: str
    images: int
    engine: str
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values: those of the first task, and others by name."""
        (first, semantic), *others = self.tasks.items()
        names = self.labels[first].names
        near = {width: scores.to_dict(names) for width, scores in self.trimap.items()}
        return {
            "split": self.split, "images": self.images, "engine": self.engine, "precision": self.precision,
            **semantic.to_dict(names),
            **{task: scores.to_dict(self.labels[task].names) for task, scores in others},
            **({"trimap": near} if near else {}),
        }  # fmt: skip


def evaluate_model(
    model: str | Path | Model,
    data: str | Path | Dataset,
    split: str | None = None,
    *,
    masks: MaskOptions | None = None,
    trimap: Sequence[int] = (),
    precision: str = "fp32",
    engine: str | None = None,
    processes: ProcessGroup = ALONE,
    progress: Progress | None = None,
    log: Callable[[str], Any] = lambda line: None,
) -> Evaluation:
    """Return the scores of a model on a split.

    Args:
        model: The path of a checkpoint or of an exported file, or a loaded model.
        data: A folder, ``NAME:DIR``, ``digits``, or a dataset.
        split: Its split (default: ``val``, or the dataset's own for validation).
        masks: How the masks of a folder are read.
        trimap: Widths in pixels: also score the pixels near borders alone, in the first process.
        precision: ``fp32``, ``bf16`` or ``auto``.
        engine: ``torch`` (the default for a checkpoint) or as for `fullconv.predict`.
        processes: The processes that share the work.
        progress: Called with what is done, the number of images done, and of all.
        log: Called with the choice of an engine.

    Raises:
        UsageError: Model or data cannot be read, or have different classes.

    """
    split = split or (default_splits(str(data))[1] if isinstance(data, str | Path) else None) or "val"
    dataset = open_dataset(data, split, masks) if isinstance(data, str | Path) else adapt(data)
    # Each of several processes would choose an engine of its own by a trial.
    images = len(dataset) if processes.size == 1 else 1
    request = PredictRequest(Path(model) if isinstance(model, str | Path) else model, engine, precision, images)
    predictor = load_model(request, lambda _: dataset[0].image, log)

    def report(what: str) -> Callable[[int, int], Any] | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    tasks = evaluate_tasks(predictor, dataset, report(f"evaluating {split}"), processes)
    near: Mapping[int, Scores] = {}
    if trimap and processes.first:
        near = trimap_scores(predictor, dataset, trimap, report("evaluating near borders"))
    suffix = request.model.suffix[1:] if isinstance(request.model, Path) else "eager"
    return Evaluation(
        tasks, near, predictor.header.tasks, split, len(dataset),
        getattr(predictor, "engine", suffix), getattr(predictor, "precision", precision),
    )  # fmt: skip
