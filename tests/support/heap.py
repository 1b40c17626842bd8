"""The C library's heap checker for child processes, and whether it works here."""

import functools
import os
import subprocess
import sys
from pathlib import Path

CHECKER = Path("/usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")  # before glibc 2.34 it is in the C library itself

OVERRUN = """
import ctypes
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
block = library.malloc(40)
ctypes.memset(block, 171, 41)
library.free(block)
"""


def checked_environment():
    """Return the environment in which a child checks every block of memory that it frees."""
    preload = {"LD_PRELOAD": str(CHECKER)} if CHECKER.exists() else {}
    return {**os.environ, "MALLOC_CHECK_": "3", "GLIBC_TUNABLES": "glibc.malloc.check=3", **preload}


@functools.cache
def is_effective():
    """Return whether one byte written behind a block ends a child; without it only crashes are noticed."""
    child = subprocess.run([sys.executable, "-c", OVERRUN], env=checked_environment(), capture_output=True, check=False)
    return child.returncode != 0
