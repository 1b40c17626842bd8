"""The fast upsampling against the full transposed convolution, and the kernel against Caffe's filler."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fullconv.geometry import Window
from fullconv.models.upsample import Upsample, bilinear_kernel, bilinear_upsample, bilinear_weight


def caffe_filler(taps):
    """BilinearFiller of Caffe, value by value."""
    f = math.ceil(taps / 2)
    c = (taps - 1) / (2 * f)
    return torch.tensor(
        [[(1 - abs(x / f - c)) * (1 - abs(y / f - c)) for x in range(taps)] for y in range(taps)], dtype=torch.float64
    )


@pytest.mark.parametrize("taps", [3, 4, 15, 16, 31, 32, 63, 64])
def test_kernel_is_caffes_and_sums_to_the_square_of_the_factor(taps):
    kernel = bilinear_kernel(taps, torch.float64)
    assert torch.allclose(kernel, caffe_filler(taps), atol=1e-15)
    assert abs(float(kernel.sum()) - ((taps + 1) // 2) ** 2) < 1e-9


@given(
    factor=st.sampled_from([1, 2, 3, 4, 5, 8, 16, 32]),
    odd=st.booleans(),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 3),
)
def test_fast_upsampling_is_the_full_transposed_convolution(factor, odd, height, width, channels):
    taps = 2 * factor - odd
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    full = F.conv_transpose2d(x, bilinear_weight(channels, taps).double(), stride=factor)
    fast = bilinear_upsample(x, factor, taps)
    assert fast.shape == full.shape
    assert float((fast - full).abs().max()) < 1e-6  # the weight is kept in single precision


def test_fixed_and_learned_begin_equal_and_only_learned_has_parameters():
    window = Window(kernel=4, stride=2, transposed=True)
    fixed, learned = Upsample(3, window, learned=False), Upsample(3, window, learned=True)
    x = torch.randn(1, 3, 4, 5)
    assert torch.allclose(fixed(x), learned(x), atol=1e-6)
    assert not list(fixed.parameters())
    assert [p.shape for p in learned.parameters()] == [(3, 3, 4, 4)]


def test_half_precision_is_upsampled_in_single():
    x = torch.randn(1, 2, 3, 3).bfloat16()
    assert Upsample(2, Window(kernel=4, stride=2, transposed=True), learned=False)(x).dtype == torch.float32
