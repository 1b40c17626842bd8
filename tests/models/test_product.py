"""A convolution as a product is the convolution: forward, backward, in any layout, at any size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fullconv
from fullconv.config import ModelConfig
from fullconv.models import product
from fullconv.models.product import PointConv2d, ProductConv2d, is_point, use_products


@settings(max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
    st.integers(5, 12), st.integers(5, 12), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_it_is_the_convolution(n, c, o, k, padding, dilation, height, width, bias, last, few):
    torch.manual_seed(0)
    conv = nn.Conv2d(c, o, k, padding=padding, dilation=dilation, bias=bias).double()
    made = ProductConv2d(c, o, k, padding=padding, dilation=dilation, bias=bias).double()
    made.load_state_dict(conv.state_dict())
    x = torch.randn(n, c, height, width, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    most, product.MOST_CELLS = product.MOST_CELLS, 10 if few else product.MOST_CELLS
    try:
        found, wanted = made(one), conv(other)
    finally:
        product.MOST_CELLS = most
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(wanted)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(made.parameters(), conv.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_only_the_large_layers_change_and_their_names_stay(monkeypatch):
    monkeypatch.setattr(product, "LEAST_WEIGHTS", 10_000)
    net = fullconv.build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 16, native_size=64)).eval()
    before, keys = net(torch.ones(1, 3, 50, 61)), list(net.state_dict())
    net.to(memory_format=torch.channels_last)
    changed = use_products(net)
    assert changed and use_products(net) == changed and list(net.state_dict()) == keys
    assert any("fc6" in name for name in changed) and all("score" not in name for name in changed)
    assert all(net.get_submodule(name).weight.is_contiguous() for name in changed)
    torch.testing.assert_close(net(torch.ones(1, 3, 50, 61)), before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16])
def test_in_half_precision_it_is_as_near_as_the_convolution(kind):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 8, 5)
    made = ProductConv2d(16, 8, 5)
    made.load_state_dict(conv.state_dict())
    x = torch.randn(1, 16, 9, 9)
    exact = conv(x)
    with torch.autocast("cpu", kind):
        found, usual = made(x), conv(x)
    assert found.dtype == usual.dtype
    assert (found.float() - exact).abs().max() <= 2 * (usual.float() - exact).abs().max() + 1e-3


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_of_one_tap_it_is_the_convolution(n, c, o, height, width, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(c, o, 1, bias=bias).double()
    x = torch.randn(n, c, height, width, dtype=torch.double)
    wanted = layer(x)
    layer.__class__ = PointConv2d
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-13)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("layer", "worth"),
    [
        (nn.Conv2d(2048, 2048, 1), True),
        (nn.Conv2d(2048, 2048, 1, stride=2), False),
        (nn.Conv2d(2048, 2048, 1, padding=1), False),
        (nn.Conv2d(4096, 2048, 1, groups=2), False),
        (nn.Conv2d(512, 512, 1), False),
        (nn.Conv2d(512, 1024, 3), False),
        (nn.Linear(2048, 2048), False),
    ],
)
def test_which_are_worth_it(layer, worth):
    assert is_point(layer) == worth
