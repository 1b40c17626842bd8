"""The two ways to fail: what the caller gave cannot be used (exit 2), or the run could not go on (exit 1).

The message is one line, ``THING: WHAT IS WRONG; WHAT TO DO``; the command line prints it after ``fullconv: error:``
without a traceback. Anything else that escapes is a defect of fullconv.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FullconvError(Exception):
    """An error that is reported in one line."""

    exit_code = 1


class UsageError(FullconvError):
    """A flag, a file or a data set that cannot be used as it is. Exit code 2."""

    exit_code = 2


class RunError(FullconvError):
    """The work began and could not go on: diverged, out of memory, disk full. Exit code 1."""


def suggestion(wrong: str, valid: Iterable[str]) -> str:
    """The way out of a misspelt name: the nearest valid one first, then all of them.

    >>> suggestion("vgg61", ["vgg11", "vgg16", "lenet"])
    "did you mean 'vgg16'? One of: vgg11, vgg16, lenet"
    """
    valid = list(valid)
    near = difflib.get_close_matches(wrong, valid, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + "One of: " + ", ".join(valid)


def shown(name: object) -> str:
    r"""A name from outside as it can be printed in a line: control characters, line ends, bytes that are no UTF-8 as
    escapes.

    >>> print(shown("two\nlines \udce9.png"))
    two\nlines \udce9.png
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))
