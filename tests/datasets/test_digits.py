from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.data.dataset import SPLITS, Dataset
from fullconv.datasets.published.label_spaces import DIGITS
from fullconv.datasets.synthetic import digits, handwriting
from fullconv.datasets.synthetic.digits import Digits, single_digits
from fullconv.errors import UsageError

VALUES = [*range(len(DIGITS)), DIGITS.ignore_index]


def test_a_scene_depends_on_nothing_but_seed_split_and_index() -> None:
    forward, backward = Digits("train", (64, 80)), Digits("train", (64, 80), length=7)
    samples = [forward[i] for i in range(7)]
    for i in reversed(range(7)):
        again = backward[i]
        np.testing.assert_array_equal(again.image, samples[i].image)
        np.testing.assert_array_equal(again.label, samples[i].label)
        assert again.name == samples[i].name


def test_other_seeds_splits_and_indices_give_other_scenes() -> None:
    scenes = [Digits(split, (48, 48), seed=seed)[i] for split in SPLITS for seed in (0, 1) for i in (0, 1)]
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_no_handwritten_digit_stands_in_two_splits_and_none_is_lost() -> None:
    everything = np.concatenate([Digits(split, seed=seed).sources for seed, split in enumerate(SPLITS)])
    assert sorted(everything) == list(range(1797))
    assert [round(len(Digits(split).sources) / 1797, 2) for split in SPLITS] == [0.7, 0.15, 0.15]


def test_a_scene_is_drawn_from_the_handwriting_of_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[int]] = {}
    glyph, shard = digits.glyph, digits.shard_of
    for split in SPLITS:
        seen = used[split] = set()
        monkeypatch.setattr(digits, "glyph", lambda source, seen=seen: seen.add(source) or glyph(source))
        monkeypatch.setattr(digits, "shard_of", lambda source, part, seen=seen: seen.add(source) or shard(source, part))
        scenes = Digits(split, (96, 96))
        for i in range(20):
            scenes[i]
        single_digits(split, 24, range(20))
        assert seen and seen <= set(scenes.sources.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 130), st.integers(1, 130), st.integers(0, 199), st.integers(0, 2**40), st.sampled_from(SPLITS))
def test_every_size_works(height: int, width: int, index: int, seed: int, split: str) -> None:
    sample = Digits(split, (height, width), seed=seed)[index]
    assert sample.image.shape == (height, width, 3) and sample.image.dtype == np.uint8
    assert sample.label.shape == (height, width) and sample.label.dtype == np.uint8
    assert sample.image.flags.c_contiguous
    assert np.isin(sample.label, VALUES).all()


def test_shares_of_the_classes() -> None:
    scenes = Digits("train", (128, 128), length=200)
    counts = sum(np.bincount(scene.label.ravel(), minlength=256) for scene in scenes)
    share = counts / counts.sum()
    assert 0.65 < share[0] < 0.9
    assert (share[1:11] > 0.005).all() and (share[1:11] < 0.05).all()
    assert 0.01 < share[255] < 0.08
    assert all(len(np.setdiff1d(np.unique(scene.label), [0, 255])) for scene in scenes), "a scene without a digit"


def test_void_parts_every_digit_from_the_ground() -> None:
    for scene in Digits("val", (128, 128), length=10):
        label = scene.label.astype(int)
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            touching = (a != b) & (a != 255) & (b != 255)
            assert touching.mean() < 1e-3


def test_digits_stand_out_where_the_label_says() -> None:
    """Across the void ring brightness jumps; moved by eight pixels the label no longer fits."""

    def spread_within_digits(shift: int) -> float:
        spreads = []
        for scene in Digits("val", (128, 128), length=12):
            grey, label = scene.image.mean(axis=2), np.roll(scene.label, shift, axis=1)
            spreads += [grey[label == k].std() for k in np.unique(scene.label) if 0 < k < 255]
        return float(np.median(spreads))

    assert 2 * spread_within_digits(0) < spread_within_digits(8)


def test_indices_are_those_of_a_sequence() -> None:
    scenes = Digits("test", (8, 8), length=3)
    assert [scene.name for scene in scenes] == ["digits-test-00000", "digits-test-00001", "digits-test-00002"]
    assert scenes[-1].name == scenes[np.int64(2)].name == "digits-test-00002"
    with pytest.raises(IndexError):
        scenes[3]


def test_it_is_a_dataset_and_travels_to_workers() -> None:
    dataset: Dataset = Digits("val", (16, 16))
    assert dataset.labels is DIGITS and len(dataset) == 200
    there = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(there[1].image, dataset[1].image)


def test_single_digits_have_the_classes_of_the_scenes() -> None:
    images, classes = single_digits("train", 28, range(300))
    assert images.shape == (300, 28, 28, 3) and images.dtype == np.uint8 and classes.dtype == np.int64
    assert set(classes.tolist()) == set(range(len(DIGITS)))
    assert 0.15 < (classes == 0).mean() < 0.35
    assert (single_digits("val", 16, range(40), background=1.0)[1] == 0).all()
    assert (single_digits("val", 16, range(40), background=0.0)[1] > 0).all()


def test_single_digits_depend_on_nothing_but_seed_split_and_index() -> None:
    images, classes = single_digits("val", 20, range(8))
    for i in (5, 0, 7):
        image, cls = single_digits("val", 20, [i])
        np.testing.assert_array_equal(image[0], images[i])
        assert cls[0] == classes[i]
    assert not np.array_equal(single_digits("val", 20, range(8), seed=1)[0], images)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_single_digits_of_any_size(size: int) -> None:
    images, classes = single_digits("test", size, range(20))
    assert images.shape == (20, size, size, 3) and classes.max() <= 10
    assert single_digits("test", size, [])[0].shape == (0, size, size, 3)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    handwriting.handwriting.cache_clear()
    handwriting.sources_of.cache_clear()
    for needs in (lambda: Digits("train"), lambda: single_digits("train", 32, range(1))):
        with pytest.raises(UsageError, match=r"^digits: needs scikit-learn; pip install 'fullconv\[demo\]'$"):
            needs()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"split": "val", "size": (0, 5)}, "size"),
        ({"split": "val", "length": -1}, "length"),
        ({"split": "val", "seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Digits(**arguments)
