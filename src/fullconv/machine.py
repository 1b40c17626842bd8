"""The machine that all this runs on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The processor as its maker calls it; on Linux only /proc knows."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"
