"""What a net says of an image: scores, classes, and the picture of them. No torch is needed here, so that an exported
net is read like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Image, photograph
from fullconv.inference import uncertainty
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.io import image as images
from fullconv.labels import LabelSpace


@dataclass(frozen=True)
class Segmentation:
    """What a net says of one image.

    image: (H, W, 3) uint8 RGB. scores: at the net's own stride. geometric: what its second head says, of a net with
    two (SIFT Flow).
    """

    image: NDArray[np.uint8]
    scores: CoarseScores
    labels: LabelSpace
    geometric: Segmentation | None = None

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """(K, H, W) float32: the score of each class at each pixel. Made when it is first asked for."""
        return self.scores.logits()

    @cached_property
    def prediction(self) -> NDArray[np.uint8]:
        """(H, W) uint8: the class of the highest score at each pixel."""
        return self.scores.prediction()

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """(H, W) float32: the probability of the predicted class at each pixel."""
        return uncertainty.probability(self.scores)

    @cached_property
    def entropy(self) -> NDArray[np.float32]:
        """(H, W) float32, 0 to 1: the entropy of the probabilities at each pixel, over that of K equal ones."""
        return uncertainty.entropy(self.scores)

    def overlay(self, alpha: float = 0.5) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: the image with the classes' colours laid over it; class ``background`` stays clear."""
        return images.overlay(self.image, self.prediction, self.labels, alpha)


def segmented(image: Image, found: Mapping[str, CoarseScores], tasks: Mapping[str, LabelSpace]) -> Segmentation:
    """What a net with these tasks says of an image that it was given, from its scores by task."""
    seen = photograph(image)
    second = tasks.get("geometric") if "geometric" in found else None
    geometric = Segmentation(seen, found["geometric"], second) if second else None
    return Segmentation(seen, found["semantic"], tasks["semantic"], geometric)


__all__ = ["CoarseScores", "Segmentation", "segmented"]
