"""What a net costs for an image of a given size: arithmetic, weights and memory, from its graph alone.

Nothing is run. The net is written down as the tensors it makes, one after the other, with rows and columns from the
trace and the joins; arithmetic and memory are sums over that list. So a net on the meta device will do, and an image
of any size takes no time.

All counts are of one image, in numbers of 4 bytes; only the weights do not grow with a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import fx, nn

from fullconv.geometry import GeometryError
from fullconv.models.dense_scores import WidelyPaddedMaxPool2d
from fullconv.models.fcn import FCN
from fullconv.models.trace import node_names
from fullconv.models.upsample import Upsample

FLOAT = 4
"""Bytes of a number."""

INDEX = 2
"""An index of a max pool, 8 bytes, in numbers of 4."""

Pair = tuple[int, int]
"""Rows and columns."""

Sizes = dict[str, Pair]
"""Rows and columns of the features of a trunk, by name."""


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

    What a library takes for its own work inside of one layer is in neither, nor is the making of the matrices of the
    upsampling (which shows for slivers of a few pixels). A library's layer that is two in one, timm's norm with its
    activation, counts as the layer that it is derived from.
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

    Raises `GeometryError` naming the layer whose number of channels is not known.

    >>> import torch
    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> with torch.device("meta"):
    ...     net = build(ModelConfig("vgg16", stride=32, num_classes=21, padding="paper"))
    >>> found = cost(net, 500, 500)
    >>> found.parameters, f"{found.flops / 1e9:.0f} GFLOPs", f"{found.peak_bytes / 1e6:.0f} MB"
    (134346581, '362 GFLOPs', '252 MB')
    """
    inference = list(_steps(net, height, width, training=False))
    of_part = {part: sum(step.multiply_adds for step in inference if step.part == part) for part in PARTS}
    return Cost(
        height,
        width,
        **of_part,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        weight_bytes=sum(tensor.nbytes for tensor in net.state_dict().values()),
        peak_bytes=FLOAT * _peak(inference),
        kept_bytes=FLOAT * _kept(list(_steps(net, height, width, training=True))),
    )


def depth(net: FCN) -> int:
    """The number of layers with weights on the longest way from the image to the class scores: the "conv. layers" of
    the paper's table 1, 16 for VGG16. Batch norms are not counted, as in the names of ResNets.
    """
    layers = _layers(net.get_submodule(f"backbone{net.streams[0]}"))
    longest: dict[str, int] = {}
    for name, sources in net.trace.sources.items():
        below = max((longest[source] for source in sources), default=0)
        longest[name] = below + isinstance(layers[name][1], nn.Conv2d | nn.ConvTranspose2d)
    return max(longest[name] for name in net.features) + 1


def feature_sizes(net: FCN, height: int, width: int) -> Sizes:
    """The rows and columns of every feature of the trunk, by name, for an image of so many pixels."""
    rows, columns = (
        net.trace.sizes(pixels + sum(net.margin.of(pixels)), axis) for axis, pixels in enumerate((height, width))
    )
    return {name: (rows[name], columns[name]) for name in rows}


# The net as the tensors it makes.

PARTS = ("trunk", "scores", "upsampling")
"""What the arithmetic is counted for."""


@dataclass(frozen=True)
class _Step:
    """One tensor is made from others.

    made: its numbers; 0 for one that lies where its first source lies. beside: numbers that are needed only while it
    is made. keeps: the tensors that its gradient is computed from; extra: numbers kept for that besides.
    """

    name: str
    sources: tuple[str, ...]
    made: int = 0
    beside: int = 0
    keeps: tuple[str, ...] = ()
    extra: int = 0
    part: str = ""
    multiply_adds: int = 0


def _homes(steps: Sequence[_Step]) -> dict[str, str]:
    """The tensor in whose memory each tensor lies."""
    homes: dict[str, str] = {}
    for step in steps:
        homes[step.name] = step.name if step.made else homes[step.sources[0]]
    return homes


def _peak(steps: Sequence[_Step]) -> int:
    """The most numbers that live at one time, each from its making to its last use."""
    homes, made = _homes(steps), {step.name: step.made for step in steps}
    last_use = {homes[name]: step.name for step in steps for name in (step.name, *step.sources)}
    live = most = 0
    for step in steps:
        live += step.made
        most = max(most, live + step.beside)
        live -= sum(made[home] for home in {homes[name] for name in (step.name, *step.sources)}
                    if last_use[home] == step.name)  # fmt: skip
    return most


def _kept(steps: Sequence[_Step]) -> int:
    """The numbers that are kept for the backward pass; a tensor that two layers need is kept once."""
    homes, made = _homes(steps), {step.name: step.made for step in steps}
    kept = {homes[name] for step in steps for name in step.keeps}
    return sum(made[home] for home in kept) + sum(step.extra for step in steps)


def _steps(net: FCN, height: int, width: int, training: bool) -> Iterator[_Step]:
    """The steps of `FCN.forward`, in its order, with its local variables."""
    sizes = feature_sizes(net, height, width)
    channels = net.config.channels * len(net.streams)
    padded = next(iter(sizes.values()))
    yield _Step("image", (), channels * height * width)
    yield _Step("padded", ("image",), 0 if padded == (height, width) else channels * prod(padded))
    for stream in net.streams:
        yield from _trunk_steps(net, stream, sizes, training)
    coarse: dict[str, tuple[str, Pair]] = {}
    for end in net.tasks.values():
        coarse[end] = yield from _decode_steps(net, end, sizes)
    features = (f"{name}{stream}" for stream in net.streams for name in net.features)
    yield _Step("coarse", ("padded", *features))
    for end, (scores, here) in coarse.items():
        yield _upsample_step(net, len(net.joins) - 1, end, f"logits{end}", (scores,), here, (height, width))
    logits = (f"logits{end}" for end in net.tasks.values())
    yield _Step("end", ("image", *(scores for scores, _ in coarse.values()), *logits))


# The trunk: what each kind of layer makes and keeps.

OF_RESULT = {"relu", "sigmoid", "tanh"}
"""Their gradient is computed from their result; that of other point-wise layers from their input."""

OVERWRITING = {*OF_RESULT, "leakyrelu", "elu"}
"""They need no copy of the input that they overwrite, working in place."""

HANDED_ON = {"identity", "contiguous", "float", "chunk", "split", "getitem", "droppath", "stochasticdepth"}
"""They give what they were given, or a part of it, without a copy (the last two in inference)."""

LINEAR = {*HANDED_ON, "add", "sub", "neg", "scale", "cat", "concat", "channelshuffle"}
"""Their gradient needs no tensor at all."""


def _layers(trunk: nn.Module) -> dict[str, tuple[fx.Node, nn.Module | None]]:
    """The nodes of a trunk, by the names of its trace, with their modules."""
    assert isinstance(trunk, fx.GraphModule)
    return {
        name: (node, trunk.get_submodule(str(node.target)) if node.op == "call_module" else None)
        for node, name in node_names(trunk.graph).items()
    }


def _trunk_steps(net: FCN, stream: str, sizes: Sizes, training: bool) -> Iterator[_Step]:
    layers = _layers(net.get_submodule(f"backbone{stream}"))
    for name, origins in net.trace.sources.items():
        node, layer = layers[name]
        channels = net.trace[name].channels
        if channels is None and (layer is not None or _called(node)[0] not in HANDED_ON):
            raise GeometryError(f"layer '{name}': its channels are not known, nor is its cost; split into equal parts")
        size = (channels or 0) * prod(sizes[name])
        made, sources = f"{name}{stream}", tuple(f"{origin}{stream}" for origin in origins)
        if not origins:
            yield _Step(made, ("padded",))
        elif layer is None:
            yield _pointwise_step(*_called(node), made, sources, size)
        else:
            yield _layer_step(layer, made, sources, size, sizes[origins[0]], sizes[name], training)


def _layer_step(
    layer: nn.Module, name: str, sources: tuple[str, ...], size: int, here: Pair, there: Pair, training: bool
) -> _Step:
    """The step of a module, from `here` to `there`."""
    in_place, cells = bool(getattr(layer, "inplace", False)), prod(there)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        slid = cells if isinstance(layer, nn.Conv2d) else prod(here)
        return _Step(name, sources, size, keeps=sources, part="trunk", multiply_adds=slid * layer.weight.numel())
    if isinstance(layer, WidelyPaddedMaxPool2d):  # it works on a padded copy of its input
        padded = prod(side + 2 * more for side, more in zip(here, layer.padding, strict=True)) * (size // cells)
        return _Step(name, sources, size, beside=padded + INDEX * size, extra=padded + INDEX * size)
    if isinstance(layer, nn.MaxPool2d):
        return _Step(name, sources, size, beside=INDEX * size, keeps=sources, extra=INDEX * size)
    if isinstance(layer, nn.AvgPool2d):
        return _Step(name, sources, size, keeps=sources)
    if isinstance(layer, nn.BatchNorm2d):  # mean and deviation of the batch, by channel
        return _Step(name, sources, size, keeps=sources, extra=2 * layer.num_features)
    if isinstance(layer, nn.LocalResponseNorm):  # made of simple steps; three of them keep a map, one with a border
        return _Step(name, sources, size, 2 * size, keeps=sources, extra=3 * size + (layer.size - 1) * cells)
    if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.AlphaDropout):
        drops = training and layer.p > 0
        mask = size // cells if isinstance(layer, nn.Dropout2d) else size
        return _Step(name, sources, size if drops and not in_place else 0, extra=mask if drops else 0)
    return _pointwise_step(type(layer).__name__.lower(), in_place, name, sources, size)


def _called(node: fx.Node) -> tuple[str, bool]:
    """The kind of a function or method, by the name that torch gives it, and whether it works in place."""
    name = str(getattr(node.target, "__name__", node.target))
    kind = {"iadd": "add", "imul": "mul"}.get(name, name).rstrip("_")
    if kind in ("mul", "truediv") and sum(isinstance(one, fx.Node) for one in node.args) == 1:
        kind = "scale"  # by a number
    return kind, name.endswith("_") or name in ("iadd", "imul") or bool(node.kwargs.get("inplace"))


def _pointwise_step(kind: str, in_place: bool, name: str, sources: tuple[str, ...], size: int) -> _Step:
    """The step of an activation, a norm, a sum, a product, a concatenation."""
    kind = kind.replace("_", "")
    made = 0 if in_place or kind in HANDED_ON else size
    if kind in LINEAR:
        return _Step(name, sources, made)
    if in_place and kind not in OVERWRITING:
        return _Step(name, sources, keeps=sources[1:], extra=size)
    return _Step(name, sources, made, keeps=(name,) if kind in OF_RESULT else sources)


# The head: scores, upsampling, skips.


def _decode_steps(net: FCN, end: str, sizes: Sizes) -> Generator[_Step, None, tuple[str, Pair]]:
    """The steps of `FCN.decode` for one task, whose layers end in `end`; the name and size of the scores it gives."""
    classes = _score(net, 0, net.streams[0], end).out_channels
    yield from _score_steps(net, 0, end, sizes)
    scores, here = f"scores 0{end}", sizes[net.features[0]]
    held: tuple[str, ...] = ()  # its variables still hold the skip and the upsampled scores of the level before
    for level, join in enumerate(net.joins[:-1], start=1):
        there = sizes[net.features[level]]
        goal = join.size(here[0], there[0]), join.size(here[1], there[1])
        skip, upsampled, fused = f"scores {level}{end}", f"upsampled {level}{end}", f"fused {level}{end}"
        yield from _score_steps(net, level, end, sizes, held[:1])
        yield _upsample_step(net, level - 1, end, upsampled, (scores, *held[1:]), here, goal)
        needed = (upsampled, skip) if net.fuse is torch.maximum else ()
        yield _Step(fused, (upsampled, skip, scores), classes * prod(goal), keeps=needed)
        scores, here, held = fused, goal, (skip, upsampled)
    return scores, here


def _score(net: FCN, level: int, stream: str, end: str) -> nn.Conv2d:
    layer = net.get_submodule(f"{net.score_names[level]}{stream}{end}")
    assert isinstance(layer, nn.Conv2d)
    return layer


def _score_steps(net: FCN, level: int, end: str, sizes: Sizes, held: tuple[str, ...] = ()) -> Iterator[_Step]:
    """The steps of `FCN.score`; the last is named ``scores`` with the level."""
    cells, name, found = prod(sizes[net.features[level]]), f"scores {level}{end}", []
    for stream in net.streams:
        layer, feature = _score(net, level, stream, end), f"{net.features[level]}{stream}"
        if net.config.skip_scale**level != 1:
            feature, plain = f"scaled {feature}{end}", feature
            yield _Step(feature, (plain,), layer.in_channels * cells)
        found.append(f"{name}{stream}")
        size, slid = layer.out_channels * cells, layer.weight.numel() * cells
        yield _Step(found[-1], (feature, *held), size, keeps=(feature,), part="scores", multiply_adds=slid)
    if len(found) > 1:  # each is multiplied by its weight, then they are added
        yield _Step(name, (*found, *held), size, beside=2 * size)


def _upsample_step(
    net: FCN, level: int, end: str, name: str, sources: tuple[str, ...], here: Pair, there: Pair
) -> _Step:
    """The step of `Upsample`, from one size to another; the scores are the first of the sources."""
    layer = net.get_submodule(f"{net.upscore_names[level]}{end}")
    assert isinstance(layer, Upsample)
    classes = _score(net, 0, net.streams[0], end).out_channels
    (h, w), (rows, columns) = here, there
    if layer.weight is not None:
        full = classes * prod(layer.window.size(cells) for cells in here)
        slid = h * w * layer.weight.numel()
        return _Step(name, sources, full, keeps=sources[:1], part="upsampling", multiply_adds=slid)
    wide, matrices = classes * h * columns, rows * h + columns * w
    products = wide * w + classes * rows * columns * h
    return _Step(
        name, sources, classes * rows * columns, wide + matrices,
        extra=matrices, part="upsampling", multiply_adds=products,
    )  # fmt: skip
