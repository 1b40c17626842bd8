"""The proof holds for every backbone, and fails for a dense net that is not the classifier."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nets import FAMILIES, slow_but
from torch import nn

from fullconv.errors import UsageError
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.verify import Unpadded, prove


def made(name):
    chosen = BACKBONES[name]
    # Narrower, a random SqueezeNet has no score above 0.
    width = 0.2 if name == "lenet" else 1 / 2 if name.startswith("squeezenet") else 1 / 16
    net = chosen.make(num_classes=5, width=width).eval()
    return net, convolutionalize(net, chosen.native_size)[0], chosen.native_size


@pytest.mark.parametrize("name", slow_but(set(FAMILIES) - {"googlenet", "mobilenet_v2"}, sorted(BACKBONES)))
def test_it_holds_for_every_backbone(name):
    net, dense, native = made(name)
    proof = prove(net, dense, native)
    assert proof.holds and proof.tolerance == 1e-9
    assert max(proof.native, proof.slid) < 1e-12
    assert proof.cells == 4
    # Only a net without padding inside is slid exactly as it is.
    assert (proof.padded < 1e-9) == (name == "lenet")


@pytest.mark.parametrize("pads", [(1, 2, 0, 3), (2, 2, 2, 2), (-1, 1, 1, -2)])
def test_it_holds_for_zeros_that_a_layer_of_their_own_adds(pads):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 5), nn.ZeroPad2d(pads), nn.Conv2d(4, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    ).eval()
    net(torch.zeros(1, 3, 28, 28))
    proof = prove(net, convolutionalize(net, 28)[0], 28)
    assert proof.holds and proof.tolerance == 1e-9


def one_weight(dense):
    with torch.no_grad():
        next(iter(dense.parameters())).view(-1)[0].add_(0.5)


def flattened_rows_first(dense):
    """The order in which Keras flattens."""
    conv = dense.get_submodule("ip1")
    with torch.no_grad():
        turned = conv.weight.reshape(conv.out_channels, -1, conv.in_channels).permute(0, 2, 1)
        conv.weight.copy_(turned.reshape(conv.weight.shape).clone())


def another_stride(dense):
    dense.get_submodule("conv2").stride = (2, 2)


def shifted(dense):
    """Right on a map of one cell, and wrong when it is slid."""
    forward = dense.forward
    dense.forward = lambda x: forward(x).roll(1, 3)


@pytest.mark.parametrize("spoil", [one_weight, flattened_rows_first, another_stride])
def test_it_fails_for_another_net(spoil):
    net, dense, native = made("lenet")
    spoil(dense)
    try:
        assert not prove(net, dense, native).holds
    except RuntimeError:
        assert spoil is another_stride  # it does not even take the crop


def test_it_fails_for_a_net_that_is_right_on_the_native_crop_only():
    net, dense, native = made("lenet")
    pool = dense.get_submodule("pool2")
    dense.set_submodule("pool2", nn.AdaptiveMaxPool2d(4))  # the native map's size, whatever the image
    dense.recompile()
    crop = torch.randn(1, 3, native, native)
    with torch.no_grad():
        assert torch.allclose(dense(crop).flatten(), net(crop).flatten(), atol=1e-5)
    assert isinstance(pool, nn.MaxPool2d)
    with pytest.raises(Exception, match="pool2"):  # no map from output to input cells: nothing slides
        prove(net, dense, native)


def test_scores_that_are_all_zero_prove_nothing():
    net, dense, native = made("lenet")
    for one in (net, dense):
        nn.init.zeros_(one.get_submodule("ip2").weight)
        nn.init.zeros_(one.get_submodule("ip2").bias)
    with pytest.raises(UsageError, match="nothing can be compared"):
        prove(net, dense, native)


class Branch(nn.Module):
    """Two ways with different padding and a stride, as a residual net has them."""

    def __init__(self, kernel, stride, depth):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 1, 1)
        self.one = nn.Sequential(
            *[nn.Conv2d(4, 4, kernel, stride if i == 0 else 1, kernel // 2) for i in range(depth)], nn.ReLU()
        )
        self.two = nn.Conv2d(4, 4, 1, stride)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.one(x) + self.two(x)
        return self.fc(x.mean((2, 3)))


@settings(max_examples=15)
@given(kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 3), depth=st.integers(1, 3))
def test_branches_that_are_padded_differently_meet(kernel, stride, depth):
    net = Branch(kernel, stride, depth).eval()
    dense, _ = convolutionalize(net, 18)
    assert prove(net, dense, 18).holds


def test_without_padding_no_zero_is_seen():
    """The unpadded net on an image is the padded one where the padded one sees nothing but image."""
    net = (
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 2, 3, 1, 1))
        .double()
        .eval()
    )
    image = torch.randn(1, 3, 40, 37).double()
    free = Unpadded(net)
    with torch.no_grad():
        mine, whole = free(image), net(image)
    top, left = free.first_cell
    inside = whole[:, :, top : top + mine.shape[2], left : left + mine.shape[3]]
    assert top > 0 and torch.allclose(mine, inside, atol=1e-12)
