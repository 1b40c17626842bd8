"""Time a network in a process of its own, in turn with those of this process.

The plain network is measured this way: the command line sets the allocator's thresholds for its whole process
(`set_malloc_thresholds`), and the plain network would gain from that too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.bench.medians import seconds
from fullconv.config import ModelConfig
from fullconv.models.build import build
from fullconv.models.fcn import FCN

Labels = NDArray[np.integer]
Way = Callable[[torch.Tensor], Labels]
"""From the net's own input (1, C, H, W) to the class of each pixel, (H, W)."""


class Scored:
    """A way whose scores can be compared too. logits: from the net's own input to (1, K, H, W)."""

    def __init__(self, logits: Callable[[torch.Tensor], NDArray[np.float32]]) -> None:
        self.logits = logits

    def __call__(self, x: torch.Tensor) -> Labels:
        """(1, C, H, W) to (H, W)."""
        labels: Labels = self.logits(x)[0].argmax(0)
        return labels


_made: Scored
"""The way, in its process."""


class Apart(Scored):
    """A way that another process makes of a copy of a net. make: makes it there; a function of a module."""

    def __init__(self, make: Callable[[FCN], Scored], net: FCN, threads: int) -> None:
        weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
        self.pool = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_make, initargs=(make, net.config, weights, threads)
        )
        super().__init__(lambda x: self.pool.submit(_logits, x.numpy()).result())

    def __call__(self, x: torch.Tensor) -> Labels:
        """(1, C, H, W) to (H, W)."""
        return self.pool.submit(_labels, x.numpy()).result()

    def seconds(self, x: torch.Tensor) -> float:
        """What the way takes, without the way to the other process."""
        return self.pool.submit(_seconds, x.numpy()).result()

    def close(self) -> None:
        """End the process."""
        self.pool.shutdown()


def _make(
    make: Callable[[FCN], Scored], config: ModelConfig, weights: dict[str, NDArray[np.float32]], threads: int
) -> None:
    global _made
    torch.set_num_threads(threads)
    net = build(config).eval()
    net.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    _made = make(net)


def _logits(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return _made.logits(torch.from_numpy(x))


def _labels(x: NDArray[np.float32]) -> Labels:
    return _made(torch.from_numpy(x))


def _seconds(x: NDArray[np.float32]) -> float:
    return seconds(partial(_made, torch.from_numpy(x)))
