"""How sure a net is of each pixel: the probability of the class it names, and the entropy of the probabilities of all.

Probabilities are the softmax of the scores at full resolution, which are made block by block and never as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fullconv.inference.coarse_scores import BUDGET, CoarseScores

Floats = NDArray[np.float32]


def probability(scores: CoarseScores) -> Floats:
    """(H, W) float32: the probability of the predicted class at each pixel, 1 / K to 1.

    >>> probability(CoarseScores.of_logits(np.log(np.array([[[0.2]], [[0.8]]], np.float32)))).round(4).tolist()
    [[0.800000011920929]]
    """
    return _by_block(scores, lambda logits: 1 / _exponentials(logits)[0].sum(0))


def entropy(scores: CoarseScores) -> Floats:
    """(H, W) float32: the entropy of the probabilities at each pixel over that of K equal ones, from 0, sure, to 1,
    without an idea.

    >>> entropy(CoarseScores.of_logits(np.array([[[3.0, 40.0]], [[3.0, 0.0]]], np.float32))).round(6).tolist()
    [[1.0, 0.0]]
    """
    return _by_block(scores, _entropy)


def softmax(logits: Floats) -> Floats:
    """(K, ...) probabilities of scores (K, ...)."""
    found, _ = _exponentials(logits)
    found /= found.sum(0)
    return found


def _exponentials(logits: Floats) -> tuple[Floats, Floats]:
    """The exponentials of the scores less the highest, and the scores less the highest."""
    below = logits - logits.max(0)
    return np.exp(below), below


def _entropy(logits: Floats) -> Floats:
    found, below = _exponentials(logits)
    total = found.sum(0)
    found *= below  # e^x x; where a score is far below, 0
    nats = np.log(total) - found.sum(0) / total
    return np.clip(nats / np.log(max(2, len(logits))), 0, 1).astype(np.float32)


def _by_block(scores: CoarseScores, of: Callable[[Floats], Floats]) -> Floats:
    """A function of the scores (K, rows, columns) of each block of the image, put together."""
    height, width = scores.size
    found = np.empty((height, width), np.float32)
    side = max(scores.window.stride, int((BUDGET / scores.classes) ** 0.5))
    for top in range(0, height, side):
        for left in range(0, width, side):
            here = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            found[here] = of(scores.part(*here).logits())
    return found
