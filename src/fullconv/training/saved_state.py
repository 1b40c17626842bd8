"""The state of a run on disk: whole at every moment, found by its content, and equal to the bit when it is read back.

Each save is one new file, written atomically; only when the disk has it, the oldest but two go. So a kill at any
instant leaves the newest state or the one before it, and a damaged file is passed over because its SHA-256 does not
fit. `tests/training` kills, fills and tears the disk to prove it; ``make faults`` does so some hundred times.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullconv.errors import RunError, UsageError
from fullconv.io.atomic import remove, remove_leftovers, write_pieces
from fullconv.training.loop import State
from fullconv.weights.checkpoint import pack, unpack

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
    """Write the state, with `facts` (the settings of the run) in its header; returns the file.

    Raises `RunError` when a number in it is not finite, before anything is written, and when the disk does not take
    it; the states before it are untouched then.
    """
    tensors = {f"net.{name}": tensor for name, tensor in state.net.state_dict().items()}
    tensors.update({f"optimizer.{name}": tensor for name, tensor in _memory(state).items()})
    tensors.update({f"average.{name}": tensor for name, tensor in (state.average or {}).items()})
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise RunError(
                f"step {state.step}: {name} has numbers that are not finite, and is not saved; lower --lr and go on "
                "from the last state with --resume"
            )
    path = folder / f"step-{state.step:09d}.safetensors"
    write_pieces(path, *pack(tensors, {"step": state.step, **facts}))
    others = sorted(other for other in _states(folder) if other != path)
    # What is newer was damaged and passed over when the run was taken up: these steps were done again.
    before = [other for other in others if other.name < path.name]
    for other in others:
        if other not in before[-(KEPT - 1) :]:
            remove(other)
    return path


def _finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. The least and the greatest tell, as NaN is both where there is one."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    # Axes in the order of memory: in another one torch would make a copy first.
    strides = tensor.stride()
    in_place = tensor.permute(sorted(range(tensor.ndim), key=lambda axis: -strides[axis]))
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(in_place))


def _states(folder: Path) -> list[Path]:
    """The files of states, the oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def newest_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and header of the newest whole state in a folder; None when none was saved. Left-over temporary files
    are removed.

    Raises `UsageError` when there are states and all of them are damaged: a run is not begun anew in silence.
    """
    remove_leftovers(folder, "step-*")
    states = _states(folder)
    for path in reversed(states):
        try:
            tensors, header = unpack(path)
        except UsageError:
            continue
        if header is not None and "step" in header:
            return tensors, header
    if states:
        raise UsageError(
            f"{folder}: none of its {len(states)} saved states is whole; take copies of them, or delete the folder to "
            "begin anew"
        )
    return None


def state_bytes(state: State) -> int:
    """The bytes of a saved state, also before the first step, when the optimizer remembers nothing yet. The header,
    some kilobytes, is left out.
    """
    adamw = isinstance(state.optimizer, torch.optim.AdamW)  # two moments and a count of four bytes
    coming = sum(
        2 * parameter.nbytes + 4 if adamw else parameter.nbytes * (group["momentum"] > 0)
        for group in state.optimizer.param_groups
        for parameter in group["params"]
        if not state.optimizer.state.get(parameter)
    )
    kept = [*state.net.state_dict().values(), *_memory(state).values(), *(state.average or {}).values()]
    return coming + sum(tensor.nbytes for tensor in kept)


def refuse_without_room(folder: Path, state: State) -> None:
    """Refuse to begin when the disk cannot take what the run in `folder` will save: at most `KEPT` states and the one
    being written, the net and its successor; what is there already counts.

    Raises `RunError` naming the bytes that are needed and free.
    """
    net = sum(tensor.nbytes for tensor in state.net.state_dict().values())
    states, nets = min(KEPT, len(_states(folder / "last"))), int((folder / "model.safetensors").is_file())
    needed = (KEPT + 1 - states) * state_bytes(state) + (2 - nets) * net
    exists = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(exists).free
    if free < needed:
        raise RunError(
            f"{folder}: the saved states need {needed:,} bytes and the disk has {free:,} free; free the disk or "
            "choose another --out"
        )


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
