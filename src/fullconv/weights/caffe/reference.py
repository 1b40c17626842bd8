"""A Caffe net run layer by layer, as its file says: what a converted net is held against.

Each layer is Caffe's, with its own settings: nothing here knows the nets of the paper, and nothing is rearranged. It
is slow and plain, and is run on one small image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fullconv.errors import UsageError, shown
from fullconv.geometry import IMAGE, AxisMap, GeometryError, Window
from fullconv.weights.caffe.net import LOSSES, SOURCES, Layer, Net

ENDS = (*LOSSES, "Accuracy", "HDF5Output", "Silence", "SoftmaxWithLoss")
"""Layers that take scores and give no feature."""

LARGEST = 512
"""No net has a kernel, stride, padding or dilation beyond this; a damaged file may, and would want all the memory."""


def run(net: Net, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every blob of a net, by name, in the test phase; a blob that is computed in place has its last value.

    inputs: the blobs that are given, (N, C, H, W) of one floating type, which is that of all the arithmetic.
    Raises `UsageError` naming a layer that cannot be run: of an unknown type, without weights, or of a wrong size.
    """
    blobs = dict(inputs)
    grids = dict.fromkeys(inputs, IMAGE)
    for layer in net.layers:
        if layer.train_only or layer.type in ENDS or (layer.type in SOURCES and set(layer.tops) & set(inputs)):
            continue
        missing = [name for name in layer.bottoms if name not in blobs]
        if missing or layer.type in SOURCES:
            what = missing[0] if missing else layer.tops[0]
            raise UsageError(f"layer '{shown(layer.name)}': the blob '{shown(what)}' is not given; give it as an input")
        try:
            results = _compute(layer, [blobs[name] for name in layer.bottoms], [grids[n] for n in layer.bottoms])
            grid = _grid(layer, grids[layer.bottoms[0]])
        except (RuntimeError, IndexError, ValueError, KeyError, GeometryError) as problem:
            reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
            raise UsageError(
                f"layer '{shown(layer.name)}' ({layer.type}): it cannot be run ({reason}); "
                "check that the prototxt and the weights are of one net"
            ) from None
        blobs.update(zip(layer.tops, results, strict=False))
        grids.update(dict.fromkeys(layer.tops, grid))
    return blobs


def crop_offset(layer: Layer, grids: list[AxisMap]) -> int:
    """The offset of a Crop; where the file has none it is computed, as the branch of Caffe did that the FCNs were
    made on (Caffe itself would take 0, and the scores would be shifted).
    """
    given = layer.params["offset"]
    if len(set(given)) > 1 or layer.params["axis"] != 2:
        raise ValueError("only one offset for rows and columns is known")
    return int(given[0]) if given else grids[0].offset_to(grids[1])


def _window(layer: Layer) -> Window:
    p = layer.params
    (kernel, other), (stride, _), (pad, _) = p["kernel_size"], p["stride"], p["pad"]
    if kernel != other or len(set(p["stride"])) > 1 or len(set(p["pad"])) > 1:
        raise ValueError("only square windows are known")
    dilation = p.get("dilation", (1, 1))[0]
    if max(kernel, stride, pad, dilation) > LARGEST:
        raise ValueError(f"a window of {kernel} taps, stride {stride}, padding {pad}, dilation {dilation}")
    return Window(kernel, stride, pad, dilation, layer.type == "Deconvolution", ceil=layer.type == "Pooling")


def _grid(layer: Layer, grid: AxisMap) -> AxisMap:
    """Where the cells of a layer's output look."""
    if layer.type in ("Convolution", "Deconvolution") or (layer.type == "Pooling" and layer.params["kernel_size"][0]):
        return grid.then(_window(layer))
    return grid


def _weights(layer: Layer, like: Tensor) -> list[Tensor]:
    """The blobs of a layer as tensors of a type."""
    return [torch.tensor(blob, dtype=like.dtype) for blob in layer.blobs]


def _compute(layer: Layer, x: list[Tensor], grids: list[AxisMap]) -> list[Tensor]:
    """The tops of a layer from its bottoms."""
    p, first = layer.params, x[0]
    match layer.type:
        case "Convolution" | "Deconvolution":
            return [_convolve(layer, first)]
        case "InnerProduct":
            weight, bias = _weight_and_bias(layer, first)
            return [F.linear(first.flatten(int(p["axis"])), weight.reshape(int(p["num_output"]), -1), bias)]
        case "Pooling":
            return [_pool(layer, first)]
        case "LRN":
            if p["norm_region"] != "ACROSS_CHANNELS":
                raise ValueError("only normalization across channels is known")
            return [F.local_response_norm(first, p["local_size"], p["alpha"], p["beta"], p["k"])]
        case "ReLU":
            return [F.leaky_relu(first, p["negative_slope"])]
        case "Softmax":
            return [F.softmax(first, p["axis"])]
        case "Power":
            return [(p["shift"] + p["scale"] * first) ** p["power"]]
        case "Dropout" | "Split":
            return [first] * len(layer.tops)
        case "Flatten":
            return [first.flatten(p["axis"], p["end_axis"])]
        case "Concat":
            return [torch.cat(x, p["axis"])]
        case "Eltwise":
            return [_eltwise(p, x)]
        case "Crop":
            offset, (height, width) = crop_offset(layer, grids), x[1].shape[2:]
            cut = first[:, :, offset : offset + height, offset : offset + width]
            if offset < 0 or cut.shape[2:] != x[1].shape[2:]:
                raise ValueError(f"a crop at {offset} of {tuple(first.shape[2:])} does not cover {height}x{width}")
            return [cut]
        case "Scale" | "Bias" | "BatchNorm":
            return [_per_channel(layer, first)]
    raise UsageError(f"layer '{shown(layer.name)}': the type '{shown(layer.type)}' is not known; convert it by hand")


def _weight_and_bias(layer: Layer, like: Tensor) -> tuple[Tensor, Tensor | None]:
    found = _weights(layer, like)
    if len(found) != 1 + bool(layer.params["bias_term"]):
        raise ValueError(f"{len(found)} blobs, {1 + bool(layer.params['bias_term'])} wanted")
    return found[0], found[1].flatten() if len(found) > 1 else None


def _convolve(layer: Layer, x: Tensor) -> Tensor:
    weight, bias = _weight_and_bias(layer, x)
    window, groups = _window(layer), int(layer.params["group"])
    if layer.type == "Convolution":
        return F.conv2d(x, weight, bias, window.stride, window.padding, window.dilation, groups)
    return F.conv_transpose2d(x, weight, bias, window.stride, window.padding, groups=groups, dilation=window.dilation)


def _pool(layer: Layer, x: Tensor) -> Tensor:
    if layer.params["global_pooling"]:
        return x.amax((2, 3), keepdim=True) if layer.params["pool"] == "MAX" else x.mean((2, 3), keepdim=True)
    window, ceil = _window(layer), layer.params["round_mode"] == "CEIL"
    if layer.params["pool"] == "MAX":
        return F.max_pool2d(x, window.kernel, window.stride, window.padding, ceil_mode=ceil)
    if layer.params["pool"] == "AVE":
        return F.avg_pool2d(x, window.kernel, window.stride, window.padding, ceil_mode=ceil)
    raise ValueError(f"pooling of kind {layer.params['pool']} is not known")


def _eltwise(p: Mapping[str, Any], x: list[Tensor]) -> Tensor:
    if p["operation"] == "SUM":
        factors = p["coeff"] or (1.0,) * len(x)
        return torch.stack([factor * one for factor, one in zip(factors, x, strict=True)]).sum(0)
    return torch.stack(x).prod(0) if p["operation"] == "PROD" else torch.stack(x).amax(0)


def _per_channel(layer: Layer, x: Tensor) -> Tensor:
    blobs = [blob.flatten() for blob in _weights(layer, x)]
    if layer.type == "BatchNorm":
        mean, variance, factor = blobs
        scale = 1 / factor if float(factor) else torch.zeros_like(factor)
        return F.batch_norm(x, mean * scale, variance * scale, eps=layer.params["eps"])
    if layer.params["axis"] != 1 or not blobs:
        raise ValueError("only one number a channel is known")
    factors = blobs.pop(0).view(1, -1, 1, 1) if layer.type == "Scale" else 1.0
    return x * factors + (blobs[0].view(1, -1, 1, 1) if blobs else 0.0)
