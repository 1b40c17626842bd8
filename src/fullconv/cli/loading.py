"""The model that a verb is given, ready to predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fullconv.segmentation.augmented import Model


def load_model(path: Path, precision: str = "fp32") -> Model:
    """The model in a file. Raises `UsageError` naming the file when it is missing, damaged, or no trained FCN."""
    from fullconv.inference import load

    return load(path, precision)
