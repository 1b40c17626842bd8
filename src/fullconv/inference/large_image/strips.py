"""Label an image of any height in the memory of one strip, by row streaming.

An image that is too wide for a strip is cut in columns with a halo of the net's reach, which go down side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from fullconv.data.dataset import Image
from fullconv.errors import RunError
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.large_image.streamed_layers import WIDE, RowWindow
from fullconv.inference.large_image.streaming import by_strips
from fullconv.inference.large_image.tiles import Labels, Rows
from fullconv.inference.tensor_input import to_input
from fullconv.models.fcn import FCN
from fullconv.profiling import process_memory
from fullconv.profiling.graph_cost import feature_sizes, head_sizes, peak_bytes

if TYPE_CHECKING:
    from fullconv.inference.predictor import Predictor

Columns = Sequence[tuple[int, int, int, int]]
"""Of each column its begin and end, and those of what it sees."""


def labels_by_strip(
    predictor: Predictor, image: Rows, rows: int, columns: Columns, limit: int | None = None
) -> Iterator[Labels]:
    """The class of the highest score at each pixel by task, in rows from top to bottom.

    rows: of a strip. limit: bytes that may be taken before what the C library keeps is given back to the system.
    """

    def strips(first: int, last: int) -> Iterator[Image]:
        for top in range(0, image.height, rows):
            yield image.rows(top, min(image.height, top + rows))[:, first:last]

    start = process_memory.resident()
    scores = [scores_by_strip(predictor, strips(first, last), image.height, last - first)
              for _, _, first, last in columns]  # fmt: skip
    for side_by_side in zip(*scores, strict=True):
        parts = [
            {
                task: of_column.part(slice(None), slice(begin - first, end - first)).prediction()
                for task, of_column in found.items()
            }
            for found, (begin, end, first, _) in zip(side_by_side, columns, strict=True)
        ]
        yield {task: np.concatenate([part[task] for part in parts], 1) for task in parts[0]}
        if limit is not None and process_memory.resident() > start + limit * 4 // 5:
            process_memory.trim()


def scores_by_strip(
    predictor: Predictor, strips: Iterable[Image], height: int, width: int
) -> Iterator[dict[str, CoarseScores]]:
    """The scores by task of successive rows of pixels, `height` in all; `strips` are the rows of the image."""
    net = net_of(predictor)
    join = net.joins[-1]
    last = head_sizes(net, {name: size[0] for name, size in feature_sizes(net, height, width).items()}, height)
    look, offset = RowWindow(join.window, join.crop_scores), join.crop_scores
    device, kind = next(net.parameters()).device, next(net.parameters()).dtype
    inputs = (
        to_input(torch.from_numpy(np.array(strip)[None]).to(device), predictor.header.input).to(
            kind, memory_format=torch.channels_last
        )
        for strip in strips
    )
    found = by_strips(net, inputs, height, width)
    held: dict[str, torch.Tensor] = {}
    cells = done = 0
    training = net.training
    net.eval()
    try:
        while True:
            half = predictor.precision == "bf16" and predictor.prepared is None
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                new = next(found, None)
            if new is None:
                return
            held = {task: torch.cat([held[task], rows.float()], 2) if task in held else rows.float()
                    for task, rows in new.items()}  # fmt: skip
            cells += next(iter(new.values())).shape[2]
            first = cells - next(iter(held.values())).shape[2]
            ready = height if cells == last[net.scores] else min(height, look.ready(cells))
            if ready <= done:
                continue
            above = offset + done - first * join.window.stride
            yield {
                task: CoarseScores(rows[0].cpu().numpy(), join.window, (above, offset), (ready - done, width))
                for task, rows in held.items()
            }
            done = ready
            keep = cells - max(0, (offset + done) // join.window.stride - 1)
            held = {task: rows[:, :, max(0, rows.shape[2] - keep) :].clone() for task, rows in held.items()}
    except (RuntimeError, MemoryError) as problem:
        if process_memory.is_out_of_memory(problem):
            raise RunError(
                f"image of {height}x{width}: {process_memory.describe(problem)}; give a smaller --memory, or free some"
            ) from None
        raise
    finally:
        net.train(training)


def net_of(predictor: Predictor) -> FCN:
    """The net that goes over strips: the one that whole images go through, but for the ring."""
    net = predictor.prepared.net if predictor.prepared is not None else predictor.net
    assert isinstance(net, FCN)
    return net


def memory_of_strip(net: FCN, rows: int, width: int, columns: int = 1) -> int:
    """The bytes that strips of so many rows take, of so many columns of that width: what each holds between strips,
    and the tensors of one while it is computed, which the C library does not give back at once.
    """
    tall = max(1024, 8 * max(int(net.trace[name].rows.stride) for name in net.features))
    working = (peak_bytes(net, 2 * tall, width) - peak_bytes(net, tall, width)) * rows // tall
    weights = max(
        (p.nbytes for p in net.parameters() if p.ndim == 4 and prod(p.shape[2:]) < WIDE), default=0
    )  # that a library lays out anew
    held = columns * held_by_strips(net, rows, width)
    return held + 2 * working + min(3 * working, process_memory.KEPT) + weights + (32 << 20)


def held_by_strips(net: FCN, rows: int, width: int) -> int:
    """The bytes of the rows that are kept for the next strip, about: what windows look at again, and the scores of the
    skips, which wait for the coarsest.
    """
    sizes = feature_sizes(net, max(rows, 1024), width)
    held = sum(
        (net.trace.windows[name][0].span - 1 + net.trace.windows[name][0].stride)
        * sizes[sources[0]][1] * (net.trace[sources[0]].channels or 0)
        for name, sources in net.trace.sources.items()
        if sources and net.trace.windows[name][0].span > 1
    )  # fmt: skip
    classes = sum(net.classes.values())
    for name in net.features:
        lag = int(net.trace[net.features[0]].rows.field + rows) // int(net.trace[name].rows.stride)
        held += lag * sizes[name][1] * classes
    return 4 * held * len(net.streams)
