"""What a net costs for an image of a given size: arithmetic, weights and memory, without running it.

Arithmetic is a sum over the layers, with sizes from the trace and the steps of the head; memory is that of a dry run
(`fullconv.profiling.memory_model`). A net on the meta device will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.models.fcn import FCN, Score, Upscore
from fullconv.models.graph import node_names
from fullconv.profiling.memory_model import FakeModel, dry_run, skeleton

PARTS = ("trunk", "scores", "upsampling")
"""What the arithmetic is counted for."""

Sizes = dict[str, tuple[int, int]]
"""Rows and columns of features by name."""


@dataclass(frozen=True)
class Cost:
    """What one image of `height` x `width` pixels costs.

    trunk, scores, upsampling: multiply-adds of the convolutions below the class scores, of the 1x1 layers that score,
    and of bringing the scores to the image (matrix products; transposed convolutions where they are learned). Biases,
    norms, pools and activations are not counted.
    parameters: of the whole net. weight_bytes: of its tensors as a checkpoint holds them, batch norm's averages too.
    peak_bytes: the most that tensors other than weights take at one time in inference, image and logits included.
    kept_bytes: what the forward pass of training leaves for the backward pass: inputs of convolutions, places of
    maxima, masks of dropout. Gradients, the loss and the optimizer come on top.

    What a library takes for its own work inside of one layer is in neither.
    """

    height: int
    width: int
    trunk: int
    scores: int
    upsampling: int
    parameters: int
    weight_bytes: int
    peak_bytes: int
    kept_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add, as the field counts them."""
        return 2 * (self.trunk + self.scores + self.upsampling)


def cost(net: FCN, height: int, width: int) -> Cost:
    """The cost of a net for one image of so many pixels; the net may be on the meta device.

    >>> import torch
    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> with torch.device("meta"):
    ...     net = build(ModelConfig("vgg16", stride=32, num_classes=21, padding="paper"))
    >>> found = cost(net, 500, 500)
    >>> found.parameters, f"{found.flops / 1e9:.0f} GFLOPs", f"{found.peak_bytes / 1e6:.0f} MB"
    (134346581, '362 GFLOPs', '252 MB')
    """
    return Cost(
        height,
        width,
        **flops_by_part(net, height, width),
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        weight_bytes=sum(tensor.nbytes for tensor in net.state_dict().values()),
        peak_bytes=peak_bytes(net, height, width),
        kept_bytes=kept_bytes(net, height, width),
    )


def flops_by_part(net: FCN, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of the `PARTS`."""
    sizes, found = feature_sizes(net, height, width), dict.fromkeys(PARTS, 0)
    heads = [
        head_sizes(net, {name: size[axis] for name, size in sizes.items()}, (height, width)[axis]) for axis in (0, 1)
    ]
    for stream in net.streams:
        for name, layer in _layers(net, stream):
            slid = net.trace.sources[name][0] if isinstance(layer, nn.ConvTranspose2d) else name
            found["trunk"] += prod(sizes[slid]) * layer.weight.numel()
    for task, end in net.tasks.items():
        for step in net.head:
            there = [of_axis[step.name] for of_axis in heads]
            if isinstance(step, Score):
                for stream in net.streams:
                    weight: Tensor = net.get_parameter(f"{step.name}{stream}{end}.weight")
                    found["scores"] += prod(there) * weight.numel()
            elif isinstance(step, Upscore):
                learned: Any = net.get_submodule(f"{step.name}{end}").weight
                h, w = (of_axis[step.source] for of_axis in heads)
                products = net.classes[task] * there[1] * h * (w + there[0])
                found["upsampling"] += products if learned is None else h * w * learned.numel()
    return found


def peak_bytes(net: FCN, height: int, width: int) -> int:
    """The most bytes that tensors other than weights take at one time in inference, image and logits included."""
    net = skeleton(net).eval()
    with dry_run(net) as run, torch.no_grad():
        run(_images(net, run, 1, height, width))
    return run.ledger.tensors - run.start


def kept_bytes(net: FCN, height: int, width: int) -> int:
    """The bytes that the forward pass of training leaves for the backward pass, without the weights."""
    net = skeleton(net).train()
    try:
        return _kept(net, 1, height, width)
    except ValueError:  # torch trains no batch norm on one number; what is kept grows evenly with the images
        return 2 * _kept(net, 2, height, width) - _kept(net, 3, height, width)


def _kept(net: FCN, images: int, height: int, width: int) -> int:
    with dry_run(net) as run:
        weights, kept = set(run.ledger.holds()), set[int]()

        def keep(tensor: Tensor) -> Tensor:
            kept.add(run.ledger.show(tensor))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = run(_images(net, run, images, height, width))
        held = run.ledger.holds()
        del logits
    return sum(held[number] for number in kept - weights)


def _images(net: FCN, run: FakeModel, count: int, height: int, width: int) -> Tensor:
    like = next(iter(run.weights.values()))
    return torch.empty(count, net.config.channels * len(net.streams), height, width, dtype=like.dtype)


def _layers(net: FCN, stream: str) -> Iterator[tuple[str, Any]]:
    """The convolutions of a trunk, by their names in the trace."""
    trunk = net.get_submodule(f"backbone{stream}")
    assert isinstance(trunk, fx.GraphModule)
    for node, name in node_names(trunk.graph).items():
        layer = trunk.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            yield name, layer


def depth(net: FCN) -> int:
    """The number of layers with weights on the longest way from the image to the class scores: the "conv. layers" of
    the paper's table 1, 16 for VGG16. Batch norms are not counted, as in the names of ResNets.
    """
    weighted = dict(_layers(net, net.streams[0]))
    longest: dict[str, int] = {}
    for name, sources in net.trace.sources.items():
        longest[name] = max((longest[source] for source in sources), default=0) + (name in weighted)
    return max(longest[name] for name in net.features) + 1


def feature_sizes(net: FCN, height: int, width: int) -> Sizes:
    """The rows and columns of every feature of the trunk, by name, for an image of so many pixels."""
    rows, columns = (
        net.trace.sizes(pixels + sum(net.margin.of(pixels)), axis) for axis, pixels in enumerate((height, width))
    )
    return {name: (rows[name], columns[name]) for name in rows}


def head_sizes(net: FCN, features: Mapping[str, int], pixels: int) -> dict[str, int]:
    """Return the size of every head step's result on one axis, by name.

    Args:
        net: The network.
        features: The sizes of the trunk's features (`Trace.sizes`).
        pixels: The size of the image without its margin.
    """
    sizes = {"image": pixels}
    for step in net.head:
        if isinstance(step, Score):
            sizes[step.name] = features[step.feature]
        elif isinstance(step, Upscore):
            sizes[step.name] = step.join.size(sizes[step.source], sizes[step.onto])
        else:
            sizes[step.name] = sizes[step.upscore]
    return sizes
