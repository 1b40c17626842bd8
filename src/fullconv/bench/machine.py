"""Measurements that stand side by side in one run, because machines are shared and times come and go."""

from __future__ import annotations

import os
import platform
from typing import Any


def machine() -> dict[str, Any]:
    """What the times were measured on: processor, what it has for speed, cores, threads, versions."""
    import torch

    from fullconv.hardware import multiplies_bf16, processor

    return {
        "cpu": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability() + (", bf16" if multiplies_bf16() else ""),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
