"""Fetching the published files of a data set, and telling how much of it is there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fullconv.datasets.published.catalog import Named
from fullconv.datasets.published.description import DatasetInfo, Published
from fullconv.errors import UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.download.archive import unpack
from fullconv.io.download.checksum import Checksum
from fullconv.io.download.fetch import fetch_file, file_name

ARCHIVES = "archives"
"""The folder, inside that of the data set, in which archives are kept as they came."""

MOST = 200 * 10**9
"""Bytes that one file of a data set may have."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]
"""Called with what is going on, how much of it is done, and how much there is (None where nobody knows)."""


def get(about: DatasetInfo, folder: Path, say: Say, progress: Progress, timeout: float = 30.0) -> list[Path]:
    """Fetch the files that are published for everybody into `folder`, and unpack the archives among them there.

    A download that broke off goes on where it stopped, every file is verified before it gets its name, an archive that
    was unpacked is not unpacked again. `say` is given one sentence for each thing done. Returns what was fetched.

    Raises `UsageError` for a set that offers nothing of the kind, with the way to come by it; `RunError` when network,
    server or disk fail.
    """
    if not about.files:
        raise UsageError(f"{about.name}: {about.title} cannot be fetched; {about.by_hand or 'see ' + about.home}")
    fetched = []
    for number, published in enumerate(about.files, start=1):
        name = file_name(published.url)
        packed = name.endswith((".tar", ".tgz", ".tar.gz", ".zip"))
        where = folder / ARCHIVES if packed else folder / published.into
        what = f"{name} ({number} of {len(about.files)})"
        path = fetch_file(
            published.url,
            where,
            checksum_of(published),
            partial(progress, what),
            timeout,
            by_hand=True,
            most=MOST,
        )
        fetched.append(path)
        if packed:
            unpacked = _unpack_once(path, folder / published.into, progress)
            say(f"{name}: unpacked {unpacked:,} files" if unpacked else f"{name}: unpacked already")
        else:
            say(f"{name}: there")
    return fetched


def checksum_of(published: Published) -> Checksum | None:
    """The published checksum of a file."""
    if published.checksum is None:
        return None
    kind, digits = published.checksum.split()
    return Checksum(kind, digits)


def _unpack_once(archive: Path, folder: Path, progress: Progress) -> int:
    """Unpack into a folder of its own, then move what is there to its place; the number of files, 0 when a note beside
    the archive says that it was done.

    Several archives of a set fill the same folders (VOC2007's two), so folders are joined; a file that is there already
    stays as it is.
    """
    note = archive.with_name(f"{archive.name}.unpacked.json")
    with suppress(OSError, ValueError):
        if json.loads(note.read_bytes())["size"] == archive.stat().st_size:
            return 0
    fresh = folder / f".unpacking-{archive.name}"
    shutil.rmtree(fresh, ignore_errors=True)
    with suppress(OSError):  # reported by `unpack`; what a killed process leaves in it is removed by the next run
        fresh.mkdir(parents=True)
    try:
        found = unpack(archive, fresh, partial(progress, f"unpacking {archive.name}"))
        _join(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    write_atomically(note, json.dumps({"size": archive.stat().st_size, "files": found.files}).encode())
    return found.files


def _join(source: Path, target: Path) -> None:
    """Move the files and folders of one folder into another, folder by folder."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if place.is_symlink() or (place.exists() and place.is_dir() != entry.is_dir()):
            raise UsageError(f"{shown(place)}: it is in the way of the archive; move it away and run again")
        if not place.exists():
            entry.replace(place)
        elif entry.is_dir():
            _join(entry, place)


@dataclass(frozen=True)
class Verified:
    """One split as it is on disk. published: how many samples it should have, 0 where that is not known. problem: why
    it cannot be opened, or None. fingerprint: SHA-256 over the names and the bytes of all its files, in order.
    """

    split: str
    samples: int
    published: int
    fingerprint: str | None
    problem: str | None

    @property
    def complete(self) -> bool:
        """Whether it can be opened and has as many samples as are published."""
        return self.problem is None and self.samples == (self.published or self.samples)


def verify(named: Named, progress: Callable[[int, int], None]) -> list[Verified]:
    """Count and fingerprint every split; `progress` is called with (samples done, samples in all) of each.

    Two people with equal fingerprints have the same data set, byte for byte.
    """
    found = []
    for split, published in named.about.splits.items():
        try:
            data = named.open(split)
            digest = hashlib.sha256()
            for number, name in enumerate(data.files.names):
                digest.update(f"{name}\n".encode())
                labels = data.files.labels[number] if data.files.labels else ()
                for file in (*data.files.images[number], *labels):
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
                progress(number + 1, len(data))
            found.append(Verified(split, len(data), published, digest.hexdigest(), None))
        except UsageError as problem:
            found.append(Verified(split, 0, published, None, str(problem)))
    return found
