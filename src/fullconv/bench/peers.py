"""What others do: the same net in other engines as it is, and other nets for the same task. Each only where it is
installed; ``pip install 'fullconv[bench]'`` brings those that pip can bring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv.models import FCN
from fullconv.models.zoo import library

Labels = NDArray[np.integer]
Way = Callable[[Tensor], Labels]
"""From the net's own input (1, C, H, W) to the class of each pixel, (H, W)."""


def engines(net: FCN, size: tuple[int, int], threads: int) -> Iterator[tuple[str, Callable[[], Way]]]:
    """The same net, ring and all, in every engine that is here: a name, and what makes the way."""
    if find_spec("onnxruntime") and find_spec("onnx"):
        yield "ONNX Runtime, plain net", lambda: _onnxruntime(net, size, threads)
    if find_spec("openvino"):
        yield "OpenVINO, plain net", lambda: _openvino(net, size, threads)
    if find_spec("cv2") and find_spec("onnx"):
        yield "OpenCV DNN, plain net", lambda: _opencv(net, size, threads)
    if find_spec("MNN") and find_spec("onnx"):
        yield "MNN, plain net", lambda: _mnn(net, size, threads)


def nets(classes: int) -> Iterator[tuple[str, Callable[[], Way]]]:
    """Other nets for the same task, as their libraries build and run them, with random weights."""
    if find_spec("torchvision"):
        for name in ("fcn_resnet50", "lraspp_mobilenet_v3_large"):
            yield f"torchvision {name}", partial(_torchvision, name, classes)
    if find_spec("segmentation_models_pytorch"):
        yield "smp Unet-resnet34", lambda: _smp(classes)


def _onnxruntime(net: FCN, size: tuple[int, int], threads: int) -> Way:
    from fullconv.engines.onnx import OnnxNet, to_onnx

    run = OnnxNet(to_onnx(net, size), threads=threads)
    return lambda x: next(iter(run(x.numpy()).values()))[0].argmax(0)


def _openvino(net: FCN, size: tuple[int, int], threads: int) -> Way:
    from fullconv.engines.openvino import OpenvinoNet, to_openvino

    run = OpenvinoNet(to_openvino(net, size), "fp32", threads=threads)
    return lambda x: next(iter(run(x.numpy()).values()))[0].argmax(0)


def _written(net: FCN, size: tuple[int, int], folder: str) -> Path:
    import onnx

    from fullconv.engines.onnx import to_onnx

    path = Path(folder) / "net.onnx"
    onnx.save(to_onnx(net, size), path)
    return path


def _opencv(net: FCN, size: tuple[int, int], threads: int) -> Way:
    import cv2

    with TemporaryDirectory() as folder:
        read = cv2.dnn.readNetFromONNX(str(_written(net, size, folder)))

    def run(x: Tensor) -> Labels:
        cv2.setNumThreads(threads)
        read.setInput(x.numpy())
        found: Labels = read.forward()[0].argmax(0)
        return found

    return run


def _mnn(net: FCN, size: tuple[int, int], threads: int) -> Way:
    from fullconv.engines.mnn import MnnNet
    from fullconv.engines.onnx import to_onnx

    run = MnnNet(to_onnx(net, size), threads)
    return lambda x: next(iter(run(x.numpy()).values()))[0].argmax(0)


def _torchvision(name: str, classes: int) -> Way:
    net = getattr(library("torchvision").models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=classes
    )
    return _eager(net, lambda found: found["out"])


def _smp(classes: int) -> Way:
    library("timm")  # which it stands on
    import segmentation_models_pytorch as smp  # type: ignore[import-not-found]

    net = smp.Unet("resnet34", encoder_weights=None, classes=classes)

    def padded(x: Tensor) -> Tensor:
        """It takes multiples of 32 alone."""
        height, width = (-side % 32 for side in x.shape[2:])
        return nn.functional.pad(x, (0, width, 0, height))

    way = _eager(net, lambda found: found, padded)
    return lambda x: way(x)[: x.shape[2], : x.shape[3]]


def _eager(net: nn.Module, logits: Callable[..., Tensor], given: Callable[[Tensor], Tensor] = lambda x: x) -> Way:
    net = net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(x: Tensor) -> Labels:
        with torch.inference_mode():
            found: Labels = logits(net(given(x).contiguous(memory_format=torch.channels_last)))[0].argmax(0).numpy()
        return found

    return run
