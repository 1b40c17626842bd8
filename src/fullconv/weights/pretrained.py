"""Published weights by name or by address, downloaded once and kept (`fullconv.io.download.fetch`)."""

from __future__ import annotations

from pathlib import Path

from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.download.checksum import Checksum
from fullconv.io.download.fetch import Progress, cache_folder, fetch_file
from fullconv.weights.known import KNOWN


def fetch(
    source: str,
    folder: Path | None = None,
    progress: Progress | None = None,
    expected: Checksum | None = None,
    timeout: float = 30.0,
) -> Path:
    """Return the path of published weights, given by a name in `KNOWN` or by an address; download them if missing.

    A file with the name of known weights that was put into the folder by hand is accepted.

    Args:
        folder: Where the file is kept, under its own name; `cache_folder` by default.
        expected: Checksum of the file; by default, the one in `KNOWN`.

    Raises:
        UsageError: The name or the address is not usable, or the existing file is not the published one.
        RunError: The network, the server or the disk fails, or the download is not what was published.
    """
    known = KNOWN.get(source)
    if known is None and "://" not in source:
        raise UsageError(f"weights '{shown(source)}': unknown name; {suggestion(source, KNOWN)}")
    return fetch_file(
        known.url if known is not None else source,
        cache_folder() if folder is None else folder,
        expected or (known.checksum if known is not None else None),
        progress,
        timeout,
        by_hand=known is not None,
    )
