"""The four numbers against a slow loop that is written from the paper's formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullconv.errors import UsageError
from fullconv.metrics import confusion_matrix, scores

K = 4


def labels(shape=(6, 5)):
    return arrays(np.uint8, shape, elements=st.sampled_from([*range(K), 255]))


predictions = arrays(np.uint8, (6, 5), elements=st.integers(0, K - 1))


def slow(prediction, label):
    """n_ij pixel by pixel, then section 5, with absent classes left out."""
    n = [[0] * K for _ in range(K)]
    for p, t in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
        if t != 255:
            n[t][p] += 1
    t = [sum(row) for row in n]
    union = [t[i] + sum(n[j][i] for j in range(K)) - n[i][i] for i in range(K)]
    total = sum(t)
    if not total:
        return n, None
    accuracy = [n[i][i] / t[i] for i in range(K) if t[i]]
    iu = [n[i][i] / union[i] for i in range(K) if union[i]]
    weighted = sum(t[i] * n[i][i] / union[i] for i in range(K) if union[i]) / total
    return n, (sum(n[i][i] for i in range(K)) / total, sum(accuracy) / len(accuracy), sum(iu) / len(iu), weighted)


@given(predictions, labels())
def test_against_the_slow_loop(prediction, label):
    counts = confusion_matrix(prediction, label, K)
    expected, four = slow(prediction, label)
    assert counts.tolist() == expected
    found = scores(counts)
    mine = (found.pixel_accuracy, found.mean_accuracy, found.mean_iu, found.frequency_weighted_iu)
    assert mine == (None,) * 4 if four is None else mine == pytest.approx(four, abs=1e-12)


@given(predictions, labels())
def test_the_matrix_of_the_whole_is_the_sum_of_the_parts(prediction, label):
    parts = sum(confusion_matrix(prediction[r : r + 1], label[r : r + 1], K) for r in range(6))
    assert (parts == confusion_matrix(prediction, label, K)).all()


def test_absent_classes_are_left_out_but_predicted_ones_count():
    found = scores(confusion_matrix(np.array([0, 0, 2]), np.array([0, 0, 0]), 4))
    assert found.iu == (2 / 3, None, 0.0, None)
    assert found.averaged == 2
    assert found.accuracy == (2 / 3, None, None, None)


@pytest.mark.parametrize(
    "prediction, label, words",
    [([0, 7], [0, 1], "prediction holds 7"), ([0, 1], [0, 9], "label holds 9"), ([0], [0, 1], "one shape")],
)
def test_values_outside_the_classes_are_errors(prediction, label, words):
    with pytest.raises(UsageError, match=words):
        confusion_matrix(np.array(prediction), np.array(label), 4)


def test_what_is_predicted_on_void_does_not_matter():
    label = np.array([0, 255, 255])
    assert (confusion_matrix(np.array([0, 1, 200]), label, 2) == [[1, 0], [0, 0]]).all()


KINDS = [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.uint64]


def one_by_one(prediction, label, classes, ignore_index):
    n = np.zeros((classes, classes), np.int64)
    for p, t in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
        if t != ignore_index:
            n[t, p] += 1
    return n


@given(
    st.sampled_from(KINDS), st.sampled_from(KINDS), st.sampled_from([1, 5, 21, 127]),
    st.sampled_from([255, 0, 127, -1]), st.integers(0, 2**32), st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_kind_of_number_at_any_size(kind, other, classes, ignore_index, seed, large, turned):
    """Small pictures and large ones go different ways; anything may be predicted on void."""
    rng = np.random.default_rng(seed)
    shape = (257, 256) if large else (5, 7)
    label = rng.integers(0, classes, shape).astype(kind)
    prediction = rng.integers(0, classes, shape).astype(other)
    if np.iinfo(kind).min <= ignore_index <= np.iinfo(kind).max:
        label[rng.random(shape) < 0.3] = ignore_index
        prediction[label == ignore_index] = rng.integers(0, 2)  # of one class, 1 is none
        prediction[(label == ignore_index) & (rng.random(shape) < 0.5)] = np.iinfo(other).max
    if turned:  # no rows of memory
        prediction, label = prediction.T[::-1], label.T[::-1]
    expected = one_by_one(prediction, label, classes, ignore_index)
    found = confusion_matrix(prediction, label, classes, ignore_index)
    assert found.dtype == np.int64 and (found == expected).all()


@pytest.mark.parametrize("size", [(0,), (0, 5), (), (1, 1)])
def test_nothing_and_next_to_nothing(size):
    assert confusion_matrix(np.zeros(size, np.uint8), np.zeros(size, np.int64), 3).sum() == np.prod(size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [4, 100, -1])
@pytest.mark.parametrize("void", [False, True])
def test_in_large_pictures_too_values_outside_the_classes_are_errors(kind, value, void):
    if value < 0 and np.iinfo(kind).min == 0:
        return
    right = np.zeros((300, 400), kind)
    wrong = right.copy()
    wrong[250, 7] = value
    for prediction, label, name in ((wrong, right, "prediction"), (right, wrong, "label"), (wrong, wrong, "label")):
        with pytest.raises(UsageError, match=f"the {name} holds {value}, outside the 4 classes"):
            confusion_matrix(prediction, label, 4)
    if void:
        assert confusion_matrix(wrong, wrong, 4, ignore_index=value).sum() == right.size - 1


def test_of_more_pixels_than_are_counted_at_once_and_more_classes_than_bytes():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 300, (2, 900, 800))
    whole = confusion_matrix(prediction, label, 300, ignore_index=-1)
    assert (whole == np.bincount((label * 300 + prediction).ravel(), minlength=90_000).reshape(300, 300)).all()
    some = confusion_matrix((prediction % 200).astype(np.uint8), (label % 256).astype(np.uint8), 256, ignore_index=-1)
    assert some.sum() == label.size and some[:, 200:].sum() == 0
    assert some[7, 9] == ((label % 256 == 7) & (prediction % 200 == 9)).sum()
