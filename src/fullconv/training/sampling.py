"""Which pixels, images and classes count how much: loss sampling (section 3.4 of the paper) and class balancing (4.3).

Everything drawn here is a function of (seed, step, slot), as everywhere in training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.data.dataset import SEMANTIC, Dataset, Sample, Subset
from fullconv.data.transforms import Fill, Transform, window
from fullconv.datasets.folder.folder_dataset import Folder
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace

_KEEP = 3  # beside the streams of random numbers of `fullconv.data.loader`

COUNTED = 500
"""The number of samples whose labels are counted for weights and balance, at most; spread evenly over the split."""


def sampled(label: Tensor, cell: int, keep: float, seed: int, batch: int, ignore_index: int = 255) -> Tensor:
    """A label (N, H, W) of which each cell of `cell` by `cell` pixels is kept with probability `keep`, else void.

    The loss of a net of stride `cell` is then over a random part of its final cells, each of which stands for one patch
    of patchwise training. `batch` is the number of the batch in the run.

    >>> label = torch.zeros(1, 4, 6, dtype=torch.long)
    >>> sampled(label, 2, 0.5, seed=0, batch=0)[0].tolist()[::2]
    [[255, 255, 255, 255, 0, 0], [0, 0, 0, 0, 255, 255]]
    """
    number, height, width = label.shape
    rng = np.random.default_rng([seed, _KEEP, batch])
    kept = rng.random((number, -(-height // cell), -(-width // cell))) < keep
    pixels = torch.from_numpy(kept).repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :height, :width]
    return torch.where(pixels.to(label.device), label, ignore_index)


def random_shift(stride: int, fill: Fill) -> Transform:
    """A shift down and right by 0 to stride - 1 pixels; what comes in is the mean colour, void. The cells of the net
    then look at every place of the image, over the epochs (section 3.4, footnote).
    """

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        down, right = (int(n) for n in rng.integers(0, stride, 2))
        return window(sample, -down, -right, (sample.image.shape[0], sample.image.shape[1]), fill)

    return transform


def class_weights(text: str, counts: NDArray[np.int64] | None, labels: LabelSpace) -> Tensor | None:
    """The weight of each class in the loss, (K,) float32; None for ``none``.

    counts: the pixels of each class in each sample (samples, K), or None for weights that do not need them.
    ``inverse``: 1 over the class's share of the pixels, scaled so that the mean over all pixels is 1. ``median``: the
    median of the frequencies over the class's, where the frequency of a class is its share of the pixels of the images
    that hold it (Eigen and Fergus 2015; `fullconv check` prints the same). A class that does not occur gets 1. Or K
    numbers.
    """
    if text == "none":
        return None
    counts = np.ones((1, len(labels)), np.int64) if counts is None else counts
    total = counts.sum(0)
    present = total > 0
    weights = np.ones(len(labels))
    if text == "inverse":
        weights[present] = total.sum() / (present.sum() * total[present])
    elif text == "median":
        frequency = total / np.maximum(1, ((counts > 0) * counts.sum(1, keepdims=True)).sum(0))
        weights[present] = np.median(frequency[present]) / frequency[present]
    else:
        try:
            weights = np.array([float(part) for part in text.split(",")])
        except ValueError:
            raise UsageError(f"class_weights '{text}': give none, inverse, median, or {len(labels)} numbers") from None
        if len(weights) != len(labels) or not np.isfinite(weights).all() or weights.min() < 0 or not weights.max() > 0:
            raise UsageError(f"class_weights '{text}': give {len(labels)} numbers, one for each class, none below 0")
    return torch.from_numpy(weights.astype(np.float32))


def pixel_counts(dataset: Dataset) -> NDArray[np.int64]:
    """The pixels of each class in each of (at most `COUNTED`) samples of a data set: (samples, K)."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), COUNTED)).round().astype(int))
    return np.stack([_class_pixels(dataset, int(index)) for index in chosen])


def _class_pixels(dataset: Dataset, index: int) -> NDArray[np.int64]:
    """Return the number of pixels of each class (K,) in one label."""
    if isinstance(dataset, Folder):
        return dataset.class_pixels(index)
    label, labels = dataset[index].tasks[SEMANTIC], dataset.labels
    valid = label[label != labels.ignore_index]
    return np.bincount(valid.ravel(), minlength=len(labels))[: len(labels)].astype(np.int64)


def balanced(dataset: Dataset, seed: int) -> Subset:
    """Return a view of a dataset that oversamples images with rare classes, for drawing with replacement.

    The probability of an image is the mean over its classes of 1 over the number of images that hold the class: every
    class then occurs about equally often. The view is as long as the dataset.
    """
    holds = np.stack([_class_pixels(dataset, i) > 0 for i in range(len(dataset))])
    rarity = holds / np.maximum(holds.sum(0), 1)
    chance = rarity.sum(1) / np.maximum(holds.sum(1), 1)
    chance = chance / chance.sum() if chance.sum() > 0 else np.full(len(chance), 1 / len(chance))
    edges = np.cumsum(chance)
    # Evenly spaced places on the line of chances: as many turns for each as its chance says, to within one.
    places = (np.arange(len(chance)) + np.random.default_rng([seed, _KEEP]).random()) / len(chance)
    return Subset(dataset, np.searchsorted(edges, np.minimum(places, edges[-1]), side="left"))


def together(transforms: Sequence[Transform]) -> Transform:
    """Transforms one after the other, as one."""

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        for change in transforms:
            sample = change(sample, rng)
        return sample

    return transform
