"""What ends a run early, at a step's end and with its state saved: a signal, the time, a file named ``stop``."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from fullconv.data.loader import SIGNALS


class Stop:
    """Whether a run is to end, and why. As a context manager it listens to signals: the first is noted, a second ends
    the process at once.

    file: a file whose appearance ends the run, and which is then removed. seconds: the longest time that it may take.
    """

    def __init__(self, file: Path | None = None, seconds: float | None = None) -> None:
        self.file, self.seconds = file, seconds
        self.signal: int | None = None
        self.reason: str | None = None
        self.began = time.monotonic()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # only there can Python listen
            self.before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    def asked(self, next_step: float = 0.0) -> bool:
        """Whether to end now, when one more step takes `next_step` seconds."""
        if self.reason is None:
            if self.signal is not None:
                self.reason = signal.Signals(self.signal).name
            elif self.seconds is not None and time.monotonic() - self.began + next_step >= self.seconds:
                self.reason = "--max-time"
            elif self.file is not None and self.file.exists():
                self.reason = f"the file {self.file}"
                with contextlib.suppress(OSError):
                    self.file.unlink()
        return self.reason is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, as shells say it; 0 where the end was planned."""
        return 0 if self.signal is None else 128 + self.signal
