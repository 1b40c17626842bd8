"""Labels from coarse scores are those of the full scores; a part of the scores is the part of the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scores import coarse, full

import fullconv
from fullconv.config import ModelConfig
from fullconv.geometry import Window
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.predictor import run


def off_ties(logits):
    """Where the best score is the best by more than rounding."""
    if len(logits) == 1:
        return np.ones(logits.shape[1:], bool)
    top = np.sort(logits, 0)[-2:]
    return top[1] - top[0] > 1e-5


@settings(max_examples=300, deadline=None)
@given(coarse())
def test_labels_are_those_of_the_full_scores(scores):
    whole = full(scores)
    assert np.abs(scores.logits() - whole).max() <= 1e-5
    sure = off_ties(whole)
    assert (scores.prediction() == whole.argmax(0))[sure].all()


@settings(max_examples=200, deadline=None)
@given(coarse(), st.data())
def test_a_part_is_the_part_of_the_whole(scores, data):
    bounds = []
    for pixels in scores.size:
        begin = data.draw(st.integers(0, pixels - 1))
        bounds.append(slice(begin, data.draw(st.integers(begin + 1, pixels))))
    part = scores.part(*bounds)
    assert np.abs(part.logits() - scores.logits()[:, bounds[0], bounds[1]]).max() <= 1e-5
    sure = off_ties(full(scores))[bounds[0], bounds[1]]
    assert (part.prediction() == scores.prediction()[bounds[0], bounds[1]])[sure].all()
    cells = [(b.stop - b.start) // scores.window.stride + 3 for b in bounds]
    assert all(has <= most for has, most in zip(part.scores.shape[1:], cells, strict=True))


def test_the_class_at_coarse_cells_repeated_is_not_it():
    """What the method must beat: the labels of the cells, blown up."""
    scores = CoarseScores(np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32),
                          Window(16, 8, transposed=True), (4, 4), (64, 64))  # fmt: skip
    crude = np.repeat(np.repeat(scores.scores.argmax(0), 8, 0), 8, 1)
    assert (crude != scores.prediction()).mean() > 0.1


def test_equal_scores_give_the_first_class():
    scores = CoarseScores(np.zeros((3, 2, 2), np.float32), Window(4, 2, transposed=True), (0, 0), (6, 6))
    assert not scores.prediction().any() and not scores.logits().argmax(0).any()


def test_more_than_256_classes_keep_their_numbers():
    scores = np.zeros((300, 2, 2), np.float32)
    scores[299] = 1
    found = CoarseScores(scores, Window(4, 2, transposed=True), (1, 1), (4, 4)).prediction()
    assert found.dtype == np.int32 and (found == 299).all()


@pytest.mark.parametrize("upsample", ["fixed", "learn-intermediate", "learn-all"])
@pytest.mark.parametrize(
    ("backbone", "padding", "stride"),
    [("vgg11", "paper", 8), ("lenet", "tight", 2), pytest.param("alexnet", "paper", 32, marks=pytest.mark.slow)],
)
def test_those_of_a_net_are_its_logits(backbone, padding, stride, upsample):
    torch.manual_seed(0)
    width = 1 / 32 if backbone == "vgg11" else 1.0
    net = fullconv.build(ModelConfig(backbone, stride=stride, num_classes=4, width=width, padding=padding,
                                     upsample=upsample)).eval()  # fmt: skip
    for name, parameter in net.named_parameters():
        if name.startswith("score"):
            torch.nn.init.normal_(parameter)
    for size in ((33, 50), (1, 3)):
        x = torch.randn(1, net.config.channels, *size)
        with torch.inference_mode():
            logits, scores = net(x)[0].numpy(), run(net, x)["semantic"]
        assert np.abs(scores.logits() - logits).max() <= 1e-5 * max(1.0, np.abs(logits).max())
        assert (scores.prediction() == logits.argmax(0))[off_ties(logits)].all()
