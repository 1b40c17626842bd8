"""The laws of the maps, and the published figures that must come out of them."""

import functools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fullconv.geometry import IMAGE, AxisMap, GeometryError, Window, bilinear_window

small = st.integers(1, 5)


def chain(windows):
    """The map after a line of layers."""
    return functools.reduce(AxisMap.then, windows, IMAGE)


@st.composite
def windows(draw, transposed=False):
    kernel, dilation = draw(small), draw(st.integers(1, 3))
    stride = draw(st.integers(1, kernel))
    span = (kernel - 1) * dilation + 1
    padding = draw(st.integers(0, kernel // 2 if not transposed else (span - 1) // 2))
    return Window(kernel, stride, padding, dilation, transposed)


def test_convolution_and_its_transpose_cancel():
    for kernel in range(1, 9):
        for stride in range(1, 5):
            for padding in range(3):
                down = Window(kernel, stride, padding)
                up = Window(kernel, stride, padding, transposed=True)
                both = IMAGE.then(down).then(up)
                assert (both.stride, both.start) == (1, 0)


@given(st.lists(windows(), min_size=1, max_size=4))
def test_padding_moves_the_start_and_nothing_else(layers):
    plain = chain([Window(w.kernel, w.stride, 0, w.dilation) for w in layers])
    padded = chain(layers)
    assert (plain.stride, plain.field) == (padded.stride, padded.field)
    moved, stride = Fraction(0), Fraction(1)
    for w in layers:
        moved += w.padding * stride
        stride *= w.stride
    assert plain.start - padded.start == moved


@given(windows(), st.integers(1, 40), st.booleans())
def test_size_is_that_of_the_layer(window, cells, ceil):
    window = Window(window.kernel, window.stride, min(window.padding, window.kernel // 2), window.dilation, ceil=ceil)
    layer = nn.MaxPool1d(window.kernel, window.stride, window.padding, window.dilation, ceil_mode=ceil)
    expected = window.size(cells)
    if expected < 1 or cells + 2 * window.padding < window.span:
        return
    assert layer(torch.zeros(1, 1, cells)).shape[2] == expected


@given(windows(transposed=True), st.integers(1, 12))
def test_size_of_a_transposed_convolution(window, cells):
    layer = nn.ConvTranspose1d(1, 1, window.kernel, window.stride, window.padding, dilation=window.dilation)
    expected = window.size(cells)
    if expected >= 1:
        assert layer(torch.zeros(1, 1, cells)).shape[2] == expected


def test_receptive_field_composes_as_in_the_paper():
    # f_ks o g_k's' = (f o g)_{k' + (k - 1) s', s s'} (section 3)
    first, second = Window(5, 3), Window(4, 2)
    both = chain([first, second])
    assert (both.field, both.stride) == (5 + (4 - 1) * 3, 6)


def test_crop_of_a_crop_adds_up():
    assert AxisMap().cropped(3).cropped(4) == AxisMap().cropped(7)
    assert AxisMap().offset_to(AxisMap().cropped(7)) == 7


@pytest.mark.parametrize("taps, works", [(63, True), (64, False)])
def test_alexnet_needs_the_odd_kernel(taps, works):
    conv1, pool = Window(11, 4, 100), Window(3, 2)
    fc6 = chain(
        [conv1, pool, Window(5, 1, 2), pool, Window(3, 1, 1), Window(3, 1, 1), Window(3, 1, 1), pool, Window(6)]
    )
    assert fc6.field == 355
    up = fc6.then(Window(taps, 32, transposed=True))
    if works:
        assert up.offset_to(IMAGE) == 18
        assert bilinear_window(32, fc6, IMAGE).kernel == 63
    else:
        with pytest.raises(GeometryError, match="not a whole number"):
            up.offset_to(IMAGE)


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(GeometryError, match="strides"):
        AxisMap(Fraction(2)).offset_to(IMAGE)
    with pytest.raises(GeometryError, match="do not meet"):
        IMAGE.joined(IMAGE.cropped(1))
    with pytest.raises(GeometryError, match="upsampling by 2"):
        bilinear_window(2, AxisMap(Fraction(2), Fraction(1, 3)), IMAGE)
