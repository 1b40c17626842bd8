"""What every model has in common: a checkpoint's `Predictor`, an exported file, the mean of several passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fullconv.config import InputConvention
from fullconv.data.dataset import Image
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.preprocess import as_input, read_input
from fullconv.inference.segmentation import Segmentation, segmented
from fullconv.labels import LabelSpace


class ModelFacts(Protocol):
    """What a model needs to be fed and read: the header of a checkpoint, the metadata of an exported file."""

    @property
    def labels(self) -> LabelSpace:
        """The semantic classes."""

    @property
    def input(self) -> InputConvention:
        """How pixels become the input of the net."""

    @property
    def tasks(self) -> Mapping[str, LabelSpace]:
        """The classes of each head, by its task."""


class Model(Protocol):
    """A net together with what it needs to be fed and read; a class that inherits from it has `header` and `coarse`."""

    header: ModelFacts

    @property
    def labels(self) -> LabelSpace:
        """The classes of the net."""
        return self.header.labels

    def read(self, path: str | Path, stream: BinaryIO | None = None) -> Image:
        """Return the image in a file as this net takes it; `stream` is the file, if it is open already."""
        return read_input(path, self.header.input, stream)

    def coarse(self, image: Image) -> dict[str, CoarseScores]:
        """Return the scores of an image by task, at the net's own stride."""

    def __call__(self, image: Any) -> Segmentation:
        """Segment an image.

        Args:
            image: A path, the bytes of an image file, a PIL image, or an array or tensor, (H, W, C) or (C, H, W): uint8
                RGB, or what `coarse` takes.

        Raises:
            UsageError: It is something else, or cannot be read.
        """
        pixels = as_input(image, self.header.input)
        return segmented(pixels, self.coarse(pixels), self.header.tasks)
