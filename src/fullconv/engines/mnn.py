"""MNN: an engine whose convolutions are Winograd's too, by kernels of its own; among the fastest in single precision.

Its converter prints, and so does every runtime of it, past Python; that goes to the errors, so that what a verb prints
for a program stays whole. Its own command for the conversion reports to its makers and installs a package for that; it
is not used here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.engines.card import IMAGE
from fullconv.errors import RunError, UsageError
from fullconv.quiet import without_warnings

if TYPE_CHECKING:
    from onnx import ModelProto


class MnnNet:
    """A graph that MNN runs: (1, C, H, W) float32 to a dict of its outputs by name.

    model: a graph for one size. threads: how many it may use.
    """

    def __init__(self, model: ModelProto, threads: int) -> None:
        self.mnn = present()
        self.outputs = [output.name for output in model.graph.output]
        with TemporaryDirectory() as folder, spoken_aside():
            path = Path(folder) / "net.mnn"
            _convert(model.SerializeToString(), path)
            # "high" is single precision; less is its own choice of half.
            settings = {"backend": 0, "numThread": threads, "precision": "high"}
            self.runtime = self.mnn.nn.create_runtime_manager((settings,))
            self.net = self.mnn.nn.load_module_from_file(str(path), [IMAGE], self.outputs, runtime_manager=self.runtime)

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run it once."""
        express = self.mnn.expr
        given = express.const(np.ascontiguousarray(x), list(x.shape), express.NCHW)
        found = self.net.forward([given])
        return {
            name: np.array(express.convert(one, express.NCHW).read())
            for name, one in zip(self.outputs, found, strict=True)
        }


def _convert(content: bytes, path: Path) -> None:
    """Write an ONNX graph as a file of MNN's."""
    from _tools import mnnconvert  # type: ignore[import-not-found]  # a part of MNN, under this name

    source = path.with_suffix(".onnx")
    source.write_bytes(content)
    mnnconvert(["", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "fullconv"])
    source.unlink()
    if not path.exists():
        raise RunError("mnn: its converter does not take the net; choose another engine")


@contextmanager
def spoken_aside() -> Iterator[None]:
    """What is printed by code that is not Python's goes to the errors."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def present() -> Any:
    """MNN, or the way to it."""
    try:
        with without_warnings(), spoken_aside():
            import MNN  # type: ignore[import-not-found]

            return MNN
    except ImportError:
        raise UsageError("MNN: it is not installed; pip install 'fullconv[mnn]'") from None
