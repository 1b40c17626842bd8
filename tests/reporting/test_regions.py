"""Regions are those that a walk over the pixels finds, and their border goes as its definition says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullconv.reporting.regions import components, inner, widened

CODES = arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(-1, 2))


def walked(codes):
    """The regions by walking, as a set of sets of pixels."""
    left, found = {tuple(p) for p in np.argwhere(codes >= 0).tolist()}, []
    while left:
        start = left.pop()
        region, edge = {start}, [start]
        while edge:
            row, column = edge.pop()
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in left and codes[near] == codes[start]:
                    left.discard(near)
                    region.add(near)
                    edge.append(near)
        found.append(frozenset(region))
    return set(found)


@given(CODES)
def test_regions_are_what_a_walk_finds(codes):
    numbers, count = components(codes)
    assert ((numbers >= 0) == (codes >= 0)).all()
    regions = [frozenset(map(tuple, np.argwhere(numbers == i).tolist())) for i in range(count)]
    assert len(set(regions)) == count and set(regions) == walked(codes)


def test_a_spiral_and_a_comb_are_one_region_each():
    comb = np.zeros((9, 40), np.int32)
    comb[1:, 1::2] = -1
    assert components(comb)[1] == 1
    assert components(comb[::-1])[1] == 1
    assert components(comb[1:])[1] == 20


@given(CODES, st.integers(0, 4))
def test_the_border_goes_and_the_edge_of_the_picture_is_none(codes, border):
    found = inner(codes, border)
    for (row, column), code in np.ndenumerate(codes):
        near = codes[
            max(0, row - border) : row + border + 1,
            max(0, column - border) : column + border + 1,
        ]
        assert found[row, column] == (code if (near == code).all() else -1)


@given(CODES, st.integers(0, 3))
def test_what_is_widened_again_is_part_of_the_region(codes, border):
    for code in (0, 1, 2):
        again = widened(inner(codes, border) == code, border)
        assert not (again & (codes != code)).any()
        assert again.any() == (inner(codes, border) == code).any()
