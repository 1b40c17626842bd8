import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fullconv.config import TrainConfig
from fullconv.errors import UsageError
from fullconv.training.loss import check_rate, segmentation_loss
from fullconv.training.optimizer import build_optimizer, learning_rate, parameter_groups, set_rate


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_void_adds_nothing_to_loss_or_gradient(reduction):
    logits = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (1, 4, 5))
    label[0, 1:3] = 255
    loss = segmentation_loss(logits, label, reduction)
    (grad,) = torch.autograd.grad(loss, logits)
    assert not grad[:, :, 1:3].any()
    assert grad[:, :, 0].any()
    moved = logits.detach().clone()
    moved[:, :, 1:3] += 100
    assert torch.equal(segmentation_loss(moved, label, reduction), loss.detach())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_wholly_void_batch_gives_zero(reduction):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 4, 4), 255), reduction)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_the_sum_is_the_batch_of_patches(batch, height, width):
    """The gradient of the sum over cells is the sum of the gradients of the cells (section 3.4)."""
    logits = torch.randn(batch, 3, height, width, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (batch, height, width))
    (whole,) = torch.autograd.grad(segmentation_loss(logits, label, "sum"), logits)
    one_by_one = torch.zeros_like(whole)
    for n in range(batch):
        for i in range(height):
            for j in range(width):
                patch = F.cross_entropy(logits[n, :, i, j][None], label[n, i, j][None])
                one_by_one += torch.autograd.grad(patch, logits)[0]
    assert float((whole - one_by_one).abs().max()) < 1e-12


def test_mean_is_over_the_valid_pixels():
    logits, label = torch.randn(1, 3, 2, 4), torch.tensor([[[0, 1, 2, 255], [255, 255, 0, 0]]])
    assert torch.isclose(segmentation_loss(logits, label, "mean"), segmentation_loss(logits, label, "sum") / 5)


@pytest.mark.parametrize("loss, lr, fits", [
    ("sum", 1e-10, True), ("sum", 1e-14, True), ("sum", 1e-18, False), ("sum", 1e-4, False),
    ("mean", 1e-3, True), ("mean", 1e-10, False), ("mean", 5.0, False),
])  # fmt: skip
def test_a_rate_that_does_not_fit_its_loss_is_refused(loss, lr, fits):
    if fits:
        check_rate(loss, lr, 500 * 375)
    else:
        with pytest.raises(UsageError, match=f"lr {lr:g} with loss '{loss}'"):
            check_rate(loss, lr, 500 * 375)


def test_biases_learn_twice_as_fast_and_do_not_decay():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    groups = parameter_groups(net, 5e-4)
    table = {id(p): (g["rate"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(table) == len(list(net.parameters()))
    assert table[id(net[0].weight)] == (1.0, 5e-4)
    assert table[id(net[0].bias)] == table[id(net[1].bias)] == (2.0, 0.0)
    assert table[id(net[1].weight)] == (1.0, 0.0)


def test_a_step_is_caffes_update():
    """v <- m v + lr rate (g + wd w); w <- w - v, for a constant rate."""
    config = TrainConfig(lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant")
    net = nn.Conv2d(1, 1, 1).double()
    optimizer = build_optimizer(net, config)
    w, b = float(net.weight.detach()), float(net.bias.detach())
    vw = vb = 0.0
    for step in range(4):
        set_rate(optimizer, learning_rate(config, step, 10))
        optimizer.zero_grad()
        (net(torch.ones(1, 1, 1, 1).double()) ** 2).sum().backward()
        g = 2 * (w + b)
        optimizer.step()
        vw = 0.9 * vw + 0.1 * (g + 0.01 * w)
        vb = 0.9 * vb + 0.2 * g
        w, b = w - vw, b - vb
        assert float(net.weight.detach()) == pytest.approx(w, abs=1e-12)
        assert float(net.bias.detach()) == pytest.approx(b, abs=1e-12)
