"""Which net of the paper, or which classifier below one, a Caffe file holds: read from its layers.

The names are the released ones: ``conv1_1``, ``fc6``, ``score_pool4``; the two streams of the NYUDv2 net end in
``color`` and ``hha``, the two heads of SIFT Flow's in ``_sem`` and ``_geo``. What is recognized is a claim; that the
converted net computes what the file says is proved in `fullconv.weights.caffe.to_fcn`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fullconv.config import CONVENTIONS, InputConvention, ModelConfig
from fullconv.errors import UsageError, shown
from fullconv.models.backbones.vgg import CONVOLUTIONS
from fullconv.models.fcn import STREAMS
from fullconv.models.upsample import bilinear_weight
from fullconv.weights.caffe.net import Layer, Net

HEAD = re.compile(r"(score_fr|score_pool\d+|upscore\w*?|scale_pool\d+|fuse_pool\d+|score_fused)(_sem|_geo)?")

WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct", "Scale")
"""The types of layers that have weights in the nets of the paper."""

NAMES = {"conv1_1_bgrd": "conv1_1"}
"""Layers that have a name of their own in one released net (the first of the RGB-D net, with four channels)."""


@dataclass(frozen=True)
class Recognized:
    """What a Caffe file is.

    kind: ``fcn`` or ``classifier``. layers: its layers with weights, by our name for each.
    source: what the input convention was read from, in words.
    """

    kind: str
    config: ModelConfig
    convention: InputConvention
    source: str
    layers: Mapping[str, Layer]


def our_name(caffe: str, streams: bool) -> str:
    """Our name of a layer of Caffe's.

    >>> our_name("inception_3a/5x5", False), our_name("fc6-conv", False), our_name("score_frhha", True)
    ('inception_3a.5x5', 'fc6', 'score_fr_hha')
    >>> our_name("conv5_3color", True)
    'color.conv5_3'
    """
    name = NAMES.get(caffe, caffe).replace("/", ".").removesuffix("-conv")
    for stream in STREAMS if streams else ():
        if name.endswith(stream):
            base = name.removesuffix(stream)
            return f"{base}_{stream}" if HEAD.fullmatch(base) else f"{stream}.{base}"
    return name


def recognize(net: Net, where: str) -> Recognized:
    """Which net of the paper, or which classifier below one, a Caffe file is; `where` is the file, for errors.

    Raises `UsageError` for a net that is none of them.
    """
    streams = all(any(layer.name.endswith(f"conv1_1{stream}") for layer in net.layers) for stream in STREAMS)
    layers = {our_name(layer.name, streams): layer for layer in net.layers if layer.blobs and layer.type != "BatchNorm"}
    if not layers:
        raise UsageError(f"{where}: no layer of it has weights; give the .caffemodel, not a prototxt")
    _refuse_strange(net, layers, where)
    trunk = {name.removeprefix(f"{STREAMS[0]}."): layer for name, layer in layers.items()}
    name, base, unit = _family(net, trunk, where)
    first = trunk[base]
    if first.type != "Convolution" or first.blobs[0].shape[0] != first.params["num_output"]:
        raise UsageError(f"{where}: layer '{shown(first.name)}' is not the convolution that it should be")
    fcn = any(layer.type == "Deconvolution" for layer in layers.values())
    config = ModelConfig(
        backbone=name,
        stride=32,
        num_classes=1,
        padding="paper" if first.params["pad"][0] == 100 else "tight",
        width=first.params["num_output"] / unit,
        dropout=_dropout(net, name),
        native_size=_native_size(name, trunk, where),
        channels=first.blobs[0].shape[1] * first.params["group"] if first.blobs[0].ndim == 4 else 3,
    )
    config = _with_head(net, config, layers, where) if fcn else _with_classes(config, name, layers, where)
    convention, source = _convention(net, config)
    return Recognized("fcn" if fcn else "classifier", config, convention, source, layers)


def _refuse_strange(net: Net, layers: Mapping[str, Layer], where: str) -> None:
    """Settings that Caffe does not have (a fork's) may change what a layer computes, and empty weights are no net."""
    for layer in net.layers:
        if layer.unknown and not layer.train_only:
            raise UsageError(
                f"{where}: layer '{shown(layer.name)}' has the setting {layer.unknown[0]}, which Caffe does not know; "
                "give the --prototxt that says what it means, or convert it by hand"
            )
    for layer in layers.values():
        if layer.type not in WEIGHTED or not all(blob.size for blob in layer.blobs):
            raise UsageError(
                f"{where}: layer '{shown(layer.name)}' ({shown(layer.type)}) has weights that no net of the paper has; "
                "convert it by hand"
            )


def _family(net: Net, trunk: Mapping[str, Layer], where: str) -> tuple[str, str, int]:
    """The backbone, the name of its first convolution, and the filters that one has at full width."""
    if "inception_3a.1x1" in trunk and "conv1.7x7_s2" in trunk:
        return "googlenet", "conv1.7x7_s2", 64
    if "conv1_1" in trunk:
        blocks = tuple(sum(1 for n in trunk if re.fullmatch(rf"conv{b}_\d", n)) for b in range(1, 6))
        for depth, plan in CONVOLUTIONS.items():
            if plan == blocks:
                return f"vgg{depth}", "conv1_1", 64
    order = [layer.name for layer in net.layers if layer.name in ("pool1", "norm1")]
    if {"conv1", "conv5", "fc6"} <= trunk.keys() and len(order) == 2:
        return "caffenet" if order[0] == "pool1" else "alexnet", "conv1", 96
    names = ", ".join(shown(name) for name in list(trunk)[:4])
    raise UsageError(
        f"{where}: its layers ({names} ...) are those of no net that is known here: AlexNet, CaffeNet, VGG, GoogLeNet "
        "and the FCNs on them; convert it by hand"
    )


def _dropout(net: Net, name: str) -> float | None:
    """The ratio of the dropout layers, where it is not the backbone's own."""
    own = 0.4 if name == "googlenet" else 0.5
    ratios = {layer.params["dropout_ratio"] for layer in net.layers if layer.type == "Dropout" and layer.params}
    return ratios.pop() if len(ratios) == 1 and ratios != {own} else None


def _native_size(name: str, trunk: Mapping[str, Layer], where: str) -> int | None:
    """The side of the classifier's crop, where fc6 says that it is not the published one."""
    if "fc6" not in trunk:
        return None
    incoming = trunk["conv5_1"].blobs[0].shape[0] if "conv5_1" in trunk else trunk["conv5"].blobs[0].shape[0]
    side = round((trunk["fc6"].blobs[0].size / trunk["fc6"].params["num_output"] / incoming) ** 0.5)
    if name.startswith("vgg"):
        return None if side == 7 else 32 * side
    if side != 6:
        raise UsageError(f"{where}: its fc6 covers {side}x{side} cells, that of {name} 6x6; convert it by hand")
    return None


def _with_classes(config: ModelConfig, name: str, layers: Mapping[str, Layer], where: str) -> ModelConfig:
    last = "loss3.classifier" if name == "googlenet" else "fc8"
    if last not in layers:
        raise UsageError(f"{where}: it has neither class scores ('{last}') nor upsampled ones; convert it by hand")
    return replace(config, num_classes=int(layers[last].params["num_output"]), padding="tight")


def _with_head(net: Net, config: ModelConfig, layers: Mapping[str, Layer], where: str) -> ModelConfig:
    """The settings of an FCN's head, from its layers."""
    scores = {match[1]: n for n in layers if (match := re.match(r"(score_fr|score_pool\d+)", n))}
    if not scores:
        raise UsageError(f"{where}: it upsamples, but has no layer score_fr or score_pool4; convert it by hand")
    skips = sorted((int(score.removeprefix("score_pool")) for score in scores if score != "score_fr"), reverse=True)
    fuses = [layer.params for layer in net.layers if layer.type == "Eltwise"]
    fused = next((layer.params for layer in net.layers if layer.name == "score_fused"), None)
    semantic = layers[next(iter(scores.values()))]
    geometric = layers.get("score_fr_geo")
    rows = semantic if geometric is None else layers.get("score_fr_sem", semantic)
    return replace(
        config,
        num_classes=int(rows.params["num_output"]),
        geometric_classes=int(geometric.params["num_output"]) if geometric is not None else None,
        stride=2 ** skips[-1] if skips else 32,
        levels="all" if "score_fr" in scores else "finest",
        fuse="max" if any(params["operation"] == "MAX" for params in fuses) else "sum",
        skip_scale=_skip_scale(layers, skips, where),
        upsample=_upsample(layers, where),
        late_fusion="none" if fused is None else "average" if 0.5 in fused["coeff"] else "sum",
    )


def _skip_scale(layers: Mapping[str, Layer], skips: list[int], where: str) -> float:
    """The factor of the at-once net: the n-th skip's feature is multiplied by its n-th power."""
    found = [layers.get(f"scale_pool{skip}") for skip in skips]
    if not any(found):
        return 1.0
    values = []
    for layer in found:
        numbers = np.unique(layer.blobs[0]) if layer is not None else np.ones(1)
        if len(numbers) != 1 or (layer is not None and len(layer.blobs) > 1):
            raise UsageError(f"{where}: its Scale layers are not one number each, as in the at-once net; train it anew")
        values.append(float(str(numbers[0])))
    if any(abs(value / values[0] ** n - 1) > 1e-5 for n, value in enumerate(values, start=1)):
        raise UsageError(f"{where}: its skips are scaled by {values}, not by powers of one number; convert it by hand")
    return values[0]


def _upsample(layers: Mapping[str, Layer], where: str) -> str:
    """Which transposed convolutions are not the bilinear kernel any more, so were learned."""
    learned = []
    for name, layer in layers.items():
        if layer.type != "Deconvolution":
            continue
        weight = dense_upsampling(layer)
        if not weight.any():
            raise UsageError(
                f"{where}: '{name}' is all zeros: the file was saved before its upsampling was set; take a trained one"
            )
        if not torch.allclose(weight, bilinear_weight(weight.shape[0], weight.shape[2]).to(weight), atol=1e-6):
            learned.append(name)
    last = re.compile(r"upscore(8|16|32)?(_sem|_geo)?")
    if not learned:
        return "fixed"
    return "learn-all" if any(last.fullmatch(name) for name in learned) else "learn-intermediate"


def dense_upsampling(layer: Layer) -> Tensor:
    """The (C, C, k, k) weight of a transposed convolution, with groups written out."""
    weight = torch.tensor(layer.blobs[0])
    if int(layer.params["group"]) == 1:
        return weight
    channels = weight.shape[0]
    full = weight.new_zeros(channels, channels, *weight.shape[2:])
    full[range(channels), range(channels)] = weight[:, 0]
    return full


def _convention(net: Net, config: ModelConfig) -> tuple[InputConvention, str]:
    """The input that the net was trained on, and what says so."""
    python = next((layer.params for layer in net.layers if layer.type == "Python" and layer.params.get("module")), None)
    module = str(python["module"]) if python else ""
    text = str(python.get("param_str") or "") if python else ""
    if config.late_fusion != "none":
        return CONVENTIONS["nyud-color-hha"], "its two streams (NYUDv2)"
    if config.channels == 4:
        return CONVENTIONS["nyud-color-d"], "its four channels (NYUDv2)"
    if config.geometric_classes:
        return CONVENTIONS["siftflow"], "its two heads (SIFT Flow)"
    if module == "nyud_layers":
        name = "nyud-hha" if "hha" in text else "nyud-color"
        return CONVENTIONS[name], f"its data layer ({module})"
    means = re.search(r"['\"]mean['\"]\s*:\s*(\([^()]*\))", text)
    if means:
        try:
            mean = tuple(float(number) for number in ast.literal_eval(means[1]))
        except (ValueError, SyntaxError, TypeError):
            mean = ()
        if len(mean) == config.channels:
            return InputConvention("bgr", mean, (1.0,) * len(mean)), f"its data layer ({module})"
    return CONVENTIONS["caffe"], "nothing in the file: the ILSVRC mean of Caffe's nets is assumed"
