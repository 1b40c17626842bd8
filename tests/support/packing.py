"""Archives as the tests need them, good and bad, and what every refusal of one must leave."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from fullconv.errors import UsageError
from fullconv.io.download.archive import unpack

TARS = ["tar", "gz", "bz2", "xz"]
FORMATS = [*TARS, "zip", "stored"]


def tar(path, entries, kind="tar", **options):
    """A tar of TarInfo or names, with contents."""
    with tarfile.open(path, "w" if kind == "tar" else f"w:{kind}", **options) as file:
        for name, content in entries:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                info.size = len(content or b"")
                info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            file.addfile(info, io.BytesIO(content or b""))
    return path


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries:
            info = zipfile.ZipInfo(f"{name}/" if content is None else name) if isinstance(name, str) else name
            file.writestr(info, content or b"", method if content is not None else zipfile.ZIP_STORED)
    return path


def pack(path, entries, kind):
    if kind in TARS:
        return tar(path, entries, kind)
    return zipped(path, entries, zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED)


def tree(folder):
    """All that is below a folder, links not followed: names, and bytes of files."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            content = None if path.is_dir() and not path.is_symlink() else path.is_symlink() or path.read_bytes()
            found[path.relative_to(folder).as_posix()] = content
    return found


def refuses(tmp_path, path, *words, error=UsageError, **options):
    """That it is refused in one line, and leaves all as it was; also where the target is there already."""
    for target in (tmp_path / "new" / "set", tmp_path / "there"):
        if target.name == "there":
            target.mkdir(exist_ok=True)
            (target / "mine").write_bytes(b"mine")
        before = tree(tmp_path)
        with pytest.raises(error) as caught:
            unpack(path, target, **options)
        assert tree(tmp_path) == before
        message = str(caught.value)
        assert "\n" not in message and ";" in message and str(path) in message
        for word in words:
            assert word in message, message
