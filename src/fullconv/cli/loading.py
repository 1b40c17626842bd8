"""The model that a verb is given, ready to predict: a checkpoint in the engine that is asked for, or an exported file,
for which no torch is imported; and what goes around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fullconv.cli.tiling import Large
from fullconv.errors import UsageError, shown
from fullconv.inference.large_image.tiling_options import TilingOptions

if TYPE_CHECKING:
    from fullconv.inference.exported import ExportedPredictor
    from fullconv.inference.model import Model
    from fullconv.inference.outputs import OutputWriter
    from fullconv.inference.pipeline import Clock
    from fullconv.inference.predictor import Predictor

Say = Callable[[str], Any]
Read = Callable[["Model"], Any]


@dataclass(frozen=True)
class PredictRequest:
    """What is asked for: the model, its engine and precision, for how many images; the passes whose mean is taken; what
    is done with large images.
    """

    model: Path
    engine: str = "auto"
    precision: str = "fp32"
    images: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    large: TilingOptions = TilingOptions()

    @property
    def augmented(self) -> bool:
        """Whether the mean of several passes is taken."""
        return self.flip or self.scales != (1.0,)


class LoadedModel(NamedTuple):
    """A model that is ready; the clock to which it tells what its time goes for, where it does; who predicts large
    images.
    """

    model: Model
    clock: Clock | None
    large: Large


def load_model(
    asked: PredictRequest, first: Read | None = None, say: Say = lambda line: None
) -> Predictor | ExportedPredictor:
    """What is in the file: told by its suffix before anything is imported.

    first: reads an image to try the engines with. say: is told which engine was picked.
    """
    from fullconv.inference.exported import SUFFIXES, load_exported

    if asked.model.suffix in SUFFIXES:
        if asked.engine != "auto":
            raise UsageError(f"--engine {asked.engine}: {shown(asked.model)} brings its own; leave it out")
        return load_exported(asked.model, "fp32" if asked.precision == "auto" else asked.precision)
    from fullconv.cli.engines import open_predictor

    try:
        return open_predictor(asked.model, asked.engine, asked.precision, asked.images, first, say)
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        raise UsageError(
            f"{shown(asked.model)}: a checkpoint needs torch, which is not installed; pip install torch, or give what "
            "fullconv export wrote"
        ) from None


def ready(
    asked: PredictRequest, outputs: OutputWriter, first: Read | None = None, say: Say = lambda line: None
) -> LoadedModel:
    """The model and what goes around it; `first` and `say` as for `load_model`."""
    from fullconv.inference.pipeline import Clock

    model = load_model(asked, first, say)
    whole = next((flag for flag, used in (("--flip", asked.flip), ("--scales", asked.augmented),
                                          ("--probability", outputs.probability), ("--entropy", outputs.entropy))
                  if used), None)  # fmt: skip
    large = Large(model, asked.large, outputs, whole, say)
    if not asked.augmented:
        return LoadedModel(model, None, large)
    from fullconv.inference.tta import Augmented

    clock = Clock()
    return LoadedModel(Augmented(model, asked.scales, asked.flip, clock), clock, large)
