"""Fully convolutional networks for semantic segmentation (Long, Shelhamer, Darrell 2015).

Names are imported when they are first used, so ``import fullconv`` needs no torch and takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
    "predict": "inference.predict",
    "train": "reporting.train_and_report",
    "check": "checking.check_dataset:check_dataset",
    "convert": "weights.convert:convert_source",
    "export": "exporting.export",
    "verify": "weights.checkpoint",
    "compile": "optimize.autotune",
    "load": "inference.predictor",
    "Predictor": "inference.predictor",
    "Segmentation": "inference.segmentation",
}
"""Every public name and its module; after a colon its name there, if that is another."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fullconv' has no attribute '{name}'")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f"fullconv.{module}"), attribute or name)


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]


__all__ = list(_HOME)
