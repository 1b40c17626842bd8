"""The reach is the support of the gradient: nothing further is seen, and the furthest is."""

import pytest
import torch
from tests.support.nets import ends, small, strides

from fullconv.inference.large_image.halo import reach, support

FAST = ("vgg11", "lenet")
CASES = [
    pytest.param(b, s, p, marks=() if b in FAST and (b, p) != ("vgg11", "paper") else pytest.mark.slow)
    for b in (*FAST, "alexnet", "mobilenet_v2", "resnet18", "squeezenet1_0", "googlenet")
    for s in (strides(b) if b in FAST else ends(b))
    for p in ("paper", "tight")
]


def opened(net):
    """The net with weights of one, sums instead of maxima and no rectifiers: a gradient wherever it looks."""
    for layer in net.modules():
        if isinstance(layer, torch.nn.ReLU | torch.nn.ReLU6 | torch.nn.LocalResponseNorm | torch.nn.BatchNorm2d):
            layer.forward = lambda x: x
        if isinstance(layer, torch.nn.MaxPool2d):
            pool = torch.nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            layer.forward = pool.forward
        if getattr(layer, "weight", None) is not None:
            torch.nn.init.constant_(layer.weight, 1e-2)
    return net.double()


@pytest.mark.parametrize("backbone, stride, padding", CASES)
def test_it_is_the_support_of_the_gradient(backbone, stride, padding):
    net = opened(small(backbone, stride, padding=padding))
    found = reach(net)
    pixels = 2 * (found.before + found.after) // found.period * found.period + 2 * found.period
    line = torch.rand(1, 3, pixels, 3 * found.period, dtype=torch.float64, requires_grad=True)
    scores = net(line)
    before = after = 0
    middle = pixels // 2 // found.period * found.period
    for pixel in range(middle, middle + found.period):
        (gradient,) = torch.autograd.grad(scores[0, 0, pixel].sum(), line, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        assert (int(rows[0]), int(rows[-1])) == support(net, pixel, pixels)
        before, after = max(before, pixel - int(rows[0])), max(after, int(rows[-1]) - pixel)
    assert (before, after) == (found.before, found.after)
