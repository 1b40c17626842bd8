"""Fetch published weights by name or address, once, and refuse web pages in their place."""

from __future__ import annotations

from pathlib import Path

from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.download.checksum import Checksum
from fullconv.io.download.fetch import Progress, cache_folder, fetch_file, page_or_pointer
from fullconv.weights.known import KNOWN


def fetch(
    source: str,
    folder: Path | None = None,
    progress: Progress | None = None,
    expected: Checksum | None = None,
    timeout: float = 30.0,
) -> Path:
    """The file of published weights, by its name in `KNOWN` or by its address; fetched if it is not there.

    It is kept in `folder` (`cache_folder` if not given) under its own name, as `fetch_file` keeps files. `expected` is
    its checksum, where `KNOWN` has none. A file that was put there by hand is taken for what its name
    says if that is the file of a name in `KNOWN`.

    Raises `UsageError` for a name or an address that cannot be used and for a kept file that is not what it was;
    `RunError` when the network, the server or the disk fails, or when what came is not what was published.
    """
    known = KNOWN.get(source)
    if known is None and "://" not in source:
        raise UsageError(f"weights '{shown(source)}': there are none of this name; {suggestion(source, KNOWN)}")
    return fetch_file(
        known.url if known is not None else source,
        cache_folder() if folder is None else folder,
        expected or (known.checksum if known is not None else None),
        progress,
        timeout,
        other_than_weights,
        by_hand=known is not None,
    )


def other_than_weights(head: bytes) -> str | None:
    """What a file is that often comes instead of weights, by its first 64 bytes; None for anything else.

    >>> other_than_weights(b"version https://git-lfs.github.com/spec/v1")
    'a git-lfs pointer'
    """
    return page_or_pointer(head)
