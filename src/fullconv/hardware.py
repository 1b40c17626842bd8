"""The machine that all this runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor as its maker calls it; on Linux only /proc knows."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def multiplies_bf16() -> bool:
    """Whether this processor multiplies bf16 itself (AVX-512 BF16 or AMX). Elsewhere libraries emulate it, many times
    slower than single precision.
    """
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())


def precisions() -> tuple[str, ...]:
    """What this processor multiplies by itself, of single and half precision."""
    return ("fp32", "bf16") if multiplies_bf16() else ("fp32",)


def machine() -> dict[str, Any]:
    """Return what times were measured on: processor and its instructions, cores, threads, versions."""
    import torch

    return {
        "cpu": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability() + (", bf16" if multiplies_bf16() else ""),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
