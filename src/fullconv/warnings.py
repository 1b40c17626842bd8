"""No warnings for a while, from several threads at once, in a process of fullconv's own.

Filters of warnings belong to the whole process: two threads that each save and restore them undo each other. Here the
first to enter saves them, and the last to leave restores them. In a process of somebody else they are left alone.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fullconv import host

_lock = threading.Lock()
_inside = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def without_warnings(*loggers: str) -> Iterator[None]:
    """Hide what libraries tell their own developers, in all threads, until all that are inside have left.

    Has no effect in a process that is not fullconv's own. loggers: names of loggers that report errors only meanwhile;
    "" is the root logger.

    >>> host.own_process()
    >>> with without_warnings():
    ...     warnings.warn("nobody hears this")
    """
    if not host.owns_process():
        yield
        return
    global _inside, _filters
    levels = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings(action="ignore")
            _filters.__enter__()
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        with _lock:
            _inside -= 1
            if _inside == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
