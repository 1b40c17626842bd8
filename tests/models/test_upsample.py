"""The fast upsampling against the full transposed convolution, and the kernel against Caffe's filler."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fullconv.geometry import Window, bilinear_line
from fullconv.models.upsample import Upsample, bilinear_weight


def caffe_filler(taps):
    """BilinearFiller of Caffe, value by value."""
    f = math.ceil(taps / 2)
    c = (taps - 1) / (2 * f)
    return torch.tensor(
        [[(1 - abs(x / f - c)) * (1 - abs(y / f - c)) for x in range(taps)] for y in range(taps)], dtype=torch.float64
    )


@pytest.mark.parametrize("taps", [3, 4, 15, 16, 31, 32, 63, 64])
def test_kernel_is_caffes_and_sums_to_the_square_of_the_factor(taps):
    line = torch.tensor(bilinear_line(taps), dtype=torch.float64)
    kernel = torch.outer(line, line)
    assert torch.allclose(kernel, caffe_filler(taps), atol=1e-15)
    assert abs(float(kernel.sum()) - ((taps + 1) // 2) ** 2) < 1e-9


@given(
    factor=st.sampled_from([1, 2, 3, 4, 5, 8, 16, 32]),
    odd=st.booleans(),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 3),
    data=st.data(),
)
def test_fast_upsampling_is_the_full_transposed_convolution_cropped(factor, odd, height, width, channels, data):
    window = Window(kernel=2 * factor - odd, stride=factor, transposed=True)
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    full = F.conv_transpose2d(x, bilinear_weight(channels, window.kernel).double(), stride=factor)
    sizes = [window.size(n) for n in (height, width)]
    assert list(full.shape[2:]) == sizes
    offset = data.draw(st.integers(0, min(sizes) - 1))
    rows, columns = (data.draw(st.integers(1, n - offset)) for n in sizes)
    fast = Upsample(channels, window, learned=False)(x, offset, rows, columns)
    expected = full[:, :, offset : offset + rows, offset : offset + columns]
    assert float((fast - expected).abs().max()) < 1e-6  # the layer's weight is kept in single precision


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_inside_it_is_the_interpolation_of_half_pixels(factor):
    window = Window(kernel=2 * factor, stride=factor, transposed=True)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    mine = Upsample(2, window, learned=False)(x, factor // 2, 5 * factor, 6 * factor)
    theirs = F.interpolate(x, scale_factor=float(factor), mode="bilinear")
    inside = (slice(None), slice(None), slice(factor, -factor), slice(factor, -factor))
    assert torch.allclose(mine[inside], theirs[inside], atol=1e-12)
    assert not torch.allclose(mine, theirs, atol=1e-2)  # the border is the paper's: zeros outside, not clamped


def test_fixed_and_learned_begin_equal_and_only_learned_has_parameters():
    window = Window(kernel=4, stride=2, transposed=True)
    fixed, learned = Upsample(3, window, learned=False), Upsample(3, window, learned=True)
    x = torch.randn(1, 3, 4, 5)
    assert torch.allclose(fixed(x, 1, 7, 6), learned(x, 1, 7, 6), atol=1e-6)
    assert not list(fixed.parameters())
    assert [p.shape for p in learned.parameters()] == [(3, 3, 4, 4)]


def test_half_precision_is_upsampled_in_single():
    x = torch.randn(1, 2, 3, 3).bfloat16()
    layer = Upsample(2, Window(kernel=4, stride=2, transposed=True), learned=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x, 0, 8, 8)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(x.float(), 0, 8, 8))
