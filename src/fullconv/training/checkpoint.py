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


def _memory(state: State) -> dict[str, Tensor]:
    """What the optimizer remembers of every parameter (momentum; AdamW's moments and count), by kind and name."""
    return {
        f"{kind}.{name}": kept
        for name, p in state.net.named_parameters()
        for kind, kept in state.optimizer.state.get(p, {}).items()
        if isinstance(kept, Tensor)
    }


def save_state(folder: Path, state: State, facts: dict[str, Any]) -> Path:
    """Write the state, with `facts` (the settings of the run) in its header; returns the file."""
    tensors = {f"net.{name}": tensor for name, tensor in state.net.state_dict().items()}
    tensors.update({f"optimizer.{name}": tensor for name, tensor in _memory(state).items()})
    tensors.update({f"average.{name}": tensor for name, tensor in (state.average or {}).items()})
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
    parameters = dict(state.net.named_parameters())
    for key, kept in tensors.items():
        if key.startswith("optimizer."):
            kind, _, name = key.removeprefix("optimizer.").partition(".")
            parameter = parameters[name]
            # The fused update walks weight and memory in one order of memory: the layout must be the weight's own.
            like = torch.empty_like(parameter) if kept.shape == parameter.shape else torch.empty_like(kept)
            state.optimizer.state[parameter][kind] = like.copy_(kept)
    if state.average is not None:
        state.average = {name: tensors[f"average.{name}"].clone() for name in state.average}
    state.step = int(header["step"])
