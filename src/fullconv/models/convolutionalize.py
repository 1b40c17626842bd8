"""From a classifier to a fully convolutional network (section 3.1 of the paper, figure 2).

A fully connected layer is a convolution whose kernel covers its whole input; a global average pool is an average
pool as large as the map it sees on the classifier's native crop. With these two exchanges the classifier takes an
image of any size and gives a map of class scores: on the native crop the same numbers as before, on a larger image
the classifier slid over it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import fx, nn

from fullconv.errors import UsageError
from fullconv.models.graph import bypass, finish, give, layers_of, shared_copy
from fullconv.models.surgery import Change, ConversionError, Surgery, shapes_at
from fullconv.models.trace import Trace, symbolic_trace, walk


@dataclass(frozen=True)
class Conversion:
    """What `convolutionalize` did: the exchanges, and the geometry of the result.

    `converted` names the convolutions that were fully connected layers over a map (fc6), `pools` the pools that were
    global.
    """

    changes: tuple[Change, ...]
    converted: tuple[str, ...]
    pools: tuple[str, ...]
    native_size: tuple[int, int]
    trace: Trace

    def __str__(self) -> str:
        axis = self.trace.last.rows
        lines = [f"{c.layer}: {c.was} -> {c.became}" for c in self.changes]
        lines.append(f"stride {axis.stride}, receptive field {axis.field}, first cell centred on {axis.start}")
        return "\n".join(lines)


def convolutionalize(
    classifier: nn.Module, native_size: int | tuple[int, int], channels: int = 3
) -> tuple[fx.GraphModule, Conversion]:
    """Return the dense form of a classifier, and the report of what became what.

    Args:
        classifier: Takes (N, channels, H, W) of the native size, gives (N, K). It is copied, not changed.
        native_size: The side of the crop that its fully connected layers were made for, or (height, width).
        channels: The channels of the image.

    Returns:
        A module from (N, channels, H, W) of any size that is large enough to (N, K, h, w), in the classifier's training
        or evaluation mode; and the `Conversion`.

    Raises:
        ConversionError: A layer has no exact dense form; the message names it.

    >>> import torch
    >>> lenet = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 12 * 12, 10))
    >>> dense, report = convolutionalize(lenet, 28, channels=1)
    >>> dense(torch.zeros(1, 1, 28, 28)).shape[2:], dense(torch.zeros(1, 1, 32, 30)).shape[2:]
    (torch.Size([1, 1]), torch.Size([3, 2]))
    >>> print(report)
    2: Flatten -> nothing
    3: Linear 576 -> 10 -> Conv2d 4 -> 10, 12x12
    stride 2, receptive field 28, first cell centred on 27/2
    """
    height, width = (native_size, native_size) if isinstance(native_size, int) else native_size
    graph_module = symbolic_trace(copy.deepcopy(classifier)).eval()
    name = type(classifier).__name__
    surgery = Surgery(graph_module, shapes_at(graph_module, name, (1, channels, height, width)))
    for node in list(graph_module.graph.nodes):
        surgery.exchange(node)
    surgery.finish()
    finish(graph_module, drop_unused=False).train(classifier.training)
    try:
        trace = walk(graph_module, channels)
    except UsageError as problem:
        if len(surgery.pools) > 1 and " joins " in str(problem):
            raise ConversionError(
                f"{name}: layer '{surgery.pools[0]}': it sees the whole map inside the net, as squeeze-and-excitation "
                "does: an endless receptive field, so no dense net is this classifier slid; take a net without it"
            ) from None
        raise ConversionError(f"{name}: {problem}") from None
    report = Conversion(tuple(surgery.changes), tuple(surgery.converted), tuple(surgery.pools), (height, width), trace)
    return graph_module, report


def decapitate(dense: fx.GraphModule, conversion: Conversion) -> fx.GraphModule:
    """Return the dense classifier without its class scores: the trunk that an FCN scores anew (section 4.1).

    The last layer with weights goes, with all that follows it, and so do global pools (GoogLeNet's final average pool
    "is dropped"). The trunk gives what the class scores were computed from (for VGG16: fc7 after its dropout).
    """
    trunk = shared_copy(dense)
    weighted = [node for node, layer in layers_of(trunk) if any(True for _ in layer.parameters(recurse=False))]
    if not weighted:
        raise ConversionError("the classifier has no layer with weights: nothing to take the features from")
    features = weighted[-1].all_input_nodes[0]
    if features.op == "placeholder":
        raise ConversionError(
            f"layer '{weighted[-1].target}': it is the only layer with weights; an FCN needs features below it"
        )
    give(trunk, features)
    for node, _ in list(layers_of(trunk)):
        if str(node.target) in conversion.pools:
            bypass(node)
    return finish(trunk)
