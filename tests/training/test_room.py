"""A run that the disk has no room for is refused before its first step, and what is asked for is what is taken."""

import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from tests.support.faulty_disk import Tape, a_state, saved

from fullconv.config import ModelConfig, TrainConfig
from fullconv.errors import RunError
from fullconv.models.build import build
from fullconv.training.loop import State
from fullconv.training.saved_state import refuse_without_room, save_state, state_bytes

SMALL = ModelConfig("vgg11_bn", stride=8, num_classes=3, width=1 / 32, native_size=32)
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw"}, {"momentum": 0.0}, {"ema": 0.9}, {"learn": "scores"}])
def test_the_size_of_a_state_is_known_before_the_first_step(tmp_path, settings):
    state = State.of(build(SMALL), replace(TrainConfig(), **settings))
    before = state_bytes(state)
    for parameter in state.net.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    state.optimizer.step()
    assert state_bytes(state) == before
    size = save_state(tmp_path, state, {}).stat().st_size
    head = int.from_bytes((tmp_path / "step-000000000.safetensors").read_bytes()[:8], "little")
    assert before == size - 8 - head


def test_a_run_without_room_is_refused_before_its_first_step(tmp_path, monkeypatch):
    state, run = a_state(1), tmp_path / "not" / "yet"
    net = sum(tensor.nbytes for tensor in state.net.state_dict().values())
    needed = 3 * state_bytes(state) + 2 * net
    for free in (needed, needed - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: path == tmp_path and Usage(0, 0, free))
        if free == needed:
            refuse_without_room(run, state)
    with pytest.raises(RunError, match=f"{run}: .* need {needed:,} bytes and the disk has {needed - 1:,} free; free"):
        refuse_without_room(run, state)


def test_what_is_on_the_disk_already_needs_no_room(tmp_path, monkeypatch):
    """A run that was stopped by a full disk goes on as soon as there is room for one more state and one more net."""
    saved(tmp_path / "last", 1, 2)
    state = a_state(2)
    net = sum(tensor.nbytes for tensor in state.net.state_dict().values())
    (tmp_path / "model.safetensors").write_bytes(bytes(net))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, state_bytes(state) + net))
    refuse_without_room(tmp_path, state)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    with pytest.raises(RunError):
        refuse_without_room(tmp_path, state)


def test_the_room_that_is_asked_for_is_the_room_that_is_taken(tmp_path):
    """The most that lies on the disk while a long run saves, from a tape of its saves, is what was asked for."""
    state = a_state(1)
    tape = saved(tmp_path / "last", 1, 2, 3, 4, 5, on=Tape())
    sizes, most = {}, 0
    for what, path, *more in tape.notes:
        if what == "write":
            sizes[path] = max(sizes.get(path, 0), more[0] + len(more[1]))
        elif what == "replace":
            sizes[more[0]] = sizes.pop(path)
        elif what == "unlink":
            del sizes[path]
        most = max(most, sum(sizes.values()))
    heads = 3 * (max(sizes.values()) - state_bytes(state))
    assert most - heads == 3 * state_bytes(state)
