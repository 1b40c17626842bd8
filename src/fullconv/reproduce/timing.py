"""Section 3.1: AlexNet slid over a 500x500 image in one pass, which gives 10x10 outputs, against its 100 patches of
227x227, in batches and one by one; forward and backward.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fullconv.config import ModelConfig
from fullconv.models.build import build_classifier, native_size
from fullconv.models.convolutionalize import convolutionalize
from fullconv.reproduce.paper_tables import table
from fullconv.reproduce.plots import bars
from fullconv.reproduce.result import Result, Row, Say, beside
from fullconv.reproduce.setting import Setting

BATCH = 10
"""Patches at a time."""

WAYS = ("whole image", "patches in batches", "patches one by one")


def median_seconds(work: Callable[[], float | None], setting: Setting, seconds: float) -> tuple[float, int]:
    """The median time of some work, and how often it was measured: once unmeasured, where so many seconds have room for
    a second time; then up to the setting's rounds.

    work: gives the seconds that count, or None for all of them.
    """
    began, times = time.perf_counter(), []
    while True:
        start = time.perf_counter()
        counted = work()
        whole = time.perf_counter() - start
        times.append(whole if counted is None else counted)
        spent = time.perf_counter() - began
        if len(times) > setting.rounds or spent + whole > seconds:
            break
    measured = times[1:] or times
    return statistics.median(measured), len(measured)


def forward_seconds(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """One forward pass without gradients, as work to be timed."""

    def work() -> None:
        with torch.inference_mode():
            net(x)

    return work


def backward_seconds(net: nn.Module, x: Tensor) -> Callable[[], float]:
    """Work that gives the seconds of the backward pass alone."""

    def work() -> float:
        net.zero_grad(set_to_none=True)
        total = net(x).sum()
        began = time.perf_counter()
        total.backward()
        return time.perf_counter() - began

    return work


def rows_of(ms: dict[str, tuple[float, float]], cells: int) -> tuple[Row, ...]:
    """Rows with their ratios. ms: forward and backward of the whole image and of one patch each way; cells: outputs of
    the whole image, and so patches.
    """
    rows = []
    for name, times in ms.items():
        measured: dict[str, float | None] = dict(zip(("forward", "backward"), times, strict=True))
        if name != WAYS[0]:
            for way, each, whole in zip(("forward", "backward"), times, ms[WAYS[0]], strict=True):
                measured[f"{way} ratio"] = cells * each / whole
        rows.append(Row(name, measured, beside(name, paper="timing")))
    return tuple(rows)


def verdict(rows: Sequence[Row]) -> str:
    """How many times as long all patches take as the whole image, and whether the image is the faster way."""
    said = []
    for row in rows[1:]:
        ratio, back = row["forward ratio"], row["backward ratio"]
        printed = row.paper["paper"]["forward ratio"]
        faster = (
            "the whole image is faster, as in the paper" if min(ratio, back) > 1
            else "the whole image is not faster, unlike in the paper"
        )  # fmt: skip
        said.append(
            f"All {row.name} take {ratio:.1f} times as long as the whole image forward (the paper: {printed}) and "
            f"{back:.1f} times backward: {faster}"
        )
    return ". ".join(said) + "."


def run(setting: Setting, say: Say) -> Result:
    """Time the three ways, forward and backward."""
    config = ModelConfig("caffenet", width=setting.width)
    side = native_size(config)
    torch.manual_seed(setting.seed)
    dense, _ = convolutionalize(build_classifier(config, classes=1000), side)
    net = dense.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = {
        WAYS[0]: (torch.randn(1, 3, setting.image, setting.image), 1),
        WAYS[1]: (torch.randn(BATCH, 3, side, side), BATCH),
        WAYS[2]: (torch.randn(1, 3, side, side), 1),
    }
    with torch.inference_mode():
        grid = net(pictures[WAYS[0]][0]).shape[2:]
    cells = int(grid[0] * grid[1])
    share = setting.left() / (2 * 2 * len(WAYS))  # half of the budget is a reserve
    ms, rounds = {}, {}
    for name, (x, patches) in pictures.items():
        say(f"timing: {name} ...")
        x = x.contiguous(memory_format=torch.channels_last)
        forward, many = median_seconds(forward_seconds(net, x), setting, share)
        backward, few = median_seconds(backward_seconds(net, x), setting, share)
        ms[name], rounds[name] = (1000 * forward / patches, 1000 * backward / patches), [many, few]
    rows = rows_of(ms, cells)
    return Result(
        "timing",
        "Section 3.1: one pass over the image is more than 5 times as fast as its patches in batches.",
        "random pixels",
        table("timing").columns,
        rows,
        verdict(rows),
        {
            "budget_minutes": setting.budget, "image": setting.image, "outputs": list(grid), "patch": side,
            "batch": BATCH, "rounds": rounds, "width": setting.width,
        },
        notes=(
            f"Times of patches are those of one; ratios are of all {cells}. The paper's are of a GPU.",
            "The paper's ratios are computed from its times.",
        ),
        figure=bars(rows[1:], "forward ratio", ""),
    )  # fmt: skip
