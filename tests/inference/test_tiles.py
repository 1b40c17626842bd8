"""Tiles are the whole, to rounding, with the halo of the geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nets import ends, small, strides

from fullconv.errors import UsageError
from fullconv.geometry import Reach
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.large_image.halo import reach
from fullconv.inference.large_image.tiles import (
    along,
    blended_labels,
    cut,
    fading,
    labels_by_tile,
    scores_by_tile,
    share_of_pixels,
    uncertain_share,
)
from fullconv.io.windowed import Decoded

FAST = ("vgg11", "alexnet")
NETS = [
    pytest.param(
        b, s, p, marks=() if b in FAST and (s, p) in ((8, "paper"), (8, "tight"), (32, "tight")) else pytest.mark.slow
    )
    for b in (*FAST, "mobilenet_v2", "resnet18", "squeezenet1_0", "googlenet")
    for s in (strides(b) if b in FAST else ends(b))
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
            logits = net(torch.from_numpy(image).double().permute(2, 0, 1)[None] / 64 - 2)[0]
        return {"semantic": CoarseScores.of_logits(logits.numpy())}

    return outputs


def whole_of(scores, size):
    found = np.full((3, *size), np.nan)
    for tile, part in scores:
        top, left, bottom, right = tile.box
        assert np.isnan(found[:, top:bottom, left:right]).all()  # each pixel once
        found[:, top:bottom, left:right] = part["semantic"].logits()
    assert not np.isnan(found).any()
    return found


@pytest.mark.parametrize("backbone, stride, padding", NETS)
@settings(max_examples=3)
@given(
    st.integers(500, 900), st.integers(1, 120), st.booleans(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9)
)
def test_tiles_are_the_whole(backbone, stride, padding, height, width, turned, rows, columns, seed):
    net = net_of(backbone, stride, padding)
    height, width = (width, height) if turned else (height, width)
    far = reach(net)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    outputs = outputs_of(net)
    whole = outputs(image)["semantic"].logits()
    tiles = cut(height, width, (rows * far.period, columns * far.period), far)
    assert len(tiles) > 1 or max(height, width) <= 2 * far.before + (2 + max(rows, columns)) * far.period
    found = whole_of(scores_by_tile(Decoded(image), tiles, outputs), (height, width))
    assert np.allclose(found, whole, rtol=0, atol=1e-12 * max(1, np.abs(whole).max()))
    labels = np.concatenate([rows["semantic"] for rows in labels_by_tile(Decoded(image), tiles, outputs)])
    assert (labels != whole.argmax(0)).mean() < 1e-3


def test_a_smaller_halo_is_not_the_whole():
    net = net_of("vgg11", 8, "tight")
    far = reach(net)
    image = np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8)
    outputs = outputs_of(net)
    whole = outputs(image)["semantic"].logits()
    tiles = cut(256, 512, 128, far, halo=32)
    found = whole_of(scores_by_tile(Decoded(image), tiles, outputs), (256, 512))
    differ = ~np.isclose(found, whole, rtol=0, atol=1e-12).all(0)
    assert 0 < differ.mean() <= uncertain_share(tiles, far)


@given(
    st.integers(1, 2000), st.integers(1, 2000), st.integers(32, 700), st.integers(0, 300), st.integers(0, 300),
    st.sampled_from([1, 8, 32]),
)  # fmt: skip
def test_the_tiles_cover_the_image_once_see_enough_and_are_of_one_size(height, width, tile, before, after, period):
    tiles = cut(height, width, tile, Reach(before, after, period))
    area = 0
    for t in tiles:
        (top, left, bottom, right), (above, first, below, last) = t.box, t.seen
        assert above % period == first % period == 0
        assert max(below - above, last - first) < tile + before + after + period
        assert above <= max(0, top - before) and below >= min(height, bottom + after)
        assert first <= max(0, left - before) and last >= min(width, right + after)
        assert 0 <= above <= top < bottom <= below <= height and 0 <= first <= left < right <= last <= width
        area += (bottom - top) * (right - left)
    assert area == height * width
    assert len({t.box for t in tiles}) == len(tiles)
    assert len({(t.seen[2] - t.seen[0], t.seen[3] - t.seen[1]) for t in tiles}) == 1
    assert share_of_pixels(tiles) >= 1
    assert uncertain_share(tiles, Reach(before, after, period)) == 0


@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 150))
def test_the_weights_of_blending_sum_to_one_and_change_little_from_pixel_to_pixel(pixels, tile, overlap):
    places = [
        (first, last) for _, _, first, last in along(pixels, tile, Reach(overlap // 2, overlap - overlap // 2, 1))
    ]
    total = np.zeros(pixels)
    for (first, last), weight in zip(places, fading(places, pixels, overlap), strict=True):
        assert (weight >= 0).all()
        total[first:last] += weight
    assert np.allclose(total, 1, atol=1e-6)


def test_blending_has_no_seams_and_keeps_what_all_tiles_agree_on():
    rng = np.random.default_rng(0)
    image = Decoded(rng.integers(0, 256, (300, 260, 3), np.uint8))

    def brightest(pixels):  # cell by cell: every tile says the same
        return {"semantic": CoarseScores.of_logits(pixels.transpose(2, 0, 1).astype(np.float32))}

    found = list(blended_labels(image, (128, 128), 32, brightest))
    assert len(found) > 1
    assert (np.concatenate([rows["semantic"] for rows in found]) == image.image.argmax(2)).all()

    calls = []

    def biased(pixels):  # each tile has another mean: a step at a hard seam
        calls.append(0)
        level = np.full(pixels.shape[:2], len(calls) % 2, np.float32)
        return {"semantic": CoarseScores.of_logits(np.stack([level, np.full_like(level, 0.5)]))}

    rows = np.concatenate([rows["semantic"] for rows in blended_labels(image, (300, 128), 32, biased)])
    steps = np.flatnonzero(np.diff(rows[0]))
    assert len(steps) == len(calls) - 1  # the classes change in the middle of each overlap


def test_a_tile_smaller_than_the_stride_is_refused():
    with pytest.raises(UsageError, match=r"tile 16x16: smaller than the stride of the net; give 32 or more"):
        cut(100, 100, 16, Reach(1, 1, 32))
