"""A checksum says of which kind it is, and finds the same of the same bytes."""

import hashlib

import pytest

from fullconv.errors import UsageError
from fullconv.io.download.checksum import DIGITS, Checksum


@pytest.mark.parametrize(
    "kind, value",
    [("crc32", "0" * 8), ("md5", "0" * 31), ("sha1", "0" * 39), ("sha256", "G" * 64), ("md5", "A" * 32), ("sha1", "")],
)
def test_a_checksum_that_is_none_is_refused(kind, value):
    with pytest.raises(UsageError, match="checksum '"):
        Checksum(kind, value)


@pytest.mark.parametrize("kind", DIGITS)
def test_it_is_that_of_the_file(kind, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    value = hashlib.new(kind.removesuffix("-prefix"), b"abc").hexdigest()[: DIGITS[kind]]
    assert Checksum(kind, "0" * DIGITS[kind]).of(path) == Checksum(kind, value) != Checksum(kind, value[::-1])
