"""What a confusion matrix costs: this package's beside the formulation of torchmetrics.

    python benchmarks/confusion.py

torchmetrics itself runs where it is installed (with ``validate_args=False``, which spares it two sorts). Elsewhere its
multiclass path stands in, written out from its source (``functional/classification/confusion_matrix.py``: void masked
out, ``target * classes + preds``, ``torch.bincount``); the result says which it was. Both count what they are given in
practice: the maps of 8 bits as masks hold them for one, tensors of int64 for the other; and int64 for both.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.bench.medians import medians, seconds
from fullconv.errors import RunError
from fullconv.hardware import machine
from fullconv.metrics import confusion_matrix

CASES = ((375, 500, 21), (1024, 2048, 19))
"""Height, width and classes: PASCAL VOC and Cityscapes."""

VOID = 255
_CELL = 25  # pixels of a side of what has one class


def restated(preds: Tensor, target: Tensor, classes: int) -> Tensor:
    """The confusion matrix (classes, classes) as torchmetrics computes it for labels with an ``ignore_index``."""
    preds, target = preds.flatten(), target.flatten()
    kept = target != VOID
    preds, target = preds[kept], target[kept]
    pairs = target.to(torch.long) * classes + preds.to(torch.long)
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def theirs() -> tuple[str, Callable[[Tensor, Tensor, int], Tensor]]:
    """The function of torchmetrics and its name, or `restated` where it is not installed."""
    if importlib.util.find_spec("torchmetrics") is None:
        return "torchmetrics' formulation, restated", restated
    module = importlib.import_module("torchmetrics.functional.classification")

    def matrix(preds: Tensor, target: Tensor, classes: int) -> Tensor:
        found: Tensor = module.multiclass_confusion_matrix(
            preds, target, classes, ignore_index=VOID, validate_args=False
        )
        return found

    return f"torchmetrics {importlib.import_module('torchmetrics').__version__}", matrix


def scene(height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a label (height, width) uint8 in patches, 5 % of it void and about a third of it wrong."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, classes, (height // _CELL + 1, width // _CELL + 1), dtype=np.uint8)
    truth = cells.repeat(_CELL, 0).repeat(_CELL, 1)[:height, :width]
    prediction = np.ascontiguousarray(np.roll(truth, _CELL // 3, 1))
    return prediction, np.where(rng.random(truth.shape) < 0.05, np.uint8(VOID), truth)


def measure(rounds: int = 5, cases: tuple[tuple[int, int, int], ...] = CASES) -> dict[str, Any]:
    """Median milliseconds of one matrix for each case, height x width with so many classes, by turns.

    Raises `RunError` when the ways do not count the same.
    """
    name, other = theirs()
    rows = []
    for height, width, classes in cases:
        prediction, label = scene(height, width, classes)
        wide = prediction.astype(np.int64), label.astype(np.int64)
        tensors = torch.from_numpy(wide[0]), torch.from_numpy(wide[1])
        ways: dict[str, Callable[[], Any]] = {
            "fullconv, uint8": partial(confusion_matrix, prediction, label, classes, VOID),
            "fullconv, int64": partial(confusion_matrix, *wide, classes, VOID),
            name: partial(other, *tensors, classes),
        }
        found = [np.asarray(way()) for way in ways.values()]
        if not all((matrix == found[0]).all() for matrix in found):
            raise RunError(f"confusion: {height}x{width}: fullconv and {name} count differently; report it")
        taken = medians({way: partial(seconds, run) for way, run in ways.items()}, rounds)
        rows += [
            {"size": [height, width], "classes": classes, "way": way, "ms": round(1000 * taken[way], 3),
             "ratio_to_other": round(taken[way] / taken[name], 3)}
            for way in ways
        ]  # fmt: skip
    return {"other": name, "rounds": rounds, "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each way (default: 5)")
    print(json.dumps({**measure(parser.parse_args().rounds), "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
