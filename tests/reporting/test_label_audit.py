"""The label audit finds what was planted, ranks it first, and says nothing where label and net agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strict_html import check

from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.data.dataset import Sample
from fullconv.datasets.published.label_spaces import DIGITS
from fullconv.datasets.synthetic.digits import Digits
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.predictor import Predictor
from fullconv.labels import LabelSpace
from fullconv.reporting.label_audit import (
    BORDER,
    OF_ONE_IMAGE,
    Audit,
    disagreements,
    look_at_training,
)
from fullconv.reporting.run_page import write_run_report
from fullconv.weights.checkpoint import Header

SIZE = (96, 128)


class Knows(Predictor):
    """Says of the images of a data set what their true labels say, so surely; and counts how often it is asked."""

    def __init__(self, truth: list[Sample], labels: LabelSpace = DIGITS, sure: float = 9.0) -> None:
        model = ModelConfig("lenet", 4, len(labels), width=0.1)
        super().__init__(torch.nn.Identity(), Header(model, labels, CONVENTIONS["torchvision"]))
        self.truth = {sample.image.tobytes(): sample.semantic for sample in truth}
        self.sure, self.asked = sure, 0

    def coarse(self, image):
        self.asked += 1
        label = torch.from_numpy(self.truth[image.tobytes()].astype(np.int64)) % 255  # void: said to be background
        scores = torch.nn.functional.one_hot(label, len(self.labels)).permute(2, 0, 1)
        return {"semantic": CoarseScores.of_logits((self.sure * scores.float()).numpy())}


class Samples:
    """A data set from a list."""

    def __init__(self, samples: list[Sample], labels: LabelSpace = DIGITS) -> None:
        self.samples, self.labels = samples, labels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    data = Digits("val", SIZE, length=6)
    return [data[i] for i in range(6)]


def corrupted(sample: Sample, box: tuple[slice, slice], value: int) -> Sample:
    label = sample.semantic.copy()
    label[box] = value
    return Sample(sample.image, label, sample.name)


def test_a_planted_error_stands_first_on_the_page(scenes: list[Sample], tmp_path: Path) -> None:
    """A large block of a wrong class, a small one, and borders that were drawn two pixels off."""
    shifted = [Sample(s.image, np.roll(s.semantic, 2, axis=1), s.name) for s in scenes]
    shifted[2] = corrupted(shifted[2], (slice(10, 22), slice(30, 42)), 4)
    shifted[4] = corrupted(shifted[4], (slice(20, 60), slice(50, 110)), 8)
    page = write_run_report(tmp_path, Knows(scenes), Samples(shifted)).read_text("utf-8")
    said = [text for text in check(page).texts if "the net says" in text]
    assert said[0].startswith(f"1. {scenes[4].name} (val): the label says 7, the net says background")
    assert [text for text in said if f"{scenes[2].name} (val): the label says 3, the net says" in text]
    assert "All 6 validation images were looked at." in page
    assert "some are errors of the label, and some are errors of the net" in page
    # The words before a colon name classes, of the label and of the net, above their pictures.
    assert {"label: 7", "net: background", "the region"} <= set(check(page).texts)


def test_true_labels_and_a_perfect_net_have_nothing_to_report(scenes: list[Sample], tmp_path: Path) -> None:
    page = write_run_report(tmp_path, Knows(scenes), Samples(scenes), training=Samples(scenes)).read_text("utf-8")
    texts = check(page).texts
    assert "No such region was found." in texts and not [text for text in texts if "the net says" in text]
    assert "All 6 validation images and all 6 training images were looked at." in page


def test_the_net_is_run_once_over_validation(scenes: list[Sample], tmp_path: Path) -> None:
    predictor = Knows(scenes)
    calls: list[tuple[int, int]] = []
    write_run_report(tmp_path, predictor, Samples(scenes), 0, Samples(scenes[:2]), lambda *done: calls.append(done))
    assert predictor.asked == 6 + 2
    assert calls == [(n, 8) for n in range(1, 9)]


def test_an_unsure_net_accuses_nobody(scenes: list[Sample]) -> None:
    wrong = corrupted(scenes[0], (slice(20, 60), slice(50, 110)), 8)
    for sure, found in ((9.0, True), (1.0, False)):  # of 11 classes: probabilities of 0.999 and 0.21
        audit = Audit(DIGITS)
        audit.look("val", wrong, Knows(scenes, sure=sure).outputs(wrong.image)["semantic"][0])
        assert bool(audit.top) == found


def test_training_images_are_drawn_by_a_seed_and_bounded(scenes: list[Sample]) -> None:
    wrong = Samples([corrupted(s, (slice(20, 60), slice(50, 110)), 8) for s in scenes])
    drawn = []
    for seed in (0, 0, 1, 2):
        audit, predictor = Audit(DIGITS, most=99), Knows(scenes)
        look_at_training(audit, predictor, wrong, most=3, seed=seed)
        assert predictor.asked == 3 and audit.images == {"train": 3}
        drawn.append({suspect.name for suspect in audit.top})
    assert drawn[0] == drawn[1] and len({frozenset(names) for names in drawn}) > 1
    assert all(len(names) == 3 for names in drawn)


def test_one_bad_label_does_not_hide_the_others() -> None:
    audit, label = Audit(LabelSpace.of(["a", "b"]), most=4), np.zeros((60, 60), np.uint8)
    scores = torch.zeros(2, 60, 60)
    scores[0] = 9.0
    for row in range(0, 60, 15):
        label[row : row + 12, :40] = 1
    image = np.zeros((60, 60, 3), np.uint8)
    audit.look("train", Sample(image, label, "bad"), scores)
    label = np.zeros_like(label)
    label[:9, :9] = 1
    audit.look("train", Sample(image, label, "other"), scores)
    assert audit.regions == 5
    assert [suspect.name for suspect in audit.top] == ["bad"] * OF_ONE_IMAGE + ["other"]


LABELS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@given(LABELS, st.integers(1, 40), st.integers(1, 40), st.integers(2, 4))
def test_void_and_borders_never_count(rng: np.random.Generator, height: int, width: int, classes: int) -> None:
    """Of any label and any net: the pixels of a region are not void, are wrong, and are far from anything else."""
    scale = int(rng.integers(1, 12))
    coarse = rng.choice([*range(classes), 255], size=(height, width)).astype(np.uint8)
    label = coarse.repeat(scale, 0).repeat(scale, 1)[:height, :width]
    small = torch.from_numpy(rng.normal(size=(1, classes, height // scale + 1, width // scale + 1)) * 20).float()
    scores = torch.nn.functional.interpolate(small, size=(height, width))[0]
    regions, numbers = disagreements(scores, label)
    said = scores.argmax(0).numpy()
    for region in regions:
        here = numbers == region.number
        assert here.sum() == region.pixels > 0
        rows, columns = np.nonzero(here)
        assert region.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        for row, column in np.argwhere(here)[:20]:
            near = (
                slice(max(0, row - BORDER), row + BORDER + 1),
                slice(max(0, column - BORDER), column + BORDER + 1),
            )
            assert (label[near] == region.said).all() and (said[near] == region.found).all()
        assert region.said != region.found and region.said != 255
        assert region.probability == pytest.approx(scores.softmax(0).amax(0)[torch.from_numpy(here)].mean().item())
    assert [r.weight for r in regions] == sorted((r.weight for r in regions), reverse=True)


def test_a_region_at_the_edge_of_a_large_image_is_cut_out_with_what_is_around_it() -> None:
    labels = LabelSpace.of(["a", "b"])
    label = np.zeros((300, 400), np.uint8)
    label[:20, 370:] = 1
    scores = torch.zeros(2, 300, 400)
    scores[0] = 9.0
    audit = Audit(labels)
    audit.look("val", Sample(np.zeros((300, 400, 3), np.uint8), label, "s"), scores)
    (suspect,) = audit.top
    assert suspect.region.pixels == 17 * 27 and suspect.region.box == (0, 373, 17, 400)
    assert suspect.mask.sum() == 20 * 30  # with its border again
    assert suspect.image.shape[:2] == suspect.truth.shape == suspect.prediction.shape == suspect.mask.shape
    assert suspect.truth.sum() == 600 and not suspect.prediction.any()
    assert suspect.mask.shape == (300 // 3, 400 // 3)
