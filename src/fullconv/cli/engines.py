"""Which engine predicts: the one that was asked for, the fastest that was found before, or the fastest of a trial."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.errors import UsageError

if TYPE_CHECKING:
    from fullconv.inference.predictor import Predictor

LONG = 120.0
"""Seconds that the net as it is must take for all images before other engines are tried, and taken: they save a part of
that, and a trial, and the form of a size, take some of a minute.
"""

FEW = 10
"""With fewer images than this it is not even asked how long one takes."""


def add_engine(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """The flags ``--engine`` and ``--precision``."""
    parser.add_argument(
        "--engine", default=default, metavar="NAME",
        help="what runs it: torch, onnx, openvino, compile, eager (the module as it is), or auto: the fastest that "
        "agrees with it, tried once where there is work for some minutes and kept beside the model "
        f"(default: {default})",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="fp32", metavar="fp32|bf16|auto",
        help="arithmetic of the net; auto: the fastest with the same labels (default: fp32)",
    )  # fmt: skip


def open_predictor(
    path: Path, engine: str, precision: str, images: int, first: Callable[[Predictor], Any] | None,
    say: Callable[[str], Any],
) -> Predictor:  # fmt: skip
    """The predictor of a checkpoint with the engine that was asked for, or that is found to be the fastest.

    images: how many are to be predicted. first: reads one of them as the net takes it. say: is told what was picked.
    """
    from fullconv.hardware import multiplies_bf16
    from fullconv.inference.predictor import load_checkpoint
    from fullconv.optimize.compiled import PRECISIONS, check

    if precision == "bf16" and not multiplies_bf16():
        say("bf16: this processor does not multiply it, so it takes longer than fp32; --precision auto is the faster")
    if "auto" not in (engine, precision):
        return load_checkpoint(path, precision, engine)
    if engine not in ("auto", "eager"):
        check(engine, "fp32")
    if precision != "auto" and precision not in {p for each in PRECISIONS.values() for p in each}:
        check("torch", precision)
    return _fastest(path, engine, precision, images, first, say)


def _fastest(
    path: Path, engine: str, precision: str, images: int, first: Callable[[Predictor], Any] | None,
    say: Callable[[str], Any],
) -> Predictor:  # fmt: skip
    """The same where it is to be found: by what was kept of a trial, or by one, if there is work enough."""
    from fullconv.hardware import precisions
    from fullconv.inference.predictor import Predictor, load_checkpoint
    from fullconv.models.fcn import FCN
    from fullconv.optimize import autotune
    from fullconv.weights.checkpoint import sha256_of

    asked, fingerprint = f"{engine}, {precision}", sha256_of(path) or ""
    usual = "fp32" if precision == "auto" else precision, "torch" if engine == "auto" else engine
    best = autotune.cached_choice(path, fingerprint, asked)
    if best is not None and images * best.plain >= LONG:
        say(f"engine {best} (tried before, {autotune.place_of(path).name})")
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
    say("trying the engines on the first image ...")
    trials = autotune.benchmark(
        plain.net, x, precisions() if precision == "auto" else (precision,), None if engine == "auto" else (engine,),
        progress=lambda trial: say(f"  {trial}{'' if trial.agrees else ': no'}"),
    )  # fmt: skip
    if not any(trial.agrees for trial in trials):
        raise UsageError(
            f"--engine {engine} --precision {precision}: none agrees with the net in single precision; "
            "give --precision fp32"
        )
    best = replace(autotune.fastest(trials), plain=seconds)
    kept = autotune.remember(path, fingerprint, asked, best)
    say(f"engine {best}" + (f"; kept in {autotune.place_of(path).name}" if kept else ""))
    return Predictor(plain.net, plain.header, best.precision, best.engine)
