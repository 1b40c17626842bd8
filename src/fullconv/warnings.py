"""No warnings for a while, from several threads at once.

Filters of warnings belong to the whole process: two threads that each save and restore them undo each other. Here the
first to enter saves them, and the last to leave restores them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def without_warnings() -> Iterator[None]:
    """What libraries tell their own developers is not shown, in any thread, until all that are inside have left.

    >>> with without_warnings():
    ...     warnings.warn("nobody hears this")
    """
    global _inside, _filters
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings(action="ignore")
            _filters.__enter__()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
