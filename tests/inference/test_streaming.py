"""An FCN over strips of rows gives the scores of the whole, for any strips."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nets import ends, small, strides

from fullconv.config import ModelConfig
from fullconv.geometry import GeometryError, Window
from fullconv.inference.large_image.streamed_layers import RowWindow, convolve, layers_of
from fullconv.inference.large_image.streaming import by_strips
from fullconv.models.build import build
from fullconv.optimize.fold_batchnorm import folded

FAST = ("vgg11", "alexnet")
NETS = [
    pytest.param(b, s, p, marks=() if b in FAST else pytest.mark.slow)
    for b in (*FAST, "mobilenet_v2", "resnet18", "squeezenet1_0", "googlenet")
    for s in (strides(b) if b in FAST else ends(b))
    for p in ("paper", "tight")
]
VARIANTS = [
    {"fuse": "max"},
    {"skip_scale": 0.01},
    {"levels": "finest"},
    {"last_pool": "dilated"},
    {"geometric_classes": 2},
    {"channels": 3, "late_fusion": "average"},
    {"channels": 3, "late_fusion": "sum"},
    {"channels": 4},
]


def lively(net):
    """In double precision, with scores that do not fade on the way."""
    torch.manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.normal_(layer.bias, std=0.1)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    return net.double().eval()


def gathered(net, image, rows):
    """The scores by task, from strips of so many rows each."""
    with torch.inference_mode():
        parts = list(by_strips(net, image.clone().split(rows, 2), *image.shape[2:]))
    return {task: torch.cat([part[task] for part in parts], 2) for task in net.tasks}


def assert_whole(net, height, width, rows):
    image = torch.randn(1, net.config.channels * len(net.streams), height, width, dtype=torch.float64)
    with torch.inference_mode():
        whole = net.coarse(image.clone())
    for task, found in gathered(net, image, rows).items():
        assert found.shape == whole[task].shape
        assert torch.allclose(found, whole[task], rtol=0, atol=1e-12 * max(1, float(whole[task].abs().max())))


@pytest.mark.parametrize("backbone, stride, padding", NETS)
@settings(max_examples=4)
@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from([1, 5, 32, 100, 300]))
def test_strips_are_the_whole(backbone, stride, padding, height, width, rows):
    assert_whole(lively(small(backbone, stride, padding=padding)), height, width, rows)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_strips_are_the_whole_in_the_variants_of_the_paper(variant):
    net = lively(build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 32, **variant)))
    for height, width, rows in ((97, 45, 32), (130, 33, 7), (1, 1, 1), (1, 70, 1), (70, 1, 64)):
        assert_whole(net, height, width, rows)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
def test_norms_may_be_folded(backbone):
    net, image = lively(small(backbone, 8)), torch.randn(1, 3, 90, 60, dtype=torch.float64)
    with torch.inference_mode():
        whole = net.coarse(image.clone())["semantic"]
        found = torch.cat([p["semantic"] for p in by_strips(folded(net), image.split(32, 2), 90, 60)], 2)
    assert torch.allclose(found, whole, rtol=0, atol=1e-12 * max(1, float(whole.abs().max())))
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in net.modules())  # the net is as it was


def test_strips_that_are_images_of_their_own_are_not_the_whole():
    net = lively(small("vgg11", 8))
    image = torch.randn(1, 3, 256, 64, dtype=torch.float64)
    with torch.inference_mode():
        apart = torch.cat([net.coarse(half)["semantic"] for half in image.split(128, 2)], 2)
    assert not torch.allclose(apart, gathered(net, image, 128)["semantic"], rtol=0, atol=1e-6)


def test_in_single_precision_the_difference_is_rounding():
    net = lively(small("vgg11", 8)).float()
    image = torch.randn(1, 3, 200, 150)
    with torch.inference_mode():
        whole = net.coarse(image)["semantic"]
    found = gathered(net, image, 64)["semantic"]
    assert (found - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_no_layer_makes_more_than_a_strip_at_a_time():
    """A hundred rows of padding, and what comes behind the last strip, come in rounds."""
    net = lively(small("vgg11", 8, padding="paper"))
    tallest = 0
    for layer in layers_of(net, 200, 40).values():
        assert layer.made == 0
    for part in by_strips(net, torch.zeros(1, 3, 200, 40, dtype=torch.float64).split(32, 2), 200, 40):
        tallest = max(tallest, part["semantic"].shape[2])
    assert tallest <= 32 // 8


@pytest.mark.parametrize("window", [
    Window(3, padding=1), Window(7, 2, 3), Window(3, 2, 0, ceil=True), Window(3, 1, 2, 2),
    Window(4, 2, transposed=True), Window(3, 2, transposed=True),
])  # fmt: skip
@pytest.mark.parametrize("skip", [0, 3])
def test_looks_are_those_of_the_windows(window, skip):
    look = RowWindow(window, skip)
    for row in range(12):
        seen = window.sources([row + skip], 10**6)  # without the padding
        first, end = look.seen(row, row + 1)
        if seen and first >= 0:
            assert (first, end) == (min(seen), max(seen) + 1)
        assert look.ready(end) > row >= look.ready(end - 1)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_a_convolution_of_many_taps_is_a_product_of_matrices(last, padding):
    layer = torch.nn.Conv2d(8, 64, 7, padding=(0, padding)).double()
    x = torch.randn(1, 8, 8, 9, dtype=torch.float64)
    if last:
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    found = convolve(x, layer, Window(7, padding=padding))
    assert torch.allclose(found, layer(x), rtol=0, atol=1e-12)
    assert found.permute(0, 2, 3, 1).is_contiguous()


def test_what_cannot_be_run_in_rows_is_named():
    net = small("vgg11", 8, upsample="learn-all")
    with pytest.raises(GeometryError, match=r"learned upsampling is not run strip by strip; give --tile"):
        layers_of(net, 64, 64)
