"""Which engine: the fastest of those whose scores agree with the net's own, tried on the machine at hand."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullconv.config import Size
from fullconv.errors import FullconvError, RunError, UsageError
from fullconv.hardware import processor
from fullconv.io.atomic import write_atomically
from fullconv.models.fcn import FCN
from fullconv.optimize.compiled import EXTRAS, PRECISIONS, CompiledModel, check, installed
from fullconv.profiling.process_memory import is_out_of_memory

WITHIN = {"fp32": 1e-4, "bf16": float("inf")}
"""The largest difference of a score that counts as agreement, as a share of the range of the scores."""

MOSTLY = ("openvino", "onnx", "torch")
"""The engines from the one that is mostly the fastest."""

LABELS = {"fp32": 0.9999, "bf16": 0.995}
"""The least share of pixels that have the same label."""


@dataclass(frozen=True)
class Trial:
    """What came of one engine at one precision, on one image.

    seconds: the median of some runs. difference: the largest of a score from the net's own in single precision, as a
    share of their range. labels: the share of pixels with the same label. plain: the seconds of the net as it is.
    """

    engine: str
    precision: str
    seconds: float
    difference: float
    labels: float
    plain: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether this is the net's own answer."""
        return self.difference <= WITHIN[self.precision] and self.labels >= LABELS[self.precision]

    def __str__(self) -> str:
        return (
            f"{self.engine}, {self.precision}: {1000 * self.seconds:.0f} ms an image, "
            f"{100 * self.labels:.2f} % of labels as in fp32"
        )


def benchmark(
    net: FCN, x: Tensor, precisions: Iterable[str] = ("fp32", "bf16"), engines: Iterable[str] | None = None,
    rounds: int = 3, progress: Callable[[Trial], Any] | None = None,
) -> list[Trial]:  # fmt: skip
    """Every engine that is installed, but the compiler, tried on an input (1, C, H, W); one that fails is left out.

    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> net = build(ModelConfig("lenet", stride=4, num_classes=3)).eval()
    >>> [trial.agrees for trial in benchmark(net, torch.rand(1, 3, 40, 40), ["fp32"], ["torch"])]
    [True]
    """
    with torch.inference_mode():
        truth = net.eval()(x)
    wanted = truth if isinstance(truth, dict) else {"semantic": truth}
    found = []
    for engine in engines or [name for name in installed() if name != "compile"]:
        for precision in precisions:
            if precision not in PRECISIONS[engine]:
                continue
            try:
                trial = _tried(net, x, engine, precision, wanted, rounds)
            except (RuntimeError, MemoryError, FullconvError, ImportError) as problem:
                if is_out_of_memory(problem) or engine in EXTRAS:
                    continue
                raise
            found.append(trial)
            if progress is not None:
                progress(trial)
    return found


def _tried(net: FCN, x: Tensor, engine: str, precision: str, wanted: dict[str, Tensor], rounds: int) -> Trial:
    prepared = CompiledModel(net, engine, precision)
    logits = prepared(x)
    logits = logits if isinstance(logits, dict) else {"semantic": logits}
    difference, labels = 0.0, 1.0
    for task, scores in wanted.items():
        spread = float(scores.max() - scores.min()) or 1.0
        difference = max(difference, float((logits[task] - scores).abs().max()) / spread)
        labels = min(labels, float((logits[task].argmax(1) == scores.argmax(1)).float().mean()))
    seconds = statistics.median(seconds_of(prepared, x) for _ in range(rounds))
    return Trial(engine, precision, seconds, difference, labels)


def seconds_of(net: FCN | CompiledModel, x: Tensor) -> float:
    """What one run takes."""
    with torch.inference_mode():
        began = time.perf_counter()
        net.coarse(x)
        return time.perf_counter() - began


def compile(model: Any, size: Size | None = None, precision: str = "fp32", engine: str = "auto") -> CompiledModel:
    """Prepare a net for speed: from (N, C, H, W) to logits.

    Args:
        model: An FCN, or a `Predictor` of one.
        size: Height and width to prepare for now; other sizes are prepared when they come.
        precision: ``fp32`` or ``bf16``.
        engine: One of `ENGINES`, or ``auto`` for the fastest that is installed and agrees, by a trial at this size;
            without a size for the one that mostly is.

    Raises:
        UsageError: It is something else, or there is no such engine or precision.

    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> fast = compile(build(ModelConfig("lenet", stride=4, num_classes=3)), size=(32, 32), engine="torch")
    >>> fast(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 3, 32, 32])
    """
    given, model = model, getattr(model, "net", model)
    if not isinstance(model, FCN):
        raise UsageError(f"compile: model is a {type(given).__name__}; give an FCN, or a Predictor of one")
    if engine == "auto":
        check("torch", precision)
        able = [name for name in MOSTLY if name in installed() and precision in PRECISIONS[name]]
        engine = able[0]
        if size is not None and len(able) > 1:
            seeded = torch.Generator().manual_seed(0)
            x = torch.randn(1, model.config.channels * len(model.streams), *size, generator=seeded)
            agreeing = [trial for trial in benchmark(model, x, [precision], able) if trial.agrees]
            engine = fastest(agreeing).engine if agreeing else "torch"
    found = CompiledModel(model, engine, precision)
    if size is not None:
        found.coarse(torch.zeros(1, model.config.channels * len(model.streams), *size))
    return found


def fastest(trials: Iterable[Trial]) -> Trial:
    """The fastest trial that agrees."""
    return min((trial for trial in trials if trial.agrees), key=lambda trial: trial.seconds)


# -- remembered beside the model ---------------------------------------------------------------------------------------


def place_of(model: Path) -> Path:
    """The file in which the choice for a model is kept: ``model.engine.json`` beside ``model.safetensors``."""
    return model.with_suffix(".engine.json")


def remember(model: Path, fingerprint: str, asked: str, trial: Trial) -> bool:
    """Keep a choice for this model on this machine; whether it could be written."""
    kept = _kept(place_of(model))
    kept[_key(fingerprint, asked)] = asdict(trial)
    try:
        write_atomically(place_of(model), json.dumps(kept, indent=1).encode() + b"\n")
    except RunError:  # a folder that is only read from
        return False
    return True


def cached_choice(model: Path, fingerprint: str, asked: str) -> Trial | None:
    """The choice made before for this model, machine, versions and precision asked for; None where there is none."""
    found = _kept(place_of(model)).get(_key(fingerprint, asked))
    try:
        trial = Trial(**found) if found else None
    except TypeError:
        return None
    return trial if trial is not None and trial.engine in installed() else None


def _kept(place: Path) -> dict[str, Any]:
    try:
        kept = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _key(fingerprint: str, asked: str) -> str:
    """The net, the machine, the versions and the precision asked for."""
    versions = [f"{name} {metadata.version(EXTRAS[name])}" for name in installed() if name in EXTRAS]
    machine = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.system()}"
    return "; ".join([fingerprint[:16], asked, machine, f"torch {torch.__version__}", *versions])
