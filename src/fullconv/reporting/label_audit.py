"""The label audit: regions where a net is sure and the label says otherwise. Places to look at: some are errors of the
label, some of the net.

An error of a label that is larger than the jitter of a border stands out so without a second net or a second
annotator. What is void never counts, and neither does what is near the border of a region: there nets and annotators
differ by some pixels and mean the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.data.dataset import SEMANTIC, Dataset, DatasetView, Image, Label, Sample
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.model import Model
from fullconv.labels import LabelSpace
from fullconv.reporting.pictures import Picture, seen
from fullconv.reporting.regions import components, inner, widened

BORDER = 3
"""Pixels from the border of a region that do not count: a region that has nothing else is not reported."""
SURE = 0.8
"""The least mean probability of a region."""
SHOWN = 8
OF_ONE_IMAGE = 2
"""At most so many regions of one image are shown: one bad label must not hide the others."""
TRAINING = 200
"""At most so many training images are looked at."""


class Box(NamedTuple):
    """Rows `top` to `bottom` - 1, columns `left` to `right` - 1."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Region:
    """Connected pixels that the label says are of class `said`, and the net says are of class `found`.

    probability: what the net gives its class, the mean over the region. pixels, box: without the outermost `BORDER`
    pixels. number: of the region in the map of its image.
    """

    said: int
    found: int
    probability: float
    pixels: int
    box: Box
    number: int = 0

    @property
    def weight(self) -> float:
        """What regions are ranked by: area times probability."""
        return self.pixels * self.probability


@dataclass(frozen=True)
class Suspect:
    """A region with the part of its image around it, cut out of all pictures alike.

    split, name: of the sample. image: (h, w, 3). truth, prediction: (h, w). mask: (h, w), the region with its border.
    """

    split: str
    name: str
    region: Region
    image: Picture
    truth: Label
    prediction: Label
    mask: NDArray[np.bool_]


def disagreements(logits: Tensor, label: Label, ignore_index: int = 255) -> tuple[list[Region], NDArray[np.int32]]:
    """The regions of one image where the net is sure and the label says otherwise, the weightiest first, and the map
    (H, W) of their numbers.

    logits: (K, H, W). label: (H, W), void where it is `ignore_index`.

    >>> scores = torch.zeros(2, 9, 9)
    >>> scores[1] = 5
    >>> regions, _ = disagreements(scores, np.zeros((9, 9), np.uint8))
    >>> [(region.said, region.found, region.pixels) for region in regions]
    [(0, 1, 81)]
    """
    prediction = logits.argmax(0).numpy()
    wrong = (label != ignore_index) & (label != prediction)
    codes = np.where(wrong, label.astype(np.int32) * len(logits) + prediction.astype(np.int32), np.int32(-1))
    numbers, count = components(inner(codes, BORDER))
    rows, columns = np.nonzero(numbers >= 0)
    if not count:
        return [], numbers
    which = numbers[rows, columns]
    sure = logits[:, torch.from_numpy(rows), torch.from_numpy(columns)].softmax(0).amax(0).double().numpy()
    pixels = np.bincount(which, minlength=count)
    mean = np.bincount(which, sure, minlength=count) / pixels
    code = np.empty(count, np.int64)
    code[which] = codes[rows, columns]
    low = np.full((count, 2), max(label.shape))
    high = np.zeros((count, 2), np.int64)
    np.minimum.at(low, which, np.stack([rows, columns], axis=1))
    np.maximum.at(high, which, np.stack([rows, columns], axis=1) + 1)
    regions = [
        Region(
            *divmod(int(code[i]), len(logits)),
            float(mean[i]),
            int(pixels[i]),
            Box(*low[i].tolist(), *high[i].tolist()),
            i,
        )
        for i in np.flatnonzero(mean >= SURE).tolist()
    ]
    return sorted(regions, key=lambda region: (-region.weight, region.box)), numbers


class Audit:
    """Looks at one image after the other and keeps the weightiest regions.

    images: how many were looked at, by split. regions: how many were found. top: the weightiest, the first first.
    """

    def __init__(self, labels: LabelSpace, most: int = SHOWN) -> None:
        self.labels, self.most = labels, most
        self.images: Counter[str] = Counter()
        self.regions = 0
        self.top: list[Suspect] = []

    def look(self, split: str, sample: Sample, logits: Tensor) -> None:
        """Look at one image. logits: (K, H, W), what the net says of it."""
        self.images[split] += 1
        found, numbers = disagreements(logits, sample.semantic, self.labels.ignore_index)
        self.regions += len(found)
        least = self.top[-1].region.weight if len(self.top) == self.most else -1.0
        weighty = [region for region in found[:OF_ONE_IMAGE] if region.weight > least]
        if weighty:
            prediction = logits.argmax(0).numpy().astype(sample.semantic.dtype)
            self.top += [_cut(split, sample, prediction, region, numbers) for region in weighty]
            self.top = sorted(self.top, key=lambda suspect: -suspect.region.weight)[: self.most]


def look_at_training(
    audit: Audit,
    predictor: Model,
    dataset: Dataset,
    most: int = TRAINING,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Let the net look at training images too, at most so many, drawn with `seed`: labels that it was taught and yet
    does not believe. progress: called with (images done, images in all).
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:most]).tolist()
    for done, index in enumerate(drawn, start=1):
        sample = dataset[index]
        audit.look("train", sample, torch.from_numpy(predictor.coarse(sample.image)[SEMANTIC].logits()))
        if progress is not None:
            progress(done, len(drawn))


class Overheard(Model):
    """A model that keeps the scores it returned last: the counts and the audit of the labels share one pass."""

    def __init__(self, inner: Model) -> None:
        self.inner, self.header = inner, inner.header
        self.said: Mapping[str, CoarseScores] = {}

    def coarse(self, image: Image) -> dict[str, CoarseScores]:
        """Return the scores of the model inside and keep them."""
        self.said = found = self.inner.coarse(image)
        return found


class Passing(DatasetView):
    """A dataset that keeps the sample it returned last."""

    last: Sample | None = None

    def sample(self, index: int) -> Sample:
        """Return a sample and keep it."""
        self.last = self.dataset[index]
        return self.last


def _cut(split: str, sample: Sample, prediction: Label, region: Region, numbers: NDArray[np.int32]) -> Suspect:
    """The part of the image around a region: as much again on each side, or a third of the image if that is more."""
    spans = []
    for low, high, length in zip(region.box[:2], region.box[2:], prediction.shape, strict=True):
        size = min(length, max(3 * (high - low), length // 3, high - low + 4 * BORDER))
        start = min(max(0, (low + high - size) // 2), length - size)
        spans.append(slice(start, start + size))
    part = tuple(spans)
    mask = widened(numbers[part] == region.number, BORDER)
    image, truth = seen(sample.image)[part].copy(), sample.semantic[part].copy()
    return Suspect(split, sample.name, region, image, truth, prediction[part].copy(), mask)
