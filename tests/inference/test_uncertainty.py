"""Probability and entropy are those of the full scores, made from the coarse ones block by block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.support.scores import coarse

from fullconv.inference import uncertainty
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.segmentation import Segmentation
from fullconv.labels import LabelSpace


def of_torch(logits):
    """Probability of the best class and entropy over log K, in double precision."""
    p = torch.softmax(torch.from_numpy(logits).double(), 0)
    bits = torch.special.entr(p).sum(0) / np.log(len(logits)) if len(logits) > 1 else torch.zeros(p.shape[1:])
    return p.amax(0).numpy(), bits.numpy()


@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize("budget", [64, 1 << 20], ids=["many blocks", "one block"])
def test_both_are_those_of_the_full_scores(monkeypatch, budget, scale):
    monkeypatch.setattr(uncertainty, "BUDGET", budget)

    @settings(max_examples=100)
    @given(coarse())
    def law(scores):
        scores = CoarseScores(scores.scores * np.float32(scale), scores.window, scores.offset, scores.size)
        found = Segmentation(
            np.zeros((*scores.size, 3), np.uint8), scores, LabelSpace.of(list("abcdef"[: scores.classes]))
        )
        probability, entropy = of_torch(scores.logits())
        assert found.probability.dtype == found.entropy.dtype == np.float32
        assert np.abs(found.probability - probability).max() <= 1e-6
        assert np.abs(found.entropy - entropy).max() <= 1e-6
        assert 1 / scores.classes - 1e-6 <= found.probability.min() and found.probability.max() <= 1
        assert found.entropy.min() >= 0 and found.entropy.max() <= 1

    law()


def test_the_probability_of_the_cells_repeated_is_not_it():
    """What the method must beat: the coarse probabilities, blown up."""
    from fullconv.geometry import Window

    scores = CoarseScores(np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32),
                          Window(16, 8, transposed=True), (4, 4), (64, 64))  # fmt: skip
    crude = np.repeat(np.repeat(of_torch(scores.scores)[0], 8, 0), 8, 1)
    assert np.abs(crude - uncertainty.probability(scores)).max() > 0.05


def test_the_softmax_of_a_logarithm_is_the_probability():
    p = np.random.default_rng(0).dirichlet(np.ones(7), (5, 4)).transpose(2, 0, 1).astype(np.float32)
    assert np.abs(uncertainty.softmax(np.log(p)) - p).max() <= 1e-6


def test_no_block_has_more_numbers_than_the_budget(monkeypatch):
    most = 0
    real = CoarseScores.part

    def part(self, *where):
        nonlocal most
        found = real(self, *where)
        most = max(most, found.size[0] * found.size[1] * found.classes)
        return found

    monkeypatch.setattr(CoarseScores, "part", part)
    from fullconv.geometry import Window

    scores = CoarseScores(np.zeros((21, 130, 130), np.float32), Window(16, 8, transposed=True), (4, 4), (1024, 1024))
    assert (uncertainty.entropy(scores) == 1).all()
    assert 0 < most <= uncertainty.BUDGET
