"""The model that a verb is given: a checkpoint, or an exported file, for which no torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.deployed import Exported
    from fullconv.inference import Predictor


def load_model(path: Path, precision: str = "fp32") -> Predictor | Exported:
    """What is in the file: told by its suffix before anything is imported."""
    from fullconv.deployed import SUFFIXES, load_exported

    if path.suffix in SUFFIXES:
        return load_exported(path, precision)
    try:
        from fullconv.inference import load
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        raise UsageError(
            f"{shown(path)}: a checkpoint needs torch, which is not installed; pip install torch, or give what "
            "fullconv export wrote"
        ) from None

    return load(path, precision)
