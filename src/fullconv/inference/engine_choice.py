"""Choose the engine of a checkpoint: the one asked for, or the fastest of an earlier or a new trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullconv.errors import UsageError
from fullconv.hardware import multiplies_bf16, precisions
from fullconv.inference.predictor import Predictor, load_checkpoint
from fullconv.models.fcn import FCN
from fullconv.optimize import autotune
from fullconv.optimize.compiled import PRECISIONS, check
from fullconv.weights.checkpoint import sha256_of

LONG = 120.0
"""Seconds that the net as it is must take for all images before other engines are tried, and taken: they save a part of
that, and a trial, and the form of a size, take some of a minute.
"""

FEW = 10
"""With fewer images than this it is not even asked how long one takes."""


def open_predictor(
    path: Path, engine: str, precision: str, images: int, first: Callable[[Predictor], Any] | None,
    log: Callable[[str], Any],
) -> Predictor:  # fmt: skip
    """Return the predictor of a checkpoint with the engine asked for, or with the fastest.

    images: how many are to be predicted. first: reads one of them as the network takes it. log: is called with the
    choice.
    """
    if precision == "bf16" and not multiplies_bf16():
        log("bf16: this processor does not multiply it, so it takes longer than fp32; --precision auto is the faster")
    if "auto" not in (engine, precision):
        return load_checkpoint(path, precision, engine)
    if engine not in ("auto", "eager"):
        check(engine, "fp32")
    if precision != "auto" and precision not in {p for each in PRECISIONS.values() for p in each}:
        check("torch", precision)
    return _fastest(path, engine, precision, images, first, log)


def _fastest(
    path: Path, engine: str, precision: str, images: int, first: Callable[[Predictor], Any] | None,
    log: Callable[[str], Any],
) -> Predictor:  # fmt: skip
    """Choose by the result of an earlier trial, or by a new one if there is work enough."""
    asked, fingerprint = f"{engine}, {precision}", sha256_of(path) or ""
    usual = "fp32" if precision == "auto" else precision, "torch" if engine == "auto" else engine
    best = autotune.cached_choice(path, fingerprint, asked)
    if best is not None and images * best.plain >= LONG:
        log(f"engine {best} (tried before, {autotune.place_of(path).name})")
        return load_checkpoint(path, best.precision, best.engine)
    if best is not None or images < FEW or first is None:
        return load_checkpoint(path, *usual)
    plain = load_checkpoint(path, engine="eager")
    assert isinstance(plain.net, FCN)
    try:
        x = plain.to_input(first(plain))
    except UsageError:  # it will be named when its turn comes
        return Predictor(plain.net, plain.header, *usual)
    seconds = autotune.seconds_of(plain.net, x)
    if images * seconds < LONG:
        return Predictor(plain.net, plain.header, *usual)
    log("trying the engines on the first image ...")
    trials = autotune.benchmark(
        plain.net, x, precisions() if precision == "auto" else (precision,), None if engine == "auto" else (engine,),
        progress=lambda trial: log(f"  {trial}{'' if trial.agrees else ': no'}"),
    )  # fmt: skip
    if not any(trial.agrees for trial in trials):
        raise UsageError(
            f"--engine {engine} --precision {precision}: none agrees with the net in single precision; "
            "give --precision fp32"
        )
    best = replace(autotune.fastest(trials), plain=seconds)
    kept = autotune.remember(path, fingerprint, asked, best)
    log(f"engine {best}" + (f"; kept in {autotune.place_of(path).name}" if kept else ""))
    return Predictor(plain.net, plain.header, best.precision, best.engine)
