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
