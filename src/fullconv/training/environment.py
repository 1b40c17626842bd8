"""On what a run was trained: versions, processor, memory. Written into its checkpoint, so that it can be told later."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import numpy as np
import PIL
import torch

from fullconv import __version__
from fullconv.hardware import processor


def environment() -> dict[str, str]:
    """What this process computes with, ready to be shown: versions, threads, processor, memory, operating system.

    No name of a machine, of a person or of a folder is among it.

    >>> sorted(environment())
    ['fullconv', 'memory', 'numpy', 'pillow', 'processor', 'python', 'system', 'threads', 'torch']
    """
    return {
        "fullconv": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "memory": memory(),
        "system": f"{platform.system()} {platform.machine()}".strip(),
    }


def memory() -> str:
    """How much memory the machine has, or the container where it was given less."""
    try:
        amount = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return "unknown"
    limit = Path("/sys/fs/cgroup/memory.max")
    with contextlib.suppress(OSError, ValueError):  # none, or "max"
        amount = min(amount, int(limit.read_text("ascii")))
    return f"{amount / 2**30:.1f} GiB"
