"""Whether this process is fullconv's own.

A library call changes nothing of the process that makes it: not its allocator, its warnings, its logging or what other
packages have registered in it. The command, and the processes that fullconv starts, change their own.
"""

from __future__ import annotations

_own = False


def own_process() -> None:
    """Let fullconv change this process; it was started for fullconv alone."""
    global _own
    _own = True


def owns_process() -> bool:
    """Return whether `own_process` was called here."""
    return _own
