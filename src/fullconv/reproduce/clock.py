"""Times of nets, for the two studies that measure them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from fullconv.reproduce.setting import Setting


def median_seconds(work: Callable[[], float | None], setting: Setting, seconds: float) -> tuple[float, int]:
    """The median time of some work, and how often it was measured: once unmeasured, where so many seconds have room for
    a second time; then up to the setting's rounds.

    work: gives the seconds that count, or None for all of them.
    """
    began, times = time.perf_counter(), []
    while True:
        start = time.perf_counter()
        counted = work()
        whole = time.perf_counter() - start
        times.append(whole if counted is None else counted)
        spent = time.perf_counter() - began
        if len(times) > setting.rounds or spent + whole > seconds:
            break
    measured = times[1:] or times
    return statistics.median(measured), len(measured)
