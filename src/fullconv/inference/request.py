"""The model of a prediction, loaded: a checkpoint in the engine asked for, or an exported file without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fullconv.errors import UsageError, shown
from fullconv.inference.large_image.file_predictor import LargeFilePredictor
from fullconv.inference.large_image.tiling_options import TilingOptions
from fullconv.inference.pipeline import Clock

if TYPE_CHECKING:
    from fullconv.inference.model import Model
    from fullconv.inference.outputs import OutputWriter

Log = Callable[[str], Any]
Read = Callable[["Model"], Any]


@dataclass(frozen=True)
class PredictRequest:
    """What is asked for: the model with its engine and precision, and the number of images; the passes that are
    averaged; how large images are handled.

    model: a path, or a loaded model, which has its engine and precision. engine: None for ``torch``, or that of an
    exported file.
    """

    model: Path | Model
    engine: str | None = "auto"
    precision: str = "fp32"
    images: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    large: TilingOptions = TilingOptions()

    @property
    def augmented(self) -> bool:
        """Whether several passes are averaged."""
        return self.flip or self.scales != (1.0,)


class LoadedModel(NamedTuple):
    """A model that is ready to predict.

    clock: what the model itself measures its time with, if it does. large: predicts large files; None if nothing is
    written.
    """

    model: Model
    clock: Clock | None
    large: LargeFilePredictor | None


def load_model(request: PredictRequest, first: Read | None = None, log: Log = lambda line: None) -> Model:
    """Load a model; the suffix of its file says which kind it is, before anything is imported.

    first: reads an image to try the engines with. log: is called with the engine that was chosen.
    """
    from fullconv.inference.exported import SUFFIXES, load_exported

    path = request.model
    if not isinstance(path, Path):
        return path
    if path.suffix in SUFFIXES:
        if request.engine not in (None, "auto"):
            raise UsageError(f"--engine {request.engine}: {shown(path)} brings its own; leave it out")
        return load_exported(path, "fp32" if request.precision == "auto" else request.precision)
    try:
        from fullconv.inference.engine_choice import open_predictor

        return open_predictor(path, request.engine or "torch", request.precision, request.images, first, log)
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        raise UsageError(
            f"{shown(path)}: a checkpoint needs torch, which is not installed; pip install torch, or give what "
            "fullconv export wrote"
        ) from None


def load_with_passes(
    request: PredictRequest, outputs: OutputWriter | None, first: Read | None = None, log: Log = lambda line: None
) -> LoadedModel:
    """Load a model with the passes that are averaged, and with what predicts large files into `outputs`.

    first, log: as for `load_model`.
    """
    model = load_model(request, first, log)
    large = None
    if outputs is not None:
        needs_whole = {
            "--flip": request.flip, "--scales": request.augmented,
            "--probability": outputs.probability, "--entropy": outputs.entropy,
        }  # fmt: skip
        whole = next((flag for flag, used in needs_whole.items() if used), None)
        large = LargeFilePredictor(model, request.large, outputs, whole, log)
    if not request.augmented:
        return LoadedModel(model, None, large)
    from fullconv.inference.tta import Augmented

    clock = Clock()
    return LoadedModel(Augmented(model, request.scales, request.flip, clock), clock, large)
