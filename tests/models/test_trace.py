"""The walk against what nets really do: the support of the gradient, in hundreds of random nets."""

import random

import pytest
import torch
from torch import Tensor, nn

from fullconv.geometry import GeometryError
from fullconv.models.trace import pool_windows, walk, windows_of


class AllPool(nn.MaxPool2d):
    """A pooling window through which the gradient reaches every cell, where the maximum reaches one."""

    def forward(self, x: Tensor) -> Tensor:
        ones = x.new_ones(x.shape[1], 1, self.kernel_size, self.kernel_size)
        size = [windows_of(self)[0].size(n) for n in x.shape[2:]]
        span = (self.kernel_size - 1) * self.dilation + 1
        ends = [(out - 1) * self.stride + span for out in size]
        pads = [max(0, end - n - self.padding) for end, n in zip(ends, x.shape[2:], strict=True)]
        x = nn.functional.pad(x, (self.padding, pads[1], self.padding, pads[0]))
        full = nn.functional.conv2d(x, ones, stride=self.stride, dilation=self.dilation, groups=x.shape[1])
        return full[:, :, : size[0], : size[1]]


windows_of.register(AllPool, pool_windows)


class Padded(nn.Module):
    """Zeros at the left, right, top and bottom, by a function."""

    def __init__(self, pads):
        super().__init__()
        self.pads = pads

    def forward(self, x):
        return nn.functional.pad(x, self.pads)


class Branches(nn.Module):
    """Two ways that meet again, joined by a sum or side by side."""

    def __init__(self, one, two, concat):
        super().__init__()
        self.one, self.two, self.concat = one, two, concat

    def forward(self, x):
        return torch.cat([self.one(x), self.two(x)], 1) if self.concat else self.one(x) + self.two(x)


def random_layer(rng, channels):
    kind = rng.choice(["conv", "conv", "conv", "pool", "avg", "up", "branch", "relu", "pad"])
    kernel = rng.randint(1, 4)
    if kind == "conv":
        dilation = rng.randint(1, 3)
        return nn.Conv2d(channels, channels, kernel, rng.randint(1, kernel), rng.randint(0, 3), dilation)
    if kind == "pad":
        pads = [rng.randint(-1, 2) for _ in range(4)]
        return nn.ConstantPad2d(pads, 0.5) if rng.random() < 0.5 else Padded(pads)
    if kind == "pool":
        kernel = rng.randint(2, 3)
        return AllPool(
            kernel, rng.randint(1, 2), rng.randint(0, kernel // 2), rng.randint(1, 2), ceil_mode=rng.random() < 0.5
        )
    if kind == "avg":
        kernel = rng.randint(2, 3)
        return nn.AvgPool2d(kernel, rng.randint(1, kernel), rng.randint(0, 1), ceil_mode=rng.random() < 0.5)
    if kind == "up":
        stride = rng.randint(1, 3)
        kernel = stride + rng.randint(0, 3)
        dilation = rng.choice([1, 1, 2])
        return nn.ConvTranspose2d(channels, channels, kernel, stride, rng.randint(0, 1), dilation=dilation)
    if kind == "branch":
        radius, stride, concat = rng.randint(0, 2), rng.randint(1, 2), rng.random() < 0.3
        two = nn.Conv2d(channels, channels, 1, stride)
        one = nn.Conv2d(channels, channels, 2 * radius + 1, stride, radius)
        joined = Branches(one, two, concat)
        return nn.Sequential(joined, nn.Conv2d(2 * channels, channels, 1)) if concat else joined
    return nn.ReLU()


def random_net(seed):
    rng = random.Random(seed)
    net = nn.Sequential(*(random_layer(rng, 1) for _ in range(rng.randint(1, 5)))).double()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)  # positive: nothing cancels, no ReLU closes
    return net


def gradient_support(net, size, cell):
    x = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x)[0, :, cell].sum(), x)
    return set(grad[0, 0].abs().sum(1).nonzero().flatten().tolist())


@pytest.mark.parametrize("block", range(10))
def test_walk_equals_the_support_of_the_gradient(block):
    compared = 0
    for seed in range(block * 40, block * 40 + 40):
        net, size = random_net(seed), 40
        trace = walk(net, channels=1)
        sizes = trace.sizes(size)
        if min(sizes.values()) < 1:
            continue
        cells, axis = sizes[trace.last.name], trace.last.rows
        assert net(torch.ones(1, 1, size, size, dtype=torch.float64)).shape[2] == cells
        for cell in {0, cells // 2, cells - 1}:
            support = trace.support(trace.last.name, [cell], size)
            assert gradient_support(net, size, cell) == support, (seed, net)
            centre, reach = axis.start + axis.stride * cell, (axis.field - 1) / 2
            assert all(abs(pixel - centre) <= reach for pixel in support), (seed, net)
            compared += 1
    assert compared > 60


def test_affine_map_is_the_centre_and_width_of_the_support():
    net = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(1, 1, 5, dilation=2), nn.AvgPool2d(3, 2)
    )
    trace = walk(net, channels=1)
    axis = trace.last.axis
    for cell in range(4):
        pixels = trace.support(trace.last.name, [cell + 3], pixels=200)
        assert max(pixels) - min(pixels) + 1 == axis.field
        assert max(pixels) + min(pixels) == 2 * (axis.start + axis.stride * (cell + 3))


def test_a_padding_layer_moves_the_start_and_other_modes_are_refused():
    trace = walk(nn.Sequential(nn.ZeroPad2d((1, 0, 3, 2)), nn.Conv2d(3, 4, 3, 2)))
    assert (trace.last.rows.start, trace.last.columns.start) == (-2, 0)
    assert (trace.sizes(10)["1"], trace.sizes(10, axis=1)["1"]) == (7, 5)
    with pytest.raises(GeometryError, match=r"layer '0' .ReflectionPad2d."):
        walk(nn.Sequential(nn.ReflectionPad2d(1)))


def test_rows_and_columns_are_walked_apart():
    trace = walk(nn.Conv2d(3, 4, (3, 5), (1, 2), (1, 0)))
    assert (trace.last.rows.field, trace.last.columns.field) == (3, 5)
    with pytest.raises(GeometryError, match="rows and columns differ"):
        _ = trace.last.axis


class Meets(nn.Module):
    def __init__(self):
        super().__init__()
        self.valid = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.valid(x) + x


@pytest.mark.parametrize(
    "net, words",
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1)), "layer '1' .AdaptiveAvgPool2d."),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), "layer '0' .Flatten."),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")), "layer '0' .Conv2d."),
        (Meets(), "layer 'add' joins valid and x"),
    ],
)
def test_layers_without_a_map_are_refused_by_name(net, words):
    with pytest.raises(GeometryError, match=words):
        walk(net)
