"""Fully convolutional networks for semantic segmentation (Long, Shelhamer, Darrell 2015).

Names are imported when they are first used, so ``import fullconv`` needs no torch and takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "config",
    "TrainConfig": "config",
    "InputConvention": "config",
    "LabelSpace": "labels",
    "AxisMap": "geometry",
    "Window": "geometry",
    "FullconvError": "errors",
    "Sample": "data.dataset",
    "adapt": "data.dataset",
    "open_dataset": "datasets.open_dataset",
    "build": "models.build",
    "convolutionalize": "models.convolutionalize",
    "walk": "models.trace",
    "rarefy": "models.dense_scores",
    "shift_and_stitch": "models.dense_scores",
    "FCN": "models.fcn",
    "confusion_matrix": "metrics",
    "scores": "metrics",
    "Scores": "metrics",
    "fit": "training.loop",
    "evaluate": "evaluation.evaluate",
    "compile": "optimize.autotune",
    "load": "inference.predictor",
    "Predictor": "inference.predictor",
    "Segmentation": "inference.segmentation",
}
"""Every public name and the module that it lives in."""

if TYPE_CHECKING:
    from fullconv.config import InputConvention, ModelConfig, TrainConfig
    from fullconv.data.dataset import Sample, adapt
    from fullconv.datasets.open_dataset import open_dataset
    from fullconv.errors import FullconvError
    from fullconv.evaluation.evaluate import evaluate
    from fullconv.geometry import AxisMap, Window
    from fullconv.inference.predictor import Predictor, load
    from fullconv.inference.segmentation import Segmentation
    from fullconv.labels import LabelSpace
    from fullconv.metrics import Scores, confusion_matrix, scores
    from fullconv.models.build import build
    from fullconv.models.convolutionalize import convolutionalize
    from fullconv.models.dense_scores import rarefy, shift_and_stitch
    from fullconv.models.fcn import FCN
    from fullconv.models.trace import walk
    from fullconv.optimize.autotune import compile
    from fullconv.training.loop import fit


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fullconv' has no attribute '{name}'")
    return getattr(import_module(f"fullconv.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]


__all__ = [
    "FCN", "AxisMap", "FullconvError", "InputConvention", "LabelSpace", "ModelConfig", "Predictor", "Sample", "Scores",
    "Segmentation", "TrainConfig", "Window", "adapt", "build", "compile", "confusion_matrix", "convolutionalize",
    "evaluate", "fit", "load", "open_dataset", "rarefy", "scores", "shift_and_stitch", "walk",
]  # fmt: skip
