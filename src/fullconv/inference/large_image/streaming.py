"""An FCN over an image that comes strip by strip, from top to bottom: the scores of the whole, and nothing is computed
twice.

Each layer makes the rows that its sources have come far enough for, and keeps of them what its next rows look at: two
rows of a 3x3 convolution. So the memory is that of a strip, whatever the height of the image, and there is no halo to
compute again; with a reach of 276 pixels (MobileNetV2) a tile's halo is soon more than the tile. Zeros are padded where
the whole has them, at the top and at the bottom, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor

from fullconv.inference.large_image.streamed_layers import INFINITY, SourceRows, StreamedLayer, layers_of
from fullconv.models.fcn import FCN


def by_strips(net: FCN, strips: Iterable[Tensor], height: int, width: int) -> Iterator[dict[str, Tensor]]:
    """The fused scores at the net's stride by task, those of `FCN.coarse`, in rows from top to bottom.

    strips: the net's own input, (1, C, rows, width), of `height` rows in all. From each come, in one or more parts,
    the scores that can be told by then, (1, K, rows, columns). Raises `GeometryError` for a net that can only be run as
    a whole.
    """
    layers = layers_of(net, height, width)
    users = {name: [user for user, layer in layers.items() if name in layer.sources] for name in layers}
    ends = {task: layers[f"{net.scores}{end}"] for task, end in net.tasks.items()}
    (top, bottom), (left, right) = net.margin.of(height), net.margin.of(width)
    given = rows = 0
    for strip in strips:
        above, given, rows = 0 if given else top, given + strip.shape[2], max(rows, strip.shape[2])
        padded = F.pad(strip, (left, right, above, bottom if given == height else 0))
        for stream, part in zip(net.streams, padded.chunk(len(net.streams), 1), strict=True):
            layers[f"image{stream}"].take(part)
        del strip, padded, part
        # No layer makes more at a time than what the strip is to it: 100 rows of padding come in rounds.
        while _round(layers, users, rows):
            found = {task: layer.held for task, layer in ends.items() if layer.held is not None}
            for layer in ends.values():
                layer.held = None
            if found:
                yield found


def _round(layers: dict[str, StreamedLayer], users: dict[str, list[str]], rows: int) -> bool:
    """Every layer makes what it can, as much as `rows` of the image are at most; whether there was anything to make."""
    advanced = False
    for name, layer in layers.items():
        advanced |= _advance(layer, layers, -(-rows // layer.stride))
        for source in layer.sources:
            if users[source][-1] == name:  # nobody looks at it any more in this round
                layers[source].drop(min(_needed(layers[user], source) for user in users[source]))
    return advanced


def _advance(layer: StreamedLayer, layers: dict[str, StreamedLayer], most: int) -> bool:
    """Make the rows that can be made now; whether there were any."""
    if layer.make is None:
        return False
    sources = [layers[source] for source in layer.sources]
    ready = [layer.height if s.made == s.height else look.ready(s.made)
             for s, look in zip(sources, layer.looks, strict=True)]  # fmt: skip
    row, end = layer.made, min(layer.height, layer.made + most, *ready)
    if end <= row:
        return False
    spans = [look.seen(row, end) for look in layer.looks]
    parts = [s.part(max(0, first), min(s.height, last)) for s, (first, last) in zip(sources, spans, strict=True)]
    (first, last), height = spans[0], sources[0].height
    above, below = max(0, min(0, last) - first), max(0, last - max(height, first))
    layer.take(layer.make(SourceRows(parts, row, end - row, max(0, first), above, below)))
    return True


def _needed(user: StreamedLayer, source: str) -> float:
    """The first row of a source that a layer still looks at."""
    if user.made == user.height:
        return INFINITY
    return min(
        look.seen(user.made, user.made)[0]
        for name, look in zip(user.sources, user.looks, strict=True)
        if name == source
    )
