"""Compare a prediction with what others do: the same net in other engines, and other nets for the same task.

    python benchmarks/peers.py --sizes 500x500 --threads 2,1 --rounds 4 --memory

Takes the options of ``fullconv bench predict``, whose ways run by turns with those of the peers that are installed
(``pip install 'fullconv[bench]'`` brings those that pip can bring), and ``--plot FILE`` for a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv import host
from fullconv.bench.subprocess_runner import Labels, Scored, Way
from fullconv.cli.bench import add_predict_arguments, predict, show_predict
from fullconv.cli.show import console_for
from fullconv.errors import FullconvError, UsageError
from fullconv.hardware import machine
from fullconv.models.backbones.external import library
from fullconv.models.fcn import FCN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_predict_arguments(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also a picture, FILE.png")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    args = parser.parse_args()
    host.own_process()  # as the command: the ways of this process gain from its allocator, the plain net does not
    console = console_for(args.json)
    try:
        if args.rounds < 1:
            raise UsageError(f"--rounds is {args.rounds}; give at least 1")
        found = {**predict(args, console.print, ways), "machine": machine()}
    except FullconvError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
    if args.json:
        print(json.dumps(found, indent=1))
    show_predict(console, found)
    if args.plot is not None:
        write_plot(found, args.plot)


def ways(net: FCN, size: tuple[int, int], threads: int) -> Iterator[tuple[str, str, Callable[[], Way]]]:
    """All peers that are installed: name, precision ("other" for another net), and what makes the way."""
    for name, make in engines(net, size, threads):
        yield name, "fp32", make
    for name, make in nets(net.num_classes):
        yield name, "other", make


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
    from fullconv.backends.onnx import OnnxNet, to_onnx

    run = OnnxNet(to_onnx(net, size), threads=threads)
    return Scored(lambda x: next(iter(run(x.numpy()).values())))


def _openvino(net: FCN, size: tuple[int, int], threads: int) -> Way:
    from fullconv.backends.openvino import OpenvinoNet, to_openvino

    run = OpenvinoNet(to_openvino(net, size), "fp32", threads=threads)
    return Scored(lambda x: next(iter(run(x.numpy()).values())))


def _written(net: FCN, size: tuple[int, int], folder: str) -> Path:
    import onnx

    from fullconv.backends.onnx import to_onnx

    path = Path(folder) / "net.onnx"
    onnx.save(to_onnx(net, size), path)
    return path


def _opencv(net: FCN, size: tuple[int, int], threads: int) -> Way:
    import cv2

    with TemporaryDirectory() as folder:
        read = cv2.dnn.readNetFromONNX(str(_written(net, size, folder)))

    def run(x: Tensor) -> NDArray[np.float32]:
        cv2.setNumThreads(threads)
        read.setInput(x.numpy())
        return np.asarray(read.forward(), np.float32)

    return Scored(run)


def _mnn(net: FCN, size: tuple[int, int], threads: int) -> Way:
    with spoken_aside(), TemporaryDirectory() as folder:
        import MNN  # type: ignore[import-not-found]
        from _tools import mnnconvert  # type: ignore[import-not-found]  # MNN.tools' reports home, and installs for it

        path = _written(net, size, folder)
        mnnconvert(["", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", f"{path}.mnn", "--bizCode", "bench"])
        settings = {"backend": 0, "numThread": threads, "precision": "high"}
        manager = MNN.nn.create_runtime_manager((settings,))
        read = MNN.nn.load_module_from_file(f"{path}.mnn", ["image"], ["logits"], runtime_manager=manager)

    def run(x: Tensor) -> NDArray[np.float32]:
        given = MNN.expr.const(x.numpy(), list(x.shape), MNN.expr.NCHW)
        (found,) = read.forward([given])
        return np.array(MNN.expr.convert(found, MNN.expr.NCHW).read())

    return Scored(run)


@contextmanager
def spoken_aside() -> Iterator[None]:
    """What is printed by code that is not Python's goes to the errors, so that what a verb prints stays whole."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


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


def write_plot(found: dict[str, Any], path: Path) -> None:
    """A picture of the ways of every size and number of threads: how many times as fast as the plain net."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = found["runs"]
    figure = Figure(figsize=(7, 0.5 + sum(0.3 * len(run["ways"]) + 0.7 for run in runs)), layout="constrained")
    axes = figure.subplots(len(runs), 1, squeeze=False, height_ratios=[len(run["ways"]) + 1 for run in runs])
    for axis, run in zip(axes[:, 0], runs, strict=True):
        ways = [way for way in run["ways"] if "gflop_per_second" in way][::-1]
        bars = axis.barh([way["way"] for way in ways], [way["speedup"] for way in ways], color="#4878a8")
        axis.bar_label(bars, [f"{way['speedup']:.1f}   {1000 * way['seconds']:.0f} ms" for way in ways],
                       padding=3, fontsize=8)  # fmt: skip
        axis.set_title(f"{run['size'][0]}x{run['size'][1]}, {run['threads']} threads", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.18)
    figure.suptitle(f"{found['net']}: times as fast as plain eager", fontsize=9)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    main()
