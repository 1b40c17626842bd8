"""What a run notes of its machine: enough to do it again, and nothing of whose it is."""

from __future__ import annotations

import getpass
import platform
import socket
from pathlib import Path

import torch

from fullconv.training.environment import environment


def test_it_says_on_what_and_not_whose() -> None:
    found = environment()
    assert found["torch"] == torch.__version__ and found["python"] == platform.python_version()
    assert found["threads"] == str(torch.get_num_threads())
    assert found["memory"] == "unknown" or 0.1 < float(found["memory"].removesuffix(" GiB")) < 1e5
    assert all(isinstance(value, str) and value and "\n" not in value for value in found.values())
    whose = {socket.gethostname(), str(Path.home())} - {"", "localhost"}
    if len(getpass.getuser()) > 4:
        whose.add(getpass.getuser())
    assert not [name for name in whose if any(name in value for value in found.values())]
