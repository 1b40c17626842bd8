"""Batches are functions of the step, and image and label move together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.config import CONVENTIONS, InputConvention, TrainConfig
from fullconv.data.dataset import Sample
from fullconv.data.loader import BatchStream, batches, sample_index
from fullconv.data.transforms import augmentation, outside, random_flip, resized, window
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace

FILL = ((255, 255, 255), 255)


class Tagged:
    """Samples whose every pixel says where it comes from: the image repeats the label."""

    labels = LabelSpace.of([str(i) for i in range(200)])

    def __init__(self, length=5, size=(9, 12)):
        self.length, self.size = length, size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        height, width = self.size
        label = (np.arange(height * width).reshape(height, width) % 199 + index % 2).astype(np.uint8)
        return Sample(np.repeat(label[:, :, None], 3, axis=2), label, f"s{index}")


@given(
    crop=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
    flip=st.booleans(),
    jitter=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_image_and_label_move_together(crop, flip, jitter, seed):
    config = TrainConfig(crop=crop, flip=flip, jitter=jitter)
    sample = augmentation(config, FILL)(Tagged()[0], np.random.default_rng(seed))
    assert sample.image.shape[:2] == sample.label.shape == (crop or Tagged().size)
    assert (sample.image[:, :, 0] == sample.label).all()  # outside, both are 255


@given(st.integers(-15, 15), st.integers(-15, 15), st.integers(1, 20), st.integers(1, 20))
def test_a_window_is_the_padded_image_cut(top, left, height, width):
    sample = Tagged()[0]
    whole = np.pad(sample.label, 40, constant_values=255)
    found = window(sample, top, left, (height, width), FILL)
    assert (found.label == whole[40 + top : 40 + top + height, 40 + left : 40 + left + width]).all()


def test_flipping_twice_is_nothing_and_happens_half_of_the_time():
    sample, flipped = Tagged()[0], 0
    for seed in range(200):
        once = random_flip()(sample, np.random.default_rng(seed))
        if not (once.label == sample.label).all():
            flipped += 1
            assert (once.label[:, ::-1] == sample.label).all()
    assert 70 < flipped < 130


def test_resizing_keeps_labels_as_they_are():
    sample = resized(Tagged()[0], (31, 7))
    assert sample.image.shape == (31, 7, 3)
    assert set(np.unique(sample.label)) <= set(np.unique(Tagged()[0].label))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batch_of_a_step_is_the_same_whoever_asks(workers):
    config = TrainConfig(crop=(6, 6), flip=True, scale=2.0)
    stream = BatchStream(Tagged(), augmentation(config, FILL), FILL, batch_size=3, seed=4)
    late = {step: stream[step] for step in (7, 3, 5)}
    for step, batch in enumerate(batches(stream, 3, 8, workers), start=3):
        if step in late:
            assert (batch.images == late[step].images).all()
            assert (batch.labels["semantic"] == late[step].labels["semantic"]).all()
            assert batch.names == late[step].names


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(0, 5))
def test_each_epoch_holds_each_sample_once(seed, length, epoch):
    seen = [sample_index(seed, epoch * length + i, length) for i in range(length)]
    assert sorted(seen) == list(range(length))


def test_with_replacement_every_sample_comes_about_as_often():
    drawn = [sample_index(0, i, 10, replacement=True) for i in range(2000)]
    assert all(130 < drawn.count(k) < 270 for k in range(10))


def test_samples_of_different_sizes_are_extended_by_void():
    class Two(Tagged):
        def __getitem__(self, index):
            self.size = ((4, 9), (7, 3))[index]
            return super().__getitem__(index)

    batch = BatchStream(Two(2), augmentation(TrainConfig(), FILL), FILL, batch_size=2, seed=0)[0]
    assert batch.images.shape == (2, 7, 9, 3)
    assert (batch.labels["semantic"] == 255).sum() == 2 * 63 - 36 - 21


def test_outside_the_image_is_the_mean_colour():
    assert outside(CONVENTIONS["caffe"], 255) == ((122.67892, 116.66877, 104.00699), 255)
    assert outside(CONVENTIONS["nyud-color-d"], 255)[0] == (92.318, 97.203, 116.190, 7.844)
    fill = outside(InputConvention("rgb", (-5.0, 300.0, 7.4), (1.0, 1.0, 1.0)), 9)
    assert window(Tagged()[0], -1, 0, (1, 1), fill).image.tolist() == [[[0, 255, 7]]]


@given(st.sampled_from([4, 6]), st.floats(1.0, 3.0), st.integers(0, 9))
def test_every_channel_and_every_label_is_changed_alike(channels, scale, seed):
    """Depth and HHA beside the colours, and a second label, go through the same scaling, shift, crop and flip."""
    rows = np.arange(24, dtype=np.float32)[:, None] + np.zeros((24, 31), np.float32)
    image = np.repeat(rows[:, :, None], channels, 2).astype(np.float32 if channels == 4 else np.uint8)
    label = rows.astype(np.uint8)
    config = TrainConfig(crop=(16, 16), flip=True, scale=scale, jitter=3)
    change = augmentation(config, ((7.0,) * channels, 255))
    sample = change(Sample(image, {"semantic": label, "geometric": label}, "s"), np.random.default_rng(seed))
    assert sample.image.shape == (16, 16, channels) and sample.image.dtype == image.dtype
    assert (sample.image == sample.image[:, :, :1]).all()
    np.testing.assert_array_equal(sample.tasks["semantic"], sample.tasks["geometric"])
    inside = sample.semantic != 255  # outside the image are the fill and void, inside them a pixel has its row's number
    assert (sample.image[~inside] == 7).all()
    assert (np.abs(sample.image[inside][:, 0] - sample.semantic[inside].astype(float)) <= 1.01 + (scale > 1)).all()


def test_an_error_in_a_worker_comes_out_as_it_was():
    class Broken(Tagged):
        def __getitem__(self, index):
            raise UsageError("file: damaged; replace it")

    stream = BatchStream(Broken(), augmentation(TrainConfig(), FILL), FILL, batch_size=1, seed=0)
    with pytest.raises(UsageError, match=r"^file: damaged; replace it$"):
        list(batches(stream, 0, 2, workers=1))
