"""The state of a run on disk: whole at every moment, found by its content, and equal to the bit when it is read back.

Each save is one new file, written atomically; then the oldest but two go. So a kill at any instant leaves the newest
state or the one before it, and a damaged file is passed over because its SHA-256 does not fit.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullconv.atomic import write_atomically
from fullconv.errors import UsageError
from fullconv.training import State
from fullconv.weights import pack, unpack

KEPT = 2


def _momenta(state: State) -> dict[str, Tensor]:
    """The momentum of every parameter that has one, by the parameter's name."""
    buffers = {
        name: state.optimizer.state[p].get("momentum_buffer")
        for name, p in state.net.named_parameters()
        if p in state.optimizer.state
    }
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def save_state(folder: Path, state: State, facts: dict[str, Any]) -> Path:
    """Write the state, with `facts` (the settings of the run) in its header; returns the file."""
    tensors = {f"net.{name}": tensor for name, tensor in state.net.state_dict().items()}
    tensors.update({f"momentum.{name}": tensor for name, tensor in _momenta(state).items()})
    path = folder / f"step-{state.step:09d}.safetensors"
    write_atomically(path, pack(tensors, {"step": state.step, **facts}))
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def newest_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and header of the newest whole state in a folder; None when there is none. Left-over temporary files
    are removed.
    """
    for temporary in folder.glob(".step-*.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            tensors, header = unpack(path)
        except UsageError:
            continue
        if header is not None and "step" in header:
            return tensors, header
    return None


def restore(state: State, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Put a saved state into a fresh one, bit for bit."""
    state.net.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net.")})
    for name, parameter in state.net.named_parameters():
        buffer = tensors.get(f"momentum.{name}")
        if buffer is not None:
            # The fused update walks weight and momentum in one order of memory: the layout must be the weight's own.
            state.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
    state.step = int(header["step"])
