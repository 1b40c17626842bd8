"""Tiles are the whole, to rounding, with the halo of the geometry."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.errors import UsageError
from fullconv.inference.tiles import cut, predict_by_tile, scores_by_tile
from fullconv.models.reach import Reach, reach

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from test_fcn import small, strides

FAST = ("vgg11", "alexnet")
NETS = [
    pytest.param(b, s, p, marks=() if b in FAST else pytest.mark.slow)
    for b in (*FAST, "mobilenet_v2", "resnet18", "squeezenet1_0", "googlenet")
    for s in strides(b)
    for p in ("paper", "tight")
]


def net_of(backbone, stride, padding):
    torch.manual_seed(1)
    net = small(backbone, stride, padding=padding).double()
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == 3:
            torch.nn.init.normal_(layer.weight)
        if isinstance(layer, torch.nn.Conv2d):  # so that the scores do not fade on the way
            layer.weight.data.mul_(2)
    return net


def outputs_of(net):
    def outputs(image):
        with torch.inference_mode():
            return {"semantic": net(torch.from_numpy(image).double().permute(2, 0, 1)[None] / 64 - 2)}

    return outputs


def whole_of(scores, size):
    found = torch.full((3, *size), float("nan"), dtype=torch.float64)
    for tile, part in scores:
        top, left, bottom, right = tile.box
        assert found[:, top:bottom, left:right].isnan().all()  # each pixel once
        found[:, top:bottom, left:right] = part["semantic"]
    assert not found.isnan().any()
    return found


@pytest.mark.parametrize("backbone, stride, padding", NETS)
@settings(max_examples=3)
@given(st.integers(1, 330), st.integers(1, 330), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
def test_tiles_are_the_whole(backbone, stride, padding, height, width, rows, columns, seed):
    net = net_of(backbone, stride, padding)
    far = reach(net)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    outputs = outputs_of(net)
    whole = outputs(image)["semantic"][0]
    tiles = cut(height, width, (rows * far.period, columns * far.period), far)
    found = whole_of(scores_by_tile(image, tiles, outputs), (height, width))
    assert torch.allclose(found, whole, rtol=0, atol=1e-12 * max(1, float(whole.abs().max())))
    labels = predict_by_tile(image, tiles, outputs)["semantic"]
    assert (labels != whole.argmax(0).numpy()).mean() < 1e-3


def test_a_smaller_halo_is_not_the_whole():
    net = net_of("vgg11", 8, "tight")
    far = reach(net)
    image = np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8)
    outputs = outputs_of(net)
    whole = outputs(image)["semantic"][0]
    tiles = cut(256, 512, 128, far, halo=32)
    found = whole_of(scores_by_tile(image, tiles, outputs), (256, 512))
    assert not torch.allclose(found, whole, rtol=0, atol=1e-12)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(32, 700), st.integers(0, 300), st.integers(0, 300))
def test_the_tiles_cover_the_image_once_and_see_enough(height, width, tile, before, after):
    tiles = cut(height, width, tile, Reach(before, after, 32))
    area = 0
    for t in tiles:
        (top, left, bottom, right), (above, first, below, last) = t.box, t.seen
        assert above % 32 == first % 32 == 0
        assert max(bottom - top, right - left) <= tile
        assert above <= max(0, top - before) and below >= min(height, bottom + after)
        assert first <= max(0, left - before) and last >= min(width, right + after)
        assert above >= 0 and below <= height and first >= 0 and last <= width
        area += (bottom - top) * (right - left)
    assert area == height * width
    assert len({t.box for t in tiles}) == len(tiles)


def test_a_tile_smaller_than_the_stride_is_refused():
    with pytest.raises(UsageError, match=r"tile 16x16: smaller than the stride of the net; give 32 or more"):
        cut(100, 100, 16, Reach(1, 1, 32))
