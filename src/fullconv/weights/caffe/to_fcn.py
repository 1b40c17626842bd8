"""A Caffe net as one of ours: its weights by our names, and the proof that both compute the same.

Weights go over by name. Then the Caffe graph is run as it is written, beside the converted net, and the scores must
agree (`difference`): whatever the file holds that was not understood shows there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fullconv.errors import UsageError, shown
from fullconv.models.build import build, build_classifier, native_size
from fullconv.models.fcn import FCN, STREAMS
from fullconv.weights.caffe.net import Net
from fullconv.weights.caffe.recognize import Recognized, dense_upsampling
from fullconv.weights.caffe.reference import ENDS, run


def with_weights(graph: Net, weights: Mapping[str, tuple[np.ndarray, ...]], where: str) -> Net:
    """Give the layers of a prototxt the blobs of a caffemodel, by name, as Caffe does.

    Args:
        graph: The net of the prototxt.
        weights: The blobs of the caffemodel by layer, as `read_blobs` returns them.
        where: The caffemodel, for errors.

    Raises:
        UsageError: A layer of the prototxt has no weights in the caffemodel.

    """
    layers = [replace(layer, blobs=weights.get(layer.name, ())) for layer in graph.layers]
    for layer in layers:
        if layer.type in ("Convolution", "Deconvolution", "InnerProduct") and not layer.blobs and not layer.train_only:
            raise UsageError(
                f"{where}: it has no weights for layer '{shown(layer.name)}' of the prototxt ({layer.place}); "
                "give the prototxt that belongs to it"
            )
    return replace(graph, layers=tuple(layers))


def state_dict(found: Recognized, where: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The weights by our names, and which Caffe layers were copied, reshaped, or left out.

    The shapes are those of the net that was recognized; raises `UsageError` naming the layer that does not fit.
    """
    target = {name: tensor.shape for name, tensor in converted_net(found, "meta").state_dict().items()}
    tensors: dict[str, Tensor] = {}
    did: dict[str, list[str]] = {"copied": [], "reshaped": [], "unused": []}
    for name, layer in found.layers.items():
        keys = [f"{_place(found, name)}.{part}" for part in ("weight", "bias")]
        if keys[0] not in target:
            did["unused"].append(layer.name)
            continue
        blobs = [dense_upsampling(layer)] if layer.type == "Deconvolution" else [torch.tensor(b) for b in layer.blobs]
        wanted = [target[key] for key in keys if key in target]
        if len(wanted) != len(blobs) or any(b.numel() != w.numel() for b, w in zip(blobs, wanted, strict=True)):
            shapes = " and ".join(str(tuple(blob.shape)) for blob in blobs)
            raise UsageError(
                f"{where}: layer '{shown(layer.name)}' is {shapes}, and {found.config.backbone} of width "
                f"{found.config.width:g} wants {' and '.join(str(tuple(w)) for w in wanted)}; convert it by hand"
            )
        same = all(blob.shape == shape for blob, shape in zip(blobs, wanted, strict=True))
        did["copied" if same else "reshaped"].append(layer.name)
        tensors.update({k: b.reshape(w) for k, b, w in zip(keys, blobs, wanted, strict=False)})
    missing = [name for name in target if name not in tensors]
    if missing:
        raise UsageError(f"{where}: it has no weights for '{missing[0]}'; is it a whole {found.config.backbone}?")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UsageError(f"{where}: '{name}' has values that are not finite; take another copy")
    return tensors, did


def _place(found: Recognized, name: str) -> str:
    """Where a layer stands in the state dict."""
    if found.kind == "classifier" or re.match(r"(score_fr|score_pool\d+|upscore)", name):
        return name
    stream, _, rest = name.partition(".")
    return f"backbone_{stream}.{rest}" if stream in STREAMS else f"backbone.{name}"


def converted_net(found: Recognized, device: str) -> torch.nn.Module:
    """The net that was recognized, with random weights, on a device (``meta``: with none)."""
    with torch.device(device):
        return (
            build_classifier(found.config, found.config.num_classes)
            if found.kind == "classifier"
            else build(found.config)
        )


SIZES = ((46, 67), (61, 78))
"""The images on which scores are compared: small, and with windows that are cut off at the end at every pool."""


def difference(net: Net, found: Recognized, tensors: Mapping[str, Tensor]) -> float:
    """The largest difference between the scores of the Caffe graph, run as it is written, and of the converted net on
    random images, relative to the largest score.

    An FCN is compared on images of two sizes, a classifier on its native crop. The arithmetic is that of `tensors`.
    Raises `UsageError` where the scores do not even have one shape.
    """
    dtype = next(iter(tensors.values())).dtype
    ours = converted_net(found, "meta")
    ours.load_state_dict(dict(tensors), assign=True)
    ours.eval()
    native = native_size(found.config)
    channels = found.config.channels * (len(ours.streams) if isinstance(ours, FCN) else 1)
    random = torch.Generator().manual_seed(0)
    worst, largest = 0.0, 1e-30
    for size in SIZES if found.kind == "fcn" else ((native, native),):
        image = 50 * torch.randn(1, channels, *size, generator=random).to(dtype)
        with torch.no_grad():
            blobs, mine = run(net, _inputs(net, image)), ours(image)
        for task, scores in (mine if isinstance(mine, dict) else {"": mine}).items():
            theirs = blobs[_score_blob(net, found, task)]
            if theirs.numel() != scores.numel():
                raise UsageError(
                    f"the Caffe graph gives scores of {tuple(theirs.shape)}, the converted net {tuple(scores.shape)}: "
                    f"it is no {found.config.backbone} as it was published; convert it by hand"
                )
            worst = max(worst, float((theirs.flatten() - scores.flatten()).abs().max()))
            largest = max(largest, float(theirs.abs().max()))
    return worst / largest


def _inputs(net: Net, image: Tensor) -> dict[str, Tensor]:
    """The image as the net's inputs: all of it, or its channels dealt out to colour, depth and HHA."""
    used = {name for layer in net.layers if layer.type not in ENDS for name in layer.bottoms}
    made = {top for layer in net.layers if layer.bottoms for top in layer.tops}
    names = [name for name in ("color", "depth", "hha") if name in used - made] or sorted(used - made)[:1]
    sizes = {"color": 3, "hha": 3, "depth": 1}
    parts = image.split([sizes[name] for name in names], 1) if len(names) > 1 else (image,)
    return dict(zip(names, parts, strict=True))


def _score_blob(net: Net, found: Recognized, task: str) -> str:
    """The blob of the scores: of a classifier its last layer's, of an FCN that which nothing uses any more."""
    if found.kind == "classifier":
        return found.layers["loss3.classifier" if found.config.backbone == "googlenet" else "fc8"].tops[0]
    working = [layer for layer in net.layers if layer.type not in (*ENDS, "Softmax") and not layer.train_only]
    used = {name for layer in working for name in layer.bottoms if name not in layer.tops}
    ends = [top for layer in working if layer.bottoms for top in layer.tops if top not in used]
    if task:
        ends = [end for end in ends if end.endswith({"semantic": "_sem", "geometric": "_geo"}[task])]
    if len(ends) != 1:
        raise UsageError(f"its scores are not one blob but {', '.join(map(shown, ends)) or 'none'}; convert it by hand")
    return ends[0]
