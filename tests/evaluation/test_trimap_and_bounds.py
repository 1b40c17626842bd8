"""Scores near borders, upper bounds of coarse scores, and the means over present classes, against slow loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fullconv.evaluation.trimap import border
from fullconv.evaluation.upper_bounds import coarse
from fullconv.labels import LabelSpace
from fullconv.metrics import confusion_matrix, scores

SPACE = LabelSpace.of(["a", "b", "c"])
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def drawn(size, seed):
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), size)


@given(sizes, st.integers(1, 5), st.integers(0, 10**6))
def test_the_border_is_what_a_slow_loop_finds(size, width, seed):
    label = drawn(size, seed)
    changes = {
        (y, x)
        for y in range(size[0])
        for x in range(size[1])
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= y + dy < size[0] and 0 <= x + dx < size[1] and label[y, x] != label[y + dy, x + dx]
    }
    expected = [
        [any(max(abs(y - v), abs(x - u)) < width for v, u in changes) for x in range(size[1])] for y in range(size[0])
    ]
    np.testing.assert_array_equal(border(label, width), expected)


@given(sizes, st.integers(1, 14), st.integers(0, 10**6))
def test_no_label_that_is_constant_on_the_cells_agrees_more(size, factor, seed):
    label = drawn(size, seed)
    found = coarse(label, factor, SPACE)
    for top in range(0, size[0], factor):
        for left in range(0, size[1], factor):
            cell = np.s_[top : top + factor, left : left + factor]
            (value,) = np.unique(found[cell])
            hits = [int((label[cell] == k).sum()) for k in range(3)]
            assert hits[value] == max(hits)


@given(sizes, st.integers(0, 10**6))
def test_a_factor_of_one_changes_nothing_but_void(size, seed):
    label = drawn(size, seed)
    valid = label != 255
    np.testing.assert_array_equal(coarse(label, 1, SPACE)[valid], label[valid])


@given(st.integers(0, 10**6))
def test_the_means_are_over_present_classes_where_that_is_asked(seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, 2, 50), rng.integers(0, 3, 50)
    counts = confusion_matrix(guess, truth, 3)
    every, present = scores(counts), scores(counts, present_only=True)
    assert present.iu[2] is None and present.averaged == len(np.unique(truth))
    assert every.pixel_accuracy == present.pixel_accuracy
    assert every.frequency_weighted_iu == present.frequency_weighted_iu
    if (guess == 2).any():
        assert every.iu[2] == 0 and every.averaged == present.averaged + 1
