"""What each way of a prediction has in memory at most, in a process of its own."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from fullconv import host
from fullconv.bench import prediction
from fullconv.config import Size
from fullconv.inference.predictor import load_checkpoint
from fullconv.models.fcn import FCN
from fullconv.profiling import process_memory


def peak_of(way: str, made: tuple[str, float, str] | Path, size: Size, threads: int) -> int | None:
    """Bytes of a new process that makes one way and predicts twice with it, libraries and weights included.

    made: a file with a net, or backbone, width and padding of one with random weights. None where the process ended
    before it could say.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, way, made, size, threads).result()
        except BrokenProcessPool:
            return None


def _peak(way: str, made: tuple[str, float, str] | Path, size: Size, threads: int) -> int:
    import torch

    host.own_process()
    torch.set_num_threads(threads)
    if isinstance(made, Path):
        net = load_checkpoint(made, engine="eager").net
        assert isinstance(net, FCN)
    else:
        net = prediction.random_net(*made)
    x = prediction.random_input(net, size)
    run = {name: make for name, _, make in prediction.ways(net, x, threads, compiler=True, others=True)}[way]()
    for _ in range(2):
        run(x)
    return process_memory.peak()
