"""How far the scores of a pixel look: what decides the halo with which tiles equal the whole.

A receptive field speaks of one cell of one feature. A pixel's scores are made of several cells of each stride, by the
bilinear kernels between them; what they see together is its reach, and it changes with the pixel's place in the period.
"""

from __future__ import annotations

from fullconv.geometry import Reach
from fullconv.models.fcn import FCN, Fuse, Upscore
from fullconv.profiling.graph_cost import head_sizes


def reach(net: FCN) -> Reach:
    """The reach of an FCN, from its geometry: exact, the least that holds for every pixel.

    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> reach(build(ModelConfig("vgg11", stride=32, width=1 / 64)))
    Reach(before=202, after=202, period=32)
    """
    period = int(net.trace[net.features[0]].axis.stride)
    wide = max(int(net.trace[name].axis.field) for name in net.features)
    # Long enough that the middle sees no border.
    pixels = 2 * (wide + 4 * period) // period * period + period
    middle = pixels // 2 // period * period
    before = after = 0
    for pixel in range(middle, middle + period):
        first, last = support(net, pixel, pixels)
        before, after = max(before, pixel - first), max(after, last - pixel)
    return Reach(before, after, period)


def support(net: FCN, pixel: int, pixels: int) -> tuple[int, int]:
    """The first and the last pixel, of an axis of so many, that the scores of one pixel are computed from.

    Raises `ValueError` for a pixel that sees the margin alone.
    """
    front, back = net.margin.of(pixels)
    whole = front + pixels + back
    sizes = head_sizes(net, net.trace.sizes(whole), pixels)
    wanted, seen = {net.head[-1].name: {pixel}}, set[int]()
    for step in reversed(net.head):
        if isinstance(step, Upscore):
            cells = {cell + step.join.crop_scores for cell in wanted[step.name]}
            scores = step.join.window.sources(cells, sizes[step.source])
            wanted[step.source] = {min(scores), max(scores)}  # what lies between them sees no further
        elif isinstance(step, Fuse):
            wanted[step.upscore] = wanted[step.name]
            wanted[step.skip] = {cell + step.join.crop_skip for cell in wanted[step.name]}
        else:
            seen |= net.trace.support(step.feature, wanted[step.name], whole)
    inside = {place - front for place in seen if 0 <= place - front < pixels}
    return min(inside), max(inside)
