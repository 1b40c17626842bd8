"""Predict with an exported file (.onnx, .xml), without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.backends.metadata import COARSE, LOGITS, ExportMetadata, refuse_program
from fullconv.data.dataset import Image
from fullconv.errors import UsageError, shown
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.model import Model
from fullconv.inference.preprocess import check_input, to_input

Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
"""A net in an engine: its input (N, C, H, W) to its outputs by name."""

SUFFIXES = (".onnx", ".xml")
"""Of the files that `load_exported` reads."""


class ExportedPredictor(Model):
    """An exported net together with what it needs to be fed and read: call it with an image, like a `Predictor`.

    net: gives coarse scores, or the logits where it has no such. header: what the file says of itself.
    """

    def __init__(self, net: Run, header: ExportMetadata, name: str) -> None:
        self.net = net
        self.header: ExportMetadata = header
        self.name = name

    def coarse(self, image: Image) -> dict[str, CoarseScores]:
        """The scores by task at the net's own stride; the image is what `Predictor.coarse` takes."""
        check_input(image, self.header.input)
        height, width = size = (image.shape[0], image.shape[1])
        if self.header.size not in (None, size):
            needs = "x".join(map(str, self.header.size or ()))
            raise UsageError(
                f"image of {height}x{width}: {shown(self.name)} takes images of {needs} alone; export the net with "
                "--size dynamic"
            )
        if self.header.size is None and min(size) < (least := self.header.least):
            raise UsageError(
                f"image of {height}x{width}: {shown(self.name)} takes images from {least}x{least} up; use the .onnx or "
                ".xml of the net, or the checkpoint"
            )
        outputs = self.net(to_input(image, self.header.input))
        window, offset = self.header.window, self.header.offset
        found = {}
        for task, labels in self.header.tasks.items():
            coarse = window is not None and COARSE[task] in outputs
            scores = outputs.get((COARSE if coarse else LOGITS)[task])
            if scores is None or scores.ndim != 4 or scores.shape[1] != len(labels):
                has = ", ".join(f"{shown(name)} {value.shape}" for name, value in outputs.items())
                raise UsageError(
                    f"{shown(self.name)}: it says {len(labels)} classes, and gives {has}; take another copy"
                )
            if window is not None and coarse:
                found[task] = CoarseScores(scores[0], window, (offset, offset), size)
            else:
                found[task] = CoarseScores.of_logits(scores[0])
        return found


def load_exported(
    path: str | Path, precision: str = "fp32", threads: int | None = None, whole: bool = False
) -> ExportedPredictor:
    """What ``fullconv export`` wrote: m.onnx, or m.xml (with m.bin beside it). A .pt2 is for other programs.

    precision: ``bf16`` for an .xml on a CPU that multiplies it. threads: how many the engine may use. whole: let the
    engine compute the logits, as it does for everybody else, and not only the scores at the net's own stride.

    Raises `UsageError` naming the file when it is missing, damaged, or from somebody else.
    """
    path = Path(path)
    if path.suffix.lower() == ".pt2":
        refuse_program(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{shown(path)}: its suffix is none of {', '.join(SUFFIXES)}; give what fullconv export wrote")
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise UsageError(f"{shown(path)}: {what}; check the path")
    if precision != "fp32" and path.suffix != ".xml":
        raise UsageError(f"precision '{precision}': {shown(path)} is run in fp32; export to .xml for {precision}")
    if path.suffix == ".onnx":
        from fullconv.backends import onnx

        graph = onnx.read(path)
        card = onnx.read_card(graph, path)
        graph = graph if whole or card.window is None else onnx.cut(graph, [COARSE[task] for task in card.tasks])
        return ExportedPredictor(onnx.OnnxNet(graph, threads, path), card, path.name)
    from fullconv.backends import openvino

    model = openvino.read(path)
    card = openvino.read_card(model, path)
    model = model if whole or card.window is None else openvino.cut(model, [COARSE[task] for task in card.tasks])
    return ExportedPredictor(openvino.OpenvinoNet(model, precision, threads), card, path.name)
