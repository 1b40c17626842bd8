"""Prediction: an image in, its segmentation out, at the image's own size."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.backends.metadata import refuse_program
from fullconv.data.dataset import Image
from fullconv.errors import RunError, UsageError, shown
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.exported import SUFFIXES, ExportedPredictor, load_exported
from fullconv.inference.model import Model
from fullconv.inference.preprocess import check_input
from fullconv.inference.tensor_input import to_input
from fullconv.models.build import build
from fullconv.models.fcn import FCN
from fullconv.optimize.compiled import WARMUP, CompiledModel, check
from fullconv.profiling import process_memory
from fullconv.weights import checkpoint
from fullconv.weights.checkpoint import Header


class Predictor(Model):
    """A net together with what it needs to be fed and read: call it with an image.

    net: from the net's own input (N, C, H, W) to logits (N, K, H, W), or a dict of them for two heads.
    header: its input convention and label space.
    precision: ``fp32``, or ``bf16`` for a CPU that multiplies it (the logits are float32 either way).
    engine: ``eager`` runs the module as it is, which may be learning; the others (`fullconv.backends.ENGINES`) prepare
        an FCN for speed, once.
    """

    def __init__(self, net: nn.Module, header: Header, precision: str = "fp32", engine: str = "eager") -> None:
        if engine == "eager" and precision not in ("fp32", "bf16"):
            check("torch", precision)
        self.net = net
        self.header: Header = header
        self.precision = precision
        self.engine = engine
        self.prepared: CompiledModel | None = None
        if engine != "eager":
            if not isinstance(net, FCN):
                raise UsageError(f"engine {engine}: it takes an FCN, not {type(net).__name__}; use the engine eager")
            # For one image a form for its size would cost more than it saves.
            self.prepared = CompiledModel(net, engine, precision, warmup=WARMUP[engine])

    def logits(self, image: Image) -> Tensor:
        """(1, K, H, W) float32 scores of an image (H, W, 3) uint8 RGB; of two heads those of the semantic one."""
        return self.outputs(image)["semantic"]

    def outputs(self, image: Image) -> dict[str, Tensor]:
        """(1, K, H, W) float32 scores by task; the image is what `coarse` takes."""
        return {task: torch.from_numpy(scores.logits())[None] for task, scores in self.coarse(image).items()}

    def coarse(self, image: Image) -> dict[str, CoarseScores]:
        """The scores by task at the net's own stride, from which logits and classes are made.

        image: (H, W, 3) uint8 RGB, or as many channels as the net takes: (H, W, 6) uint8 with HHA, (H, W, 4) float32
        with the natural logarithm of depth in millimetres.
        """
        check_input(image, self.header.input)
        training = self.net.training
        self.net.eval()
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        half: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.precision == "bf16" and self.prepared is None:
            half = torch.autocast(device.type, torch.bfloat16)
        try:
            with torch.inference_mode(), half:
                x = self.to_input(image, device)
                if self.prepared is None:
                    return run(self.net, x.contiguous(memory_format=torch.channels_last))
                return read(self.prepared.net, self.prepared.coarse(x), x)
        except (RuntimeError, MemoryError) as problem:
            if process_memory.is_out_of_memory(problem):
                height, width = image.shape[:2]
                raise RunError(
                    f"image of {height}x{width}: {process_memory.describe(problem)}; give --tile, or a smaller image"
                ) from None
            raise
        finally:
            self.net.train(training)

    def to_input(self, image: Image, device: torch.device | None = None) -> Tensor:
        """What the net is given for an image: (1, C, H, W) float32."""
        return to_input(torch.from_numpy(np.array(image)[None]).to(device or "cpu"), self.header.input)


def run(net: nn.Module, x: Tensor) -> dict[str, CoarseScores]:
    """The scores by task of one input (1, C, H, W). A module that is no FCN gives logits, or a dict of them."""
    if not isinstance(net, FCN):
        logits = net(x)
        by_task = logits if isinstance(logits, dict) else {"semantic": logits}
        return {task: CoarseScores.of_logits(scores[0].float().cpu().numpy()) for task, scores in by_task.items()}
    return read(net, net.coarse(x), x)


def read(net: FCN, coarse: Mapping[str, Tensor], x: Tensor) -> dict[str, CoarseScores]:
    """What an FCN's own scores (1, K, h, w) say of the pixels of an input, by task."""
    height, width = x.shape[2:]
    found = {}
    for task, scores in coarse.items():
        if net.learned_end:
            found[task] = CoarseScores.of_logits(net.to_image(task, scores, height, width)[0].float().cpu().numpy())
        else:
            join = net.joins[-1]
            offset = (join.crop_scores, join.crop_scores)
            found[task] = CoarseScores(scores[0].float().cpu().numpy(), join.window, offset, (height, width))
    return found


def load(path: str | Path, precision: str = "fp32", engine: str = "torch") -> Predictor | ExportedPredictor:
    """Return the model in a file: a checkpoint, or what ``fullconv export`` wrote (.onnx, .xml, .pt2).

    Args:
        path: The file.
        precision: As for `Predictor`; of exported files an .xml alone runs in ``bf16``.
        engine: As for `Predictor`; an exported file brings its own.

    Raises:
        UsageError: The file is missing, damaged or something else, or there is no such engine or precision.
    """
    if not isinstance(path, str | Path):
        raise UsageError(f"load: path is a {type(path).__name__}; give the path of a checkpoint or an exported file")
    if Path(path).suffix not in SUFFIXES:
        return load_checkpoint(path, precision, engine)
    check("torch" if engine == "eager" else engine, "fp32")
    if engine not in ("torch", "eager"):
        raise UsageError(f"engine {engine}: {shown(path)} brings its own; leave it out")
    return load_exported(path, precision)


def as_model(given: Any, where: str) -> Model:
    """Return a model that is given as itself or as a path; refuse everything else in the name of `where`."""
    if isinstance(given, str | Path):
        return load(given)
    if not (hasattr(given, "header") and hasattr(given, "coarse")):
        raise UsageError(
            f"{where}: predictor is a {type(given).__name__}; give a Predictor(net, header), or the path of a model"
        )
    model: Model = given
    return model


def load_checkpoint(path: str | Path, precision: str = "fp32", engine: str = "torch") -> Predictor:
    """The predictor in a checkpoint, ``RUN/model.safetensors``; the file needs nothing else.

    precision, engine: as for `Predictor`. Raises `UsageError` naming the file when it is missing, damaged, or no
    fullconv checkpoint of an FCN, and for an engine or precision that there is not.
    """
    path = Path(path)
    if path.suffix.lower() == ".pt2":
        refuse_program(path)
    check("torch" if engine == "eager" else engine, precision)
    tensors, header = checkpoint.load(path)
    if header is None or header.kind != "fcn":
        what = "plain weights without a fullconv header" if header is None else f"the weights of a {header.kind}"
        raise UsageError(f"{path}: it holds {what}, not a trained FCN; train one with fullconv train --weights {path}")
    with torch.device("meta"):
        net = build(header.model)
    try:
        net.load_state_dict(tensors, assign=True)
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[-1].strip()
        raise UsageError(f"{path}: its tensors do not fit its header ({reason}); take another copy") from None
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    let_go_of(tensors, net)
    return Predictor(net.eval(), header, precision, engine)


def let_go_of(tensors: Mapping[str, Tensor], net: nn.Module) -> None:
    """Give the net memory of its own: as long as one of its tensors lies in the file as it was mapped, the whole file
    stays in memory beside what was copied of it (540 MB of VGG16's).
    """
    mapped = {tensor.data_ptr() for tensor in tensors.values()}
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.data_ptr() in mapped:
            tensor.data = tensor.data.clone(memory_format=torch.preserve_format)
