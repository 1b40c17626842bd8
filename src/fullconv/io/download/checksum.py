"""Checksums of files as publishers give them: of weights SHA-256 or SHA-1, of data sets often MD5."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fullconv.errors import UsageError, shown, suggestion

DIGITS = {"sha256": 64, "sha256-prefix": 8, "sha1": 40, "md5": 32}
"""The kinds of checksum and their length in hexadecimal digits."""


@dataclass(frozen=True)
class Checksum:
    """A checksum as it was published: `kind` is ``sha256``, ``sha256-prefix`` (its first 8 digits, as torchvision's
    file names carry them), ``sha1`` or ``md5``; `value` is in hexadecimal digits.

    SHA-1 and MD5 tell damage; against somebody who makes a file to deceive, they prove nothing. Raises `UsageError`
    for anything else.

    >>> str(Checksum("sha256-prefix", "397923af"))
    'sha256-prefix 397923af'
    """

    kind: str
    value: str

    def __post_init__(self) -> None:
        if self.kind not in DIGITS:
            raise UsageError(f"checksum '{shown(self.kind)}': no such kind; {suggestion(self.kind, DIGITS)}")
        if not re.fullmatch(f"[0-9a-f]{{{DIGITS[self.kind]}}}", self.value):
            raise UsageError(
                f"checksum '{shown(self.value)}': it is no {self.kind}; give its {DIGITS[self.kind]} digits of 0-9a-f"
            )

    def of(self, path: Path) -> Checksum:
        """The checksum of the same kind of a file; equal to this one when the file is the published one."""
        name = self.kind.removesuffix("-prefix")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
        return Checksum(self.kind, found[: DIGITS[self.kind]])

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"
