"""Measure several ways by turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds(run: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def medians(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call every way once a round, by turns; return the median of what each returned.

    >>> medians({"one": iter([3.0, 1.0, 2.0]).__next__, "other": lambda: 5.0}, 3)
    {'one': 2.0, 'other': 5.0}
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}
