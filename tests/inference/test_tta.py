"""The mean over mirror images and sizes: what it must be, whatever the net."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fullconv
from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.errors import UsageError
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.model import Model
from fullconv.inference.predictor import Predictor
from fullconv.inference.tta import Augmented
from fullconv.inference.uncertainty import softmax
from fullconv.labels import LabelSpace
from fullconv.weights.checkpoint import Header

LABELS = LabelSpace.of(["background", "a", "b"])


class Lopsided(Model):
    """A model of two heads whose scores depend on place and neighbours, not the same from left and from right."""

    header = Header(ModelConfig(), LABELS, CONVENTIONS["torchvision"], geometric=LABELS)

    def __init__(self):
        self.sizes = []

    def coarse(self, image):
        self.sizes.append(image.shape[:2])
        x = image.astype(np.float32)[:, :, :3].transpose(2, 0, 1) / 64
        x = x + np.roll(x, 1, 2) * 0.5 + np.linspace(0, 1, x.shape[2], dtype=np.float32)
        return {"semantic": CoarseScores.of_logits(x), "geometric": CoarseScores.of_logits(-x)}


images = st.builds(
    lambda h, w, seed: np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8),
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 99),
)  # fmt: skip


@given(images, st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 2.0]), min_size=1, max_size=3))
def test_of_a_mirrored_image_it_is_the_mirror(image, scales):
    tta = Augmented(Lopsided(), scales, flip=True)
    one, other = tta(image), tta(image[:, ::-1])
    assert np.abs(one.logits - other.logits[:, :, ::-1]).max() <= 0.05  # a resized image is rounded to whole numbers
    plain = Augmented(Lopsided(), flip=True)
    assert (plain(image).logits == plain(image[:, ::-1]).logits[:, :, ::-1]).all()
    assert (plain(image).geometric.prediction == plain(image[:, ::-1]).geometric.prediction[:, ::-1]).all()


@given(images)
def test_the_law_of_the_mirror_can_fail(image):
    if image.shape[1] > 1:
        model = Lopsided()
        assert (model(image).logits != model(np.ascontiguousarray(image[:, ::-1])).logits[:, :, ::-1]).any()


@given(images)
def test_of_one_plain_pass_it_is_the_prediction(image):
    model = Lopsided()
    found = Augmented(model)(image)
    assert (found.logits == model(image).logits).all()
    assert (found.geometric.logits == model(image).geometric.logits).all()
    assert set(Augmented(model).coarse(image)) == {"semantic", "geometric"}


@given(images, st.permutations([0.5, 1.0, 1.3]))
def test_the_order_of_the_sizes_does_not_matter(image, scales):
    one, other = Augmented(Lopsided(), scales)(image), Augmented(Lopsided(), [0.5, 1.0, 1.3])(image)
    assert (one.logits == other.logits).all()


@given(images, st.booleans(), st.lists(st.sampled_from([0.3, 1.0, 1.7]), min_size=1, max_size=3))
def test_it_is_a_mean_of_probabilities_at_the_size_of_the_image(image, flip, scales):
    model = Lopsided()
    found = Augmented(model, scales, flip)(image)
    assert len(model.sizes) == len(set(scales)) * (1 + flip)
    assert found.image.shape == image.shape and (found.image == image).all()
    for part in (found, found.geometric):
        assert part.logits.shape == (3, *image.shape[:2])
        total = np.exp(part.logits.astype(np.float64)).sum(0)
        if flip or set(scales) != {1.0}:
            assert np.abs(total - 1).max() <= 1e-5
    if flip and set(scales) == {1.0}:
        passes = [softmax(model(image).logits), softmax(model(image[:, ::-1]).logits)[:, :, ::-1]]
        assert np.abs(np.exp(found.logits) - (passes[0] + passes[1]) / 2).max() <= 1e-6


@pytest.mark.parametrize("height, width", [(1, 1), (37, 70)])
def test_a_net_goes_through_it_at_any_size(height, width):
    torch.manual_seed(0)
    net = fullconv.build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 32)).eval()
    model = Predictor(net, Header(net.config, LABELS, CONVENTIONS["torchvision"]))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    found = Augmented(model, (0.5, 1, 1.5), flip=True)(image)
    assert found.prediction.shape == (height, width) and np.isfinite(found.logits).all()
    assert (Augmented(model)(image).logits == model(image).logits).all()


def test_the_time_of_each_kind_of_pass_is_told():
    told = []

    @contextmanager
    def timer(what):
        yield told.append(what)

    Augmented(Lopsided(), (0.5, 1), True, timer)(np.zeros((4, 4, 3), np.uint8))
    assert sorted(told) == ["flip", "flip", "network", "scales"]
    with pytest.raises(UsageError, match=r"scales 0: give sizes from 0.1 to 10"):
        Augmented(Lopsided(), [0, 1])
