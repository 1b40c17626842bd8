"""Places and colours: what is rendered at once equals what is done step by step, and labels are never interpolated."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import zoo

from fullconv.config import InputConvention, TrainConfig
from fullconv.data.color import HUE, changed_color, colour_matrix
from fullconv.data.dataset import Sample
from fullconv.data.loader import BatchStream
from fullconv.data.transforms import (
    View,
    augmentation,
    outside,
    random_color,
    random_crop,
    random_flip,
    random_jitter,
    random_scale,
    render,
    resized,
    window,
)
from fullconv.errors import UsageError
from fullconv.io.image import overlay
from fullconv.labels import LabelSpace
from fullconv.reporting import augmentation_preview
from fullconv.reporting.augmentation_preview import draw_augmented

FILL = ((7, 90, 200), 255)
SEEDS = st.integers(0, 2**32)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
STRENGTHS = st.floats(0, 1)


def noise(size, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    return Sample(image, rng.integers(0, 21, size, dtype=np.uint8), "noise")


def rng(seed):
    return np.random.default_rng(seed)


def near(found, expected):
    """Equal but for how Pillow rounds: its two passes each give whole numbers."""
    apart = np.abs(found.astype(int) - expected)
    return apart.max(initial=0) <= 2 and (apart > 1).sum() <= 1 + apart.size // 10_000


# -- places ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    SIZES, SEEDS, st.floats(1.01, 3), st.none() | st.integers(1, 9), st.none() | SIZES, st.booleans(),
    st.sampled_from([3, 4, 6]),
)  # fmt: skip
def test_one_rendering_is_the_transforms_one_after_the_other(size, seed, scale, jitter, crop, flip, channels):
    sample, fill = noise(size, seed, channels), ((*FILL[0], 1, 2, 3)[:channels], 255)
    steps = [random_scale(scale)]
    steps += [random_jitter(jitter, fill)] if jitter else []
    steps += [random_crop(crop, fill)] if crop else []
    steps += [random_flip()] if flip else []
    expected, draws = sample, rng(seed)
    for step in steps:
        expected = step(expected, draws)
    config = TrainConfig(scale=scale, jitter=jitter or 0, crop=crop, flip=flip)
    other = rng(seed)
    found = augmentation(config, fill)(sample, other)
    assert other.random() == draws.random()  # as many numbers were drawn
    assert near(found.image, expected.image)
    np.testing.assert_array_equal(found.label, expected.label)


@settings(deadline=None)
@given(SIZES, SIZES, st.data())
def test_a_part_of_the_scaled_sample_is_a_part_of_it(size, target, data):
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, target[0])] * 2)))
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, target[1])] * 2)))
    sample = noise(size)
    part = render(sample, View.of(target).moved(top, left, (bottom - top, right - left)), FILL)
    whole = resized(sample, target)
    assert near(part.image, whole.image[top:bottom, left:right])
    np.testing.assert_array_equal(part.label, whole.label[top:bottom, left:right])


@given(SIZES, SIZES)
def test_scaling_is_pillows(size, target):
    sample = noise(size)
    found = resized(sample, target)
    picture = PIL.Image.fromarray(sample.image).resize(target[::-1], PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.image, np.asarray(picture))
    nearest = PIL.Image.fromarray(sample.label).resize(target[::-1], PIL.Image.Resampling.NEAREST)
    # Where a centre lies on the border of two pixels, Pillow's sum of steps may fall on either side of it.
    rows, columns = (
        [(2 * place + 1) * have % (2 * want) != 0 for place in range(want)]
        for have, want in zip(size, target, strict=True)
    )
    np.testing.assert_array_equal(found.label[rows][:, columns], np.asarray(nearest)[rows][:, columns])


@given(SIZES, st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20), SIZES), max_size=3), st.booleans())
def test_a_window_of_a_window(size, frames, mirrored):
    sample = noise(size)
    view, expected = View.of(size), sample
    for top, left, frame in frames:
        view, expected = view.moved(top, left, frame), window(expected, top, left, frame, FILL)
    if mirrored:
        view = View(view.whole, view.top, view.left, view.frame, view.box, True)
        expected = expected.changed(lambda image: image[:, ::-1], lambda label: label[:, ::-1])
    found = render(sample, view, FILL)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.label, expected.label)
    again = render(sample, view.moved(1, 2, (3, 4)), FILL)
    np.testing.assert_array_equal(again.image, window(expected, 1, 2, (3, 4), FILL).image)


@settings(deadline=None)
@given(SEEDS, st.sampled_from([np.int32, np.int64, np.uint16]))
def test_labels_of_any_integers_are_only_moved(seed, kind):
    sample = noise((20, 30), seed)
    sample = Sample(sample.image, sample.label.astype(kind) * 1000, "wide")
    config = TrainConfig(scale=2, jitter=3, crop=(15, 15), flip=True)
    found = augmentation(config, (FILL[0], 65535))(sample, rng(seed)).label
    assert found.dtype == kind
    assert set(np.unique(found)) <= set(np.unique(sample.label)) | {65535}


def test_a_label_of_another_size_is_refused():
    sample = Sample(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8), "turned")
    with pytest.raises(UsageError, match=r"turned: the semantic label is \(5, 4\)"):
        random_crop((2, 2), FILL)(sample, rng(0))


# -- colour ------------------------------------------------------------------------------------------------------------


@given(SIZES, SEEDS)
def test_strength_0_changes_nothing(size, seed):
    sample = noise(size, seed)
    np.testing.assert_array_equal(random_color(0)(sample, rng(seed)).image, sample.image)


@given(SIZES, SEEDS, STRENGTHS, st.sampled_from([3, 4, 6]))
def test_color_leaves_the_label_and_further_channels(size, seed, strength, channels):
    sample = noise(size, seed, channels)
    before = sample.image.copy()
    found = random_color(strength)(sample, rng(seed))
    assert found.label is sample.label
    np.testing.assert_array_equal(found.image[:, :, 3:], sample.image[:, :, 3:])
    np.testing.assert_array_equal(sample.image, before)
    np.testing.assert_array_equal(found.image, random_color(strength)(sample, rng(seed)).image)
    colours = random_color(strength)(Sample(before[:, :, :3], sample.label, "s"), rng(seed)).image
    np.testing.assert_array_equal(found.image[:, :, :3], colours)


FACTORS = st.floats(0, 2)
TURNS = st.floats(-HUE, HUE)


@given(FACTORS, FACTORS, FACTORS, TURNS)
def test_gray_stays_gray(brightness, contrast, saturation, hue):
    gray = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    found = changed_color(gray, brightness, contrast, saturation, hue)
    assert (found == found[:, :, :1]).all()
    np.testing.assert_array_equal(found, changed_color(gray, brightness, contrast, 1, 0))
    np.testing.assert_array_equal(changed_color(gray, 1, 1, saturation, hue), gray)


def slow(image, brightness, contrast, saturation, hue):
    """The changes one after the other in float64, as they are described."""
    pixels = image.astype(float) * brightness
    luma = np.array([0.299, 0.587, 0.114])
    pixels = contrast * pixels + (1 - contrast) * (pixels @ luma).mean()
    gray = (pixels @ luma)[..., None]
    pixels = saturation * pixels + (1 - saturation) * gray
    yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    y, i, q = np.moveaxis(pixels @ yiq.T, -1, 0)
    turned = (i + 1j * q) * np.exp(2j * np.pi * hue)
    return np.clip(np.stack([y, turned.real, turned.imag], -1) @ np.linalg.inv(yiq).T, 0, 255)


@given(SEEDS, FACTORS, FACTORS, FACTORS, TURNS)
def test_one_matrix_is_the_changes_one_after_the_other(seed, brightness, contrast, saturation, hue):
    image = noise((7, 9), seed).image
    found = changed_color(image, brightness, contrast, saturation, hue)
    assert np.abs(found - slow(image, brightness, contrast, saturation, hue)).max() < 0.5 + 3.5 * 255 / 4096


def test_more_pixels_than_are_changed_at_once():
    image = noise((101, 170)).image
    found = changed_color(image, 1.3, 0.7, 1.5, 0.05)
    assert np.abs(found - slow(image, 1.3, 0.7, 1.5, 0.05)).max() < 0.75
    mirrored = changed_color(image[:, ::-1], 1.3, 0.7, 1.5, 0.05)
    np.testing.assert_array_equal(mirrored, found[:, ::-1])


def test_the_hue_turns_and_comes_back():
    there, back = colour_matrix(1, 1, 1, 0.1), colour_matrix(1, 1, 1, -0.1)
    np.testing.assert_allclose(there @ back, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(colour_matrix(1, 1, 1, 1), np.eye(3), atol=1e-12)


@given(SEEDS, st.booleans())
def test_outside_the_image_no_color_is_changed(seed, flip):
    sample = noise((10, 12), seed)
    plain = TrainConfig(crop=(20, 20), jitter=4, flip=flip)
    coloured = TrainConfig(crop=(20, 20), jitter=4, flip=flip, color=1.0)
    before = augmentation(plain, FILL)(sample, rng(seed))
    after = augmentation(coloured, FILL)(sample, rng(seed))
    np.testing.assert_array_equal(before.label, after.label)  # and what is drawn for places is the same
    assert (after.image[after.label == 255] == FILL[0]).all()


def test_what_has_no_colours_is_refused():
    for image in (np.zeros((2, 2, 4), np.float32), np.zeros((2, 2, 1), np.uint8)):
        with pytest.raises(UsageError, match="color changes photographs"):
            random_color(0.5)(Sample(image, np.zeros((2, 2), np.uint8), "depth"), rng(0))
    for strength in (-0.1, 1.1):
        with pytest.raises(UsageError, match="from 0 to 1"):
            random_color(strength)
    with pytest.raises(UsageError, match="from 0 to 1"):
        augmentation(TrainConfig(color=2.0), FILL)


# -- what the net will see ---------------------------------------------------------------------------------------------


class Scenes:
    labels = LabelSpace.of(["background", "a", "b"])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image = np.full((12, 16, 3), 50 * index, np.uint8)
        return Sample(image, np.arange(192).reshape(12, 16).astype(np.uint8) % 3, f"s{index}")


def test_the_grid_shows_what_training_draws(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        augmentation_preview, "side_by_side", lambda rows, titles: drawn.update(rows=rows, titles=titles) or b""
    )
    config = TrainConfig(crop=(8, 8), scale=1.5, flip=True, color=0.5, batch_size=2, seed=5)
    draw_augmented(Scenes(), config, InputConvention(), rows=2, columns=4)
    assert [len(row) for row in drawn["rows"]] == [4, 4] and len(drawn["titles"]) == 4
    fill = outside(InputConvention(), 255)
    stream = BatchStream(Scenes(), augmentation(config, fill), fill, config.batch_size, config.seed)
    for step, row in enumerate(drawn["rows"]):
        batch = stream[step]
        first = Scenes()[int(batch.names[0][1:])]
        np.testing.assert_array_equal(row[0], overlay(first.image, first.label, Scenes.labels))
        np.testing.assert_array_equal(row[1], overlay(batch.images[0], batch.labels["semantic"][0], Scenes.labels))


@pytest.mark.parametrize("channels, kind", [(3, np.uint8), (1, np.float32), (4, np.float32), (6, np.uint8)])
def test_the_grid_is_a_png_of_whatever_an_image_is(channels, kind):
    class Some(Scenes):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            image = np.repeat(sample.image[:, :, :1], channels, axis=2).astype(kind)
            return Sample(image, {"semantic": sample.label, "geometric": sample.label}, sample.name)

    convention = InputConvention("rgb", (100.0,) * channels, (1.0,) * channels)
    png = draw_augmented(Some(), TrainConfig(scale=2.0, flip=True), convention, rows=1, columns=3)
    assert png.startswith(b"\x89PNG")
    for rows, columns in ((0, 3), (1, 1)):
        with pytest.raises(UsageError, match="give at least 1, 2 and 1"):
            draw_augmented(Some(), TrainConfig(), convention, rows, columns)


# -- other libraries ---------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "augmentation.md"
WORKED = {
    re.search(r"# (\w+)", block)[1]: block for block in re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S)
}


@pytest.mark.parametrize("library", ["torchvision", "kornia", "albumentations"])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_worked_examples_of_the_page(library):
    """A function of sample and generator; nobody's global state is changed; labels stay labels."""
    if library == "torchvision":
        zoo.torchvision()
    pytest.importorskip(library)
    assert set(WORKED) == {"torchvision", "kornia", "albumentations"}
    names = {}
    exec(compile(f"#{WORKED[library]}", PAGE.name, "exec"), names)
    sample = noise((40, 56))
    sample.label[:20] = 255
    before = torch.random.get_rng_state()
    first, again, other = (names["transform"](sample, rng(seed)) for seed in (3, 3, 4))
    assert (before == torch.random.get_rng_state()).all()
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert first.image.dtype == np.uint8 and first.image.shape == sample.image.shape
    assert first.label.shape == sample.label.shape and set(np.unique(first.label)) <= {*range(21), 255}
    assert (first.image != other.image).any() and (first.label[:20] != 255).mean() < 0.3
    assert not (first.label == sample.label).all()  # it was rotated
    assert first.label[0, 0] == 255  # and what came in is void
