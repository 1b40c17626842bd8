"""Random scores at a coarse stride."""

import numpy as np
import torch
from hypothesis import strategies as st

from fullconv.geometry import Window, bilinear_line
from fullconv.inference.coarse_scores import CoarseScores


@st.composite
def coarse(draw):
    """Scores of a few classes on a small grid, smooth or noise, below a kernel with 2f or 2f - 1 taps and a crop."""
    factor = draw(st.sampled_from([1, 2, 3, 4, 8, 16, 32]))
    taps = 2 * factor - draw(st.integers(0, 1))
    classes, h, w = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(classes, h, w)).astype(np.float32)
    if draw(st.booleans()):  # one class wins in large parts
        scores[rng.integers(classes)] += 3
    window = Window(taps, factor, transposed=True)
    offset, size = [], []
    for cells in (h, w):
        full = window.size(cells)
        offset.append(draw(st.integers(0, full - 1)))
        size.append(draw(st.integers(1, full - offset[-1])))
    return CoarseScores(scores, window, tuple(offset), tuple(size))


def full(scores):
    """By the transposed convolution itself, in double precision."""
    line = torch.tensor(bilinear_line(scores.window.kernel), dtype=torch.double)
    x = torch.from_numpy(scores.scores).double()[:, None]
    found = torch.nn.functional.conv_transpose2d(x, torch.outer(line, line)[None, None], stride=scores.window.stride)
    (top, left), (height, width) = scores.offset, scores.size
    return found[:, 0, top : top + height, left : left + width].numpy()
