"""The four numbers of the paper, from one confusion matrix (section 5).

Counts are integers until the last line, so the matrix of a split is the exact sum of those of its images, in any
order, over any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError

Counts = NDArray[np.int64]

_BYTE = 256
_FEW = 1 << 16  # from so many pixels on it pays to count all pairs of bytes
_CHUNK = 1 << 19  # pixels that are counted at once: 6 MB beside the picture


def confusion_matrix(prediction: Any, label: Any, num_classes: int, ignore_index: int = 255) -> Counts:
    """n_ij, the number of pixels of class i that were predicted as class j: (num_classes, num_classes) int64, rows
    are truth.

    prediction, label: arrays or tensors of whole numbers, of one shape. Pixels whose label is `ignore_index` are left
    out, whatever was predicted there; any other value outside the classes is an error, in either array.

    >>> confusion_matrix(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 255]), 2)
    array([[1, 1],
           [0, 1]])
    """
    prediction, label = _whole_numbers(prediction, "prediction"), _whole_numbers(label, "label")
    if prediction.shape != label.shape:
        raise UsageError(
            f"metrics: the prediction is {prediction.shape} and the label {label.shape}; they must have one shape"
        )
    if label.size >= _FEW and num_classes <= _BYTE:
        truths, guesses = _narrow(label), _narrow(prediction)
        if truths is not None and guesses is not None:
            pairs = _pairs(truths, guesses)
            if 0 <= ignore_index < _BYTE:
                pairs[ignore_index] = 0
            counts = pairs[:num_classes, :num_classes].copy()
            if counts.sum() == pairs.sum():
                return counts  # else something is outside the classes, and what follows says what
    valid = label != ignore_index
    truth, guess = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for name, values in (("label", truth), ("prediction", guess)):
        if values.size and not (values.min() >= 0 and values.max() < num_classes):
            wrong = values[(values < 0) | (values >= num_classes)][0]
            raise UsageError(
                f"metrics: the {name} holds {wrong}, outside the {num_classes} classes; check the label space"
            )
    return (
        np.bincount(truth * num_classes + guess, minlength=num_classes**2)
        .reshape(num_classes, num_classes)
        .astype(np.int64)
    )


def _whole_numbers(given: Any, name: str) -> NDArray[np.integer]:
    """Return an array, tensor or list of whole numbers as an array."""
    array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    if array.dtype.kind not in "biu":
        raise UsageError(f"metrics: the {name} is a {type(given).__name__} of {array.dtype}; give class indices")
    return array


def _narrow(values: NDArray[np.integer]) -> NDArray[np.uint8] | None:
    """The values as one row of bytes, or None where they are no such."""
    flat, most = np.ravel(values), _BYTE
    if flat.dtype.kind == "i":  # a negative number is a large one without its sign
        most = min(_BYTE, np.iinfo(flat.dtype).max + 1)
        flat = flat.view(flat.dtype.str.replace("i", "u"))
    if flat.dtype.kind not in "bu" or ((flat.dtype.itemsize, most) != (1, _BYTE) and flat.max(initial=0) >= most):
        return None
    return flat.astype(np.uint8, copy=False)


def _pairs(truth: NDArray[np.uint8], guess: NDArray[np.uint8]) -> Counts:
    """How often each pair of bytes occurs: (256, 256), rows are truth. Void is counted too: it is left out of this
    table, which is smaller than the picture.
    """
    found = np.zeros(0, np.int64)
    for start in range(0, truth.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        keys = np.left_shift(truth[part], 8, dtype=np.uint16)
        keys |= guess[part]
        counts = np.bincount(keys, minlength=_BYTE * _BYTE)
        found = found + counts if found.size else counts
    return found.reshape(_BYTE, _BYTE)


@dataclass(frozen=True)
class Scores:
    """The four numbers, as fractions of 1, and what they were averaged over.

    pixel_accuracy: sum n_ii / sum t_i. mean_accuracy: mean of n_ii / t_i. mean_iu: mean of n_ii / (t_i + sum_j n_ji
    - n_ii).
    frequency_weighted_iu: the same weighted by t_i. t_i is the number of pixels of class i.
    iu, accuracy: per class; None for a class that neither labels nor predictions hold (for accuracy, and where only
    present classes count: that no label holds). None stands for a number that has nothing to be computed from.
    averaged: how many classes the mean IU is over.
    """

    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_iu: float | None
    frequency_weighted_iu: float | None
    iu: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    pixels: tuple[int, ...]
    averaged: int

    def to_dict(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Plain values for JSON; per class under its name where names are given."""
        rows = [
            {"iu": i, "accuracy": a, "pixels": p} for i, a, p in zip(self.iu, self.accuracy, self.pixels, strict=True)
        ]
        return {
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "mean_iu": self.mean_iu,
            "frequency_weighted_iu": self.frequency_weighted_iu,
            "classes_averaged": self.averaged,
            "classes": {(names[i] if names else str(i)): row for i, row in enumerate(rows)},
        }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def scores(confusion: Counts, present_only: bool = False) -> Scores:
    """The four numbers of a confusion matrix. A class absent from truth and prediction is left out of the means, as
    in the authors' ``score.py``; one that is absent from the truth but predicted counts with IU 0.

    present_only: leave that one out too, and average over the classes that the truth holds. So it must be for SIFT
    Flow, whose test split lacks three of its classes (the second version of the paper; ``score.py`` does not do it).

    >>> s = scores(np.array([[3, 1], [1, 3]]))
    >>> s.pixel_accuracy, s.mean_iu, s.averaged
    (0.75, 0.6, 2)
    """
    hit = [int(n) for n in np.diag(confusion)]
    truth = [int(n) for n in confusion.sum(1)]
    guess = [int(n) for n in confusion.sum(0)]
    iu = [_ratio(h, t + g - h) if t or not present_only else None for h, t, g in zip(hit, truth, guess, strict=True)]
    accuracy = [_ratio(h, t) for h, t in zip(hit, truth, strict=True)]
    total = sum(truth)
    weighted = [t * i for t, i in zip(truth, iu, strict=True) if i is not None]
    return Scores(
        pixel_accuracy=_ratio(sum(hit), total),
        mean_accuracy=_mean(accuracy),
        mean_iu=_mean(iu) if total else None,
        frequency_weighted_iu=sum(weighted) / total if total else None,
        iu=tuple(iu),
        accuracy=tuple(accuracy),
        pixels=tuple(truth),
        averaged=sum(i is not None for i in iu),
    )
