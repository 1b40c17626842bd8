"""A convolution with fewer multiplications is the convolution: the matrices exactly, the layer to rounding."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.optimize import winograd
from fullconv.optimize.packed_gemm import Matrices
from fullconv.optimize.winograd import (
    POINTS,
    SHORT,
    TILES,
    WORTH,
    WinogradConv2d,
    WinogradTile,
    fewer,
    filtering,
    tile,
    transformed,
)

WAYS = [*TILES.items(), *SHORT.items(), (5, WinogradTile(3, 2)), (7, WinogradTile(1, 3)), (11, WinogradTile(2, 4))]
"""Kernels and how they are filtered; of some, blocks of taps make up more than the kernel."""


def quick(layer):
    return WinogradConv2d(layer, WinogradConv2d.prepared(layer.weight))


def exact(matrix):
    """The entries as fractions: those of these matrices have small denominators."""
    return [[Fraction(value).limit_denominator(10_000) for value in row] for row in matrix.tolist()]


def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


@given(st.sampled_from([(2, 3), (4, 3), (6, 3), (4, 5), (2, 7), (1, 1), (3, 2)]), st.data())
def test_the_matrices_filter_exactly(sizes, data):
    outputs, taps = sizes
    whole = st.integers(-99, 99).map(Fraction)
    inputs = data.draw(st.lists(whole, min_size=outputs + taps - 1, max_size=outputs + taps - 1))
    weights = data.draw(st.lists(whole, min_size=taps, max_size=taps))
    found = filtering(outputs, taps)
    values = [a * b for a, b in zip(times(exact(found.taps), weights), times(exact(found.into), inputs), strict=True)]
    wanted = [sum(w * x for w, x in zip(weights, inputs[i : i + taps], strict=True)) for i in range(outputs)]
    assert times(exact(found.out), values) == wanted


def test_points_are_distinct_and_enough():
    assert len(set(POINTS)) == len(POINTS)
    assert all(way.points - 1 <= len(POINTS) for _, way in WAYS)
    assert all(way.blocks(kernel) * way.taps >= kernel > (way.blocks(kernel) - 1) * way.taps for kernel, way in WAYS)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 70), st.sampled_from(WAYS),
    st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(1, 30), st.integers(1, 30), st.booleans(),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_it_is_the_convolution(n, c, o, kernel, padding, height, width, bias, last, small_strips):
    taps, way = kernel
    torch.manual_seed(0)
    layer = nn.Conv2d(c, o, taps, padding=padding, bias=bias).double().requires_grad_(False)
    x = torch.randn(n, c, height, width, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TILES, taps, way)
        made = quick(layer)
    if height + 2 * padding[0] < taps or width + 2 * padding[1] < taps:
        with pytest.raises(RuntimeError):
            made(x)
        return
    with pytest.MonkeyPatch.context() as patch:
        if small_strips:
            patch.setattr("fullconv.optimize.winograd.STRIP", 1)
            patch.setattr("fullconv.optimize.winograd.LEAST", 1)
        torch.testing.assert_close(made(x), layer(x), rtol=1e-10, atol=1e-11)


def test_part_of_a_larger_tensor_is_read_where_it_lies():
    layer = nn.Conv2d(6, 7, 3).double().requires_grad_(False)
    whole = torch.randn(2, 6, 20, 20, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    part = whole[1:, :, 3:17, 2:19]
    torch.testing.assert_close(quick(layer)(part), layer(part), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("taps", "channels", "features"), [(3, 256, 256), (7, 256, 128)])
def test_in_single_precision_rounding_is_small(taps, channels, features):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, features, taps, padding=taps // 2).requires_grad_(False)
    x = torch.randn(1, channels, 24, 24).relu()
    wanted = layer.double()(x.double())
    layer.float()
    found, usual = ((y - wanted).pow(2).mean().sqrt() / wanted.std() for y in (quick(layer)(x), layer(x)))
    assert found <= 1e-5 and found <= 30 * usual


@pytest.mark.parametrize(("taps", "channels", "features"), [(3, 512, 256), (7, 256, 128)])
def test_in_bf16_rounding_is_small(taps, channels, features):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, features, taps, padding=taps // 2).bfloat16().requires_grad_(False)
    x = torch.randn(1, channels, 24, 24).relu().bfloat16()
    wanted = nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=layer.padding)
    found, usual = ((y - wanted).pow(2).mean().sqrt() / wanted.std() for y in (quick(layer)(x), layer(x)))
    assert found <= 2e-2 and found <= 15 * usual


def test_what_is_compared_would_be_seen():
    """A wrong weight, even at one point, is no rounding."""
    layer = nn.Conv2d(4, 4, 3, padding=1).double().requires_grad_(False)
    values = transformed(layer.weight)
    values[7][2, 1] += 1e-3
    x = torch.randn(1, 4, 12, 12, dtype=torch.double)
    assert (WinogradConv2d(layer, Matrices(values))(x) - layer(x)).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("layer", "has"),
    [
        (nn.Conv2d(512, 512, 3, padding=1), True),
        (nn.Conv2d(64, 64, 3), True),
        (nn.Conv2d(512, 512, 3, stride=2), False),
        (nn.Conv2d(512, 512, 3, dilation=2), False),
        (nn.Conv2d(512, 512, 3, groups=2), False),
        (nn.Conv2d(512, 512, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(512, 512, 3, padding="same"), False),
        (nn.Conv2d(512, 512, (3, 5)), False),
        (nn.Conv2d(512, 512, 1), False),
        (nn.Conv2d(512, 512, 11), False),
        (nn.ConvTranspose2d(512, 512, 3), False),
        (nn.Linear(3, 3), False),
        (nn.Conv2d(512, 512, 5).bfloat16(), False),
        (nn.Conv2d(512, 512, 7).bfloat16(), True),
    ],
)
def test_which_layers_have_the_form(layer, has):
    assert (fewer(layer) > 0) == has


def test_many_channels_are_worth_it_and_few_are_not():
    assert fewer(nn.Conv2d(256, 256, 3)) > WORTH > fewer(nn.Conv2d(128, 128, 3)) > 1
    assert fewer(nn.Conv2d(512, 512, 3).bfloat16()) > WORTH > fewer(nn.Conv2d(256, 256, 3).bfloat16()) > 1
    assert fewer(nn.Conv2d(3, 64, 3)) < 1
    assert 2.8 < fewer(nn.Conv2d(512, 4096, 7)) < 49 / 16
    assert 1.9 < fewer(nn.Conv2d(512, 4096, 7).bfloat16()) < 49 * 4 / 100


@pytest.mark.parametrize(("kernel", "way"), WAYS)
def test_what_the_weights_take_is_told_before_they_are_made(kernel, way, monkeypatch):
    monkeypatch.setitem(winograd.TILES, kernel, way)
    weight = torch.randn(5, 49, kernel, kernel)
    assert tile(weight) == way
    made = sum(part.nbytes for part in transformed(weight))
    assert abs(made - WinogradConv2d.more_bytes(weight)) < made / 100
