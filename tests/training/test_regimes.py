"""What the regimes of sections 3.4 and 4.3 are equal to: accumulation is one batch, a sum is all patches, a resumed run
is an uninterrupted one whatever the optimizer, sampled cells count by chance and nothing else does.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.support.nets import slow_but
from torch import nn

import fullconv
from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.data.dataset import Sample
from fullconv.datasets.open_dataset import open_dataset
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.training.loop import State, ema_weights, fit
from fullconv.training.loss import Objective, segmentation_loss, sizes, step_loss
from fullconv.training.sampling import (
    balanced,
    class_weights,
    pixel_counts,
    random_shift,
    sampled,
)
from fullconv.training.saved_state import newest_state, restore, save_state

MODEL = ModelConfig("vgg11", stride=16, num_classes=3, width=1 / 32, native_size=32, dropout=0.0)
CONFIG = TrainConfig(steps=4, batch_size=2, lr=0.02, crop=(32, 32), precision="fp32", workers=0)
SPACE = LabelSpace.of(["a", "b", "c"])


class Blocks:
    """Images of 32x32 with labels of 3 classes and void; class 2 is in the first one alone."""

    labels = SPACE

    def __init__(self, length=6, size=(32, 32)):
        self.length, self.size = length, size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        values = [0, 0, 0, 1, 255] + ([2, 2] if index == 0 else [])
        height, width = self.size
        label = rng.choice(np.array(values, np.uint8), (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
        return Sample(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), label, f"b{index}")


def gradients(config, dataset=None, model=MODEL):
    """The weights' change in one step of plain descent, in double precision."""
    torch.manual_seed(0)
    net = fullconv.build(model).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in fit(State.of(_Cast(net), config), dataset or Blocks(), config, CONVENTIONS["torchvision"]):
        pass
    return {name: value - before[name] for name, value in net.state_dict().items()}


class _Cast(fullconv.FCN):
    """An FCN of doubles that takes floats."""

    def __init__(self, net):
        nn.Module.__init__(self)
        self.__dict__.update({key: value for key, value in net.__dict__.items() if not key.startswith("_")})
        self._modules, self._parameters, self._buffers = net._modules, net._parameters, net._buffers

    def forward(self, image):
        return super().forward(image.double())


@pytest.mark.parametrize("loss, lr", [("mean", 0.02), ("sum", 1e-5)])
@pytest.mark.parametrize("more", [{}, {"class_weights": "1,2,0.5"}, {"class_weights": "median"}])
def test_accumulated_batches_are_one_batch(loss, lr, more):
    """To 1e-12, also where the batches have different numbers of valid pixels."""
    plain = TrainConfig(steps=1, batch_size=4, loss=loss, lr=lr, momentum=0.0, precision="fp32", workers=0, **more)
    whole = gradients(plain)
    for batch_size, accumulate in ((2, 2), (1, 4)):
        parts = gradients(replace(plain, batch_size=batch_size, accumulate=accumulate))
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-12)


def test_the_length_of_a_run_counts_what_is_accumulated_and_sampled():
    assert TrainConfig(epochs=2, batch_size=1, accumulate=20).total_steps(100) == 10
    assert TrainConfig(epochs=2, batch_size=4, keep=0.5).total_steps(100) == 25


@given(st.integers(1, 3), st.integers(0, 99))
def test_the_gradient_of_the_sum_is_that_of_all_its_patches(size, seed):
    """Section 3.4: one image with the loss of all its cells is a batch of all its patches."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 4, 2 * size + 1).double()
    image, field = torch.randn(1, 3, 9, 9, dtype=torch.double), 2 * size + 1
    cells = 9 - field + 1
    label = torch.randint(0, 4, (1, cells, cells))
    segmentation_loss(conv(image), label, "sum").backward()
    whole = conv.weight.grad.clone()
    conv.zero_grad()
    patches = F.unfold(image, field).view(3, field, field, -1).permute(3, 0, 1, 2)
    segmentation_loss(conv(patches), label.view(-1, 1, 1), "sum").backward()
    torch.testing.assert_close(conv.weight.grad, whole, rtol=1e-10, atol=1e-12)


@given(st.floats(0.05, 1.0), st.integers(0, 99))
def test_the_hardest_pixels_are_the_hardest(share, seed):
    torch.manual_seed(seed)
    logits = torch.randn(2, 3, 5, 7, dtype=torch.double)
    label = torch.randint(0, 4, (2, 5, 7))
    label[label == 3] = 255
    objective = Objective("mean", hard=share)
    losses = F.cross_entropy(logits, label, ignore_index=255, reduction="none")[label != 255].sort(descending=True)[0]
    count = int(np.ceil(share * len(losses)))
    found = step_loss(logits, {"semantic": label}, {"semantic": objective}, sizes(objective, [label]))
    torch.testing.assert_close(found, losses[:count].mean() if count else losses.sum())


@given(st.integers(0, 99))
def test_weighted_is_as_torch_weighs(seed):
    torch.manual_seed(seed)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    weights = torch.rand(3) + 0.1
    objective = Objective("mean", weights=weights)
    found = step_loss(logits, {"semantic": label}, {"semantic": objective}, sizes(objective, [label]))
    torch.testing.assert_close(found, F.cross_entropy(logits, label, weights))


def test_the_weights_of_classes():
    counts = np.array([[60, 30, 10, 0]])
    space = LabelSpace.of(list("abcd"))
    assert class_weights("none", counts, space) is None
    inverse = class_weights("inverse", counts, space).numpy()
    np.testing.assert_allclose(inverse, [1 / 1.8, 1 / 0.9, 1 / 0.3, 1], rtol=1e-6)
    assert np.isclose((inverse * counts[0] / counts.sum()).sum(), 1)
    np.testing.assert_allclose(class_weights("median", counts, space), [0.5, 1, 3, 1], rtol=1e-6)
    twice = np.array([[80, 20, 0, 0], [50, 0, 50, 0]])  # frequencies 0.65, 0.2, 0.5 in the images that hold them
    np.testing.assert_allclose(class_weights("median", twice, space), [0.5 / 0.65, 2.5, 1, 1], rtol=1e-6)
    assert class_weights("1,2,3,0", counts, space).tolist() == [1, 2, 3, 0]
    for text in ("1,2", "x", "1,2,3,-1", "0,0,0,0", "1,2,3,nan"):
        with pytest.raises(UsageError, match="class_weights"):
            class_weights(text, counts, space)


def test_check_prints_the_weights_that_training_uses(digits_folder):
    from fullconv.checking.check_dataset import check_dataset

    data = open_dataset(digits_folder, "train")
    used = class_weights("median", pixel_counts(data), data.labels).numpy()
    printed = check_dataset(digits_folder).weights
    for mine, theirs in zip(used, printed, strict=True):
        assert theirs is None or np.isclose(mine, theirs, rtol=1e-5)


@given(st.integers(1, 9), st.floats(0.05, 0.95), st.integers(0, 10**6))
def test_a_cell_counts_as_a_whole_or_not_at_all(cell, keep, batch):
    label = torch.randint(0, 3, (2, 23, 17))
    found = sampled(label, cell, keep, seed=1, batch=batch)
    for top in range(0, 23, cell):
        for left in range(0, 17, cell):
            for n in range(2):
                part = np.s_[n, top : top + cell, left : left + cell]
                assert (found[part] == 255).all() or torch.equal(found[part], label[part])
    assert torch.equal(found, sampled(label, cell, keep, seed=1, batch=batch))
    assert torch.equal(sampled(label, cell, 1.0, seed=1, batch=batch), label)


def test_cells_are_kept_with_the_probability_that_is_asked():
    label = torch.zeros(1, 400, 400, dtype=torch.long)
    share = (sampled(label, 4, 0.3, seed=0, batch=0) == 0).double().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 10_000) ** 0.5


def test_a_shift_stays_within_the_stride():
    shift, seen = random_shift(4, ((0, 0, 0), 255)), set()
    label = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for seed in range(200):
        found = shift(Sample(np.repeat(label[:, :, None], 3, 2), label, "s"), np.random.default_rng(seed)).label
        down, right = np.argwhere(found == 0)[0] if (found == 0).any() else (0, 0)
        np.testing.assert_array_equal(found[down:, right:], label[: 8 - down, : 8 - right])
        seen.add((int(down), int(right)))
    assert seen == {(y, x) for y in range(4) for x in range(4)}


def test_balanced_drawing_meets_every_class_about_as_often():
    data = Blocks(40)
    drawn = balanced(data, seed=0)
    assert len(drawn) == 40 and drawn[3].name == data[int(drawn.indices[3])].name
    rare = sum(drawn[i].name == "b0" for i in range(40))
    assert rare >= 8 and len({drawn[i].name for i in range(40)}) > 15
    import pickle

    assert pickle.loads(pickle.dumps(drawn))[0].name == drawn[0].name
    assert pixel_counts(data).shape == (40, 3)


VARIANTS = [
    {"accumulate": 2},
    {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.05},
    {"ema": 0.9},
    {"keep": 0.5, "shift": True},
    {"class_weights": "median", "balance": True, "hard": 0.5},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v))
@pytest.mark.parametrize("workers", slow_but([0], [0, 2]))
def test_a_resumed_run_is_an_uninterrupted_one(digits_folder, tmp_path, variant, workers):
    config = replace(CONFIG, **{**variant, "workers": workers})
    data = open_dataset(digits_folder, "train")
    model = replace(MODEL, num_classes=11, dropout=0.5)

    def fresh():
        torch.manual_seed(0)
        return State.of(fullconv.build(model), config)

    whole = fresh()
    losses = [record.loss for record in fit(whole, data, config, CONVENTIONS["torchvision"])]
    part = fresh()
    steps = fit(part, data, config, CONVENTIONS["torchvision"])
    for _ in range(2):
        next(steps)
    steps.close()
    save_state(tmp_path, part, {})
    again = fresh()
    restore(again, *newest_state(tmp_path))
    rest = [record.loss for record in fit(again, data, config, CONVENTIONS["torchvision"])]
    assert rest == losses[2:]
    with ema_weights(whole) as one, ema_weights(again) as other:
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_the_average_is_what_is_evaluated_and_the_weights_go_on(digits_folder):
    config = replace(CONFIG, ema=0.9)
    state = State.of(fullconv.build(replace(MODEL, num_classes=11)), config)
    data = open_dataset(digits_folder, "train")
    for _ in fit(state, data, config, CONVENTIONS["torchvision"]):
        pass
    now = {name: value.clone() for name, value in state.net.state_dict().items()}
    with ema_weights(state) as net:
        assert all(torch.equal(value, state.average[name]) for name, value in net.state_dict().items())
        assert not torch.equal(net.state_dict()["score_fr.weight"], now["score_fr.weight"])
    assert all(torch.equal(value, now[name]) for name, value in state.net.state_dict().items())


def test_cells_belong_to_a_fully_convolutional_net():
    state = State.of(nn.Sequential(nn.Conv2d(3, 3, 1)), CONFIG)
    with pytest.raises(UsageError, match="FCN"):
        next(fit(state, Blocks(), replace(CONFIG, keep=0.5), CONVENTIONS["torchvision"]))


def test_a_step_of_plain_sgd_is_written_out_by_hand():
    """w <- w - lr (g + decay w) for weights, - 2 lr g for biases: the released solver, first step."""
    config = TrainConfig(steps=1, batch_size=1, loss="sum", lr=1e-6, momentum=0.99, weight_decay=0.5, precision="fp32",
                         workers=0, schedule="constant")  # fmt: skip
    torch.manual_seed(0)
    net = fullconv.build(MODEL)
    state = State.of(net, config)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    next(fit(state, Blocks(1), config, CONVENTIONS["torchvision"]))
    for name, value in net.named_parameters():
        grad = value.grad
        rate, decay = (2e-6, 0.0) if name.endswith("bias") else (1e-6, 0.5)
        torch.testing.assert_close(value.detach(), before[name] - rate * (grad + decay * before[name]))
