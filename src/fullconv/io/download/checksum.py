"""Checksums of files as publishers give them: SHA-256 or SHA-1 for weights, often MD5 for datasets."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fullconv.errors import UsageError, shown, suggestion

DIGITS = {"sha256": 64, "sha256-prefix": 8, "sha1": 40, "md5": 32}
"""The kinds of checksum and their length in hexadecimal digits; torchvision's file names carry ``sha256-prefix``."""


@dataclass(frozen=True)
class Checksum:
    """A published checksum: its kind, a key of `DIGITS`, and its value in lower-case hexadecimal digits.

    SHA-1 and MD5 detect damage; they do not protect against a forged file.

    Raises:
        UsageError: The kind is unknown, or the value does not fit it.

    >>> str(Checksum("sha256-prefix", "397923af"))
    'sha256-prefix 397923af'
    """

    kind: str
    value: str

    def __post_init__(self) -> None:
        if self.kind not in DIGITS:
            raise UsageError(f"checksum '{shown(self.kind)}': unknown kind; {suggestion(self.kind, DIGITS)}")
        if not re.fullmatch(f"[0-9a-f]{{{DIGITS[self.kind]}}}", self.value):
            raise UsageError(
                f"checksum '{shown(self.value)}': not a {self.kind}; give {DIGITS[self.kind]} digits of 0-9a-f"
            )

    def of(self, path: Path) -> Checksum:
        """Compute the checksum of the same kind for a file."""
        name = self.kind.removesuffix("-prefix")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
        return Checksum(self.kind, found[: DIGITS[self.kind]])

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"
