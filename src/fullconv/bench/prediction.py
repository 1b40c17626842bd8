"""What a prediction costs: each of our engines beside the plain net.

Every way begins with the net's own input and ends with the class of each pixel. All ways of one size take turns, so
that a busy machine is busy for all of them; the numbers to quote are the ratios. `GFLOP/s` counts the operations of the
plain net, ring and all, for every way: it is the speed at which its work is done, by whatever means.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv import host
from fullconv.backends.torch_cpu import TYPES
from fullconv.bench.medians import medians, seconds
from fullconv.bench.subprocess_runner import Apart, Labels, Scored, Way
from fullconv.bench.training_step import Dense
from fullconv.config import ModelConfig, Size
from fullconv.hardware import precisions
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.predictor import load_checkpoint, read
from fullconv.models.build import build
from fullconv.models.fcn import FCN
from fullconv.models.upsample import Upsample
from fullconv.optimize.compiled import PRECISIONS, CompiledModel, installed
from fullconv.optimize.fold_batchnorm import folded
from fullconv.optimize.size_specialization import specialize_for_size
from fullconv.profiling import process_memory
from fullconv.profiling.graph_cost import flops_by_part, peak_bytes

PLAIN = "plain eager"
"""The way that all others are compared with: every layer as it is, dense transposed convolutions, all scores; in a
process of its own.
"""

MEMORY_FACTOR = 3
"""How many times the memory of our own net a way may need at most: that of others is not known."""

Report = Callable[[str], Any]
Others = Callable[[FCN, Size, int], Iterable[tuple[str, str, Callable[[], Way]]]]
"""From a net, a size and a number of threads to the name, the precision ("other" for another net) and the maker of each
way to compare with; a function of a module, for processes of its own.
"""


def measure(
    backbone: str = "vgg16", width: float = 1.0, padding: str = "paper", sizes: Sequence[Size] = ((500, 500),),
    threads: Sequence[int] = (2,), rounds: int = 5, model: Path | None = None, compiler: bool = False,
    memory: bool = False, others: Others | None = None, say: Report = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Median seconds of each way for each size and number of threads.

    model: a file with a trained net; else one of the backbone with random weights, of which only the time counts.
    compiler: torch's compiler too, which takes half a minute for each size. memory: at the most threads, also the peak
    of a process of each way alone. others: more ways to compare with.
    """
    made = model or (backbone, width, padding)
    net = _net(made)
    before = torch.get_num_threads()
    found: list[dict[str, Any]] = []
    try:
        for number in threads:
            torch.set_num_threads(number)
            limit = machine_limit()
            for size in sizes:
                say(f"{size[0]}x{size[1]}, {number} threads ...")
                rows = _measured(net, size, number, rounds, compiler, others, limit, say)
                found.append({"size": list(size), "threads": number, "gflop": _gflop(net, size),
                              "limit_gflop_per_second": limit, "ways": rows})  # fmt: skip
    finally:
        torch.set_num_threads(before)
    for run in (run for run in found if memory and run["threads"] == max(threads)):  # it hardly depends on them
        say(f"memory at {run['size'][0]}x{run['size'][1]}, {run['threads']} threads ...")
        for row in run["ways"]:
            row["peak_bytes"] = peak_of(row["way"], made, tuple(run["size"]), run["threads"], others)
    config = net.config
    return {
        "net": f"FCN-{net.stride}s on {config.backbone}, width {config.width:g}, {config.padding} padding, "
               f"{sum(p.numel() for p in net.parameters()):,} parameters",
        "weights": "trained" if model is not None else "random",
        "rounds": rounds,
        "runs": found,
    }  # fmt: skip


def _net(made: Path | tuple[str, float, str]) -> FCN:
    if not isinstance(made, Path):
        return random_net(*made)
    net = load_checkpoint(made, engine="eager").net
    assert isinstance(net, FCN)
    return net


def random_net(backbone: str, width: float, padding: str, classes: int = 21) -> FCN:
    """A net whose features are neither dead nor infinite: He's initialization, and scores of some size."""
    torch.manual_seed(0)
    net = build(ModelConfig(backbone, stride=8, num_classes=classes, width=width, padding=padding)).eval()
    for name, parameter in net.named_parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu" if name.startswith("backbone") else "linear")
        elif name.startswith("backbone") and name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return net


def machine_limit(side: int = 1536, rounds: int = 5) -> dict[str, float]:
    """GFLOP/s at which this machine multiplies at best in what torch has: a matrix product, and a convolution."""
    best = {}
    for name in precisions():
        kind = TYPES[name]
        square = torch.randn(side, side).to(kind)
        image = torch.randn(1, 256, 64, 64).to(kind).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(256, 256, 3, 3).to(kind).contiguous(memory_format=torch.channels_last)
        tries: list[tuple[float, Callable[[], Tensor]]] = [
            (2.0 * side**3, partial(torch.matmul, square, square)),
            (2.0 * weight.numel() * 64 * 64, partial(F.conv2d, image, weight, padding=1)),
        ]
        rates = []
        with torch.inference_mode():
            for operations, run in tries:
                run()
                rates += [operations / seconds(run) for _ in range(rounds)]
        best[name] = round(max(rates) / 1e9, 1)
    return best


def _gflop(net: FCN, size: Size) -> float:
    return round(2 * sum(flops_by_part(net, *size).values()) / 1e9, 1)


def _measured(
    net: FCN,
    size: Size,
    threads: int,
    rounds: int,
    compiler: bool,
    others: Others | None,
    limit: dict[str, float],
    say: Report,
) -> list[dict[str, Any]]:
    x = random_input(net, size)
    found: dict[str, tuple[Way, str]] = {}
    needed = MEMORY_FACTOR * peak_bytes(net, *size)
    for name, precision, make in ways(net, x, threads, compiler, others):
        if name != PLAIN and process_memory.available() < needed:  # all ways stay in memory, as they take turns
            left = process_memory.format_bytes(process_memory.available())
            say(f"{name}: left out ({process_memory.format_bytes(needed)} may be needed, and {left} are left)")
            continue
        try:
            way = Apart(plain, net, threads) if name == PLAIN else make()
            way(x)
        except Exception as problem:  # somebody else's engine may refuse the net, and the others go on
            say(f"{name}: left out ({' '.join(str(problem).split())[:90] or type(problem).__name__})")
            continue
        found[name] = way, precision
    labels: dict[str, Labels] = {name: way(x) for name, (way, _) in found.items()}
    off = _off_by({name: way for name, (way, _) in found.items() if isinstance(way, Scored)}, x)
    timed = {name: partial(way.seconds, x) if isinstance(way, Apart) else partial(seconds, partial(way, x))
             for name, (way, _) in found.items()}  # fmt: skip
    taken = medians(timed, rounds)
    for way, _ in found.values():
        if isinstance(way, Apart):
            way.close()
    work, rows = _gflop(net, size), []
    for name, (_, precision) in found.items():
        median, same = taken[name], precision != "other"
        rows.append({
            "way": name,
            "seconds": round(median, 5),
            "speedup": round(taken[PLAIN] / median, 2),
            **({"gflop_per_second": round(work / median, 1),
                "share_of_limit": round(work / median / limit[precision], 2) if precision in limit else None,
                "max_rel_diff": float(f"{off[name]:.1e}"),
                "labels": round(float((labels[name] == labels[PLAIN]).mean()), 6)} if same else {}),
        })  # fmt: skip
    return rows


def _off_by(scored: dict[str, Scored], x: Tensor) -> dict[str, float]:
    """The largest difference of a score from the plain net's, as a share of their range."""
    truth = scored[PLAIN].logits(x)
    return {name: float(np.abs(way.logits(x) - truth).max() / np.ptp(truth)) for name, way in scored.items()}


def random_input(net: FCN, size: Size) -> Tensor:
    """The net's own input, (1, C, H, W), of random pixels; the same at each call."""
    torch.manual_seed(0)
    return torch.randn(1, net.config.channels * len(net.streams), *size) * 50


def ways(
    net: FCN, x: Tensor, threads: int, compiler: bool, others: Others | None = None
) -> Iterable[tuple[str, str, Callable[[], Way]]]:
    """All that is here: the name of a way, its precision, and what makes it."""
    return [*_ours(net, x, threads, compiler), *(others(net, (x.shape[2], x.shape[3]), threads) if others else ())]


def _ours(net: FCN, x: Tensor, threads: int, compiler: bool) -> Iterator[tuple[str, str, Callable[[], Way]]]:
    yield PLAIN, "fp32", lambda: plain(net)
    for engine in installed():
        if engine == "compile" and not compiler:
            continue
        for precision in (each for each in PRECISIONS[engine] if each in precisions()):
            yield f"{engine} {precision}", precision, partial(prepared, net, engine, precision)
    if "openvino" in installed() and find_spec("nncf") and find_spec("onnx"):
        yield "openvino int8", "int8", partial(in_int8, net, x, threads)


def peak_of(
    way: str, made: Path | tuple[str, float, str], size: Size, threads: int, others: Others | None = None
) -> int | None:
    """Bytes of a new process that makes one way and predicts twice with it, libraries and weights included.

    made: a file with a net, or backbone, width and padding of one with random weights. None where the process ended
    before it could say.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, way, made, size, threads, others).result()
        except BrokenProcessPool:
            return None


def _peak(way: str, made: Path | tuple[str, float, str], size: Size, threads: int, others: Others | None) -> int:
    host.own_process()
    torch.set_num_threads(threads)
    net = _net(made)
    x = random_input(net, size)
    run = {name: make for name, _, make in ways(net, x, threads, True, others)}[way]()
    for _ in range(2):
        run(x)
    return process_memory.peak()


def plain(net: FCN) -> Scored:
    """The net as it is usually written (pytorch-fcn, 2017): dense upsampling, and the maximum of all scores."""
    found = copy.deepcopy(net).eval()
    for name, layer in list(found.named_modules()):
        if isinstance(layer, Upsample) and layer.weight is None:
            found.set_submodule(name, Dense(layer, net.num_classes))

    def run(x: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = found(x)
        assert isinstance(logits, Tensor)
        return logits.numpy()

    return Scored(run)


class FromCoarse(Scored):
    """Labels from the scores at the stride of the net, without those at full resolution."""

    def __init__(self, coarse: Callable[[Tensor], CoarseScores]) -> None:
        super().__init__(lambda x: coarse(x).logits()[None])
        self.coarse = coarse

    def __call__(self, x: Tensor) -> Labels:
        """(1, C, H, W) to (H, W)."""
        return self.coarse(x).prediction()


def prepared(net: FCN, engine: str, precision: str) -> Way:
    """One of our engines, and labels from its scores at the stride of the net."""
    fast = CompiledModel(net, engine, precision)
    return FromCoarse(lambda x: read(fast.net, fast.coarse(x), x)["semantic"])


def in_int8(net: FCN, x: Tensor, threads: int) -> Way:
    """OpenVINO with the trunk in 8-bit integers, whose ranges are those of the input at hand: for the time. Whether the
    labels keep is a matter of trained nets and real images, and of ``fullconv export --int8``.
    """
    from fullconv.backends.onnx import to_onnx
    from fullconv.backends.openvino import OpenvinoNet, of_onnx
    from fullconv.exporting.int8 import in_fp32, openvino_in_int8

    plain = folded(net)
    size = x.shape[2], x.shape[3]
    graph = to_onnx(specialize_for_size(plain, *size), size, coarse=True)
    run = OpenvinoNet(openvino_in_int8(of_onnx(graph), [x.numpy()], in_fp32(graph, 0)), "fp32", threads)

    def way(x: Tensor) -> CoarseScores:
        scores = {"semantic": torch.from_numpy(next(iter(run(x.numpy()).values())))}
        return read(plain, scores, x)["semantic"]

    return FromCoarse(way)
