"""An archive that is too much, damaged, or none is refused in one line, and leaves nothing."""

import gzip
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.packing import FORMATS, pack, refuses, tar, tree, zipped

from fullconv.errors import FullconvError, RunError, UsageError
from fullconv.io.download import archive as archives
from fullconv.io.download.archive import Unpacked, unpack

# Too much.


@pytest.mark.parametrize("kind", ["tar", "gz", "zip"])
def test_the_limits_hold_and_what_is_within_them_passes(tmp_path, kind):
    path = pack(tmp_path / "packed", [(f"f{i}", b"xy") for i in range(10)], kind)
    refuses(tmp_path, path, "member 'f9'", "one more than the 9 that are allowed", most_files=9)
    refuses(tmp_path, path, "member 'f9'", "more than the 19 bytes", most_bytes=19)
    assert unpack(path, tmp_path / "set", most_files=10, most_bytes=20) == Unpacked(10, 20)


def test_folders_count_too(tmp_path):
    refuses(tmp_path, tar(tmp_path / "packed", [("a/" * 20 + "b", b"")]), "20 that are allowed", most_files=20)


def test_a_directory_of_too_many_names_is_not_even_read(tmp_path, monkeypatch):
    path = zipped(tmp_path / "packed", [(f"{i:060}", b"") for i in range(4000)])
    refuses(tmp_path, path, "more than 3,000 members", most_files=3000)
    monkeypatch.setattr(archives, "LARGEST_DIRECTORY", 400_000)
    refuses(tmp_path, path, "its directory has 424,000 bytes")


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    path = tar(tmp_path / "packed", [("a", b"x" * 100)])
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=archives.MARGIN + 99))
    refuses(tmp_path, path, "99 bytes that are free", "free the disk", error=RunError)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
@pytest.mark.parametrize("name", ["zeros", "._zeros"])
def test_a_bomb_is_refused_by_what_came_out(tmp_path, kind, name, monkeypatch):
    monkeypatch.setattr(archives, "HARMLESS", 10**6)
    monkeypatch.setattr(archives, "RATIO", 100)
    path = pack(tmp_path / "packed", [(name, bytes(3 * 10**6))], kind)
    if (kind, name) == ("zip", "._zeros"):  # it is not even read
        return
    refuses(tmp_path, path, "decompression bomb")


def test_a_real_bomb_is_refused(tmp_path):
    path, size = tmp_path / "packed", 101 * 10**6
    info = tarfile.TarInfo("zeros")
    info.size = size
    with gzip.open(path, "wb", 6) as file:
        file.write(info.tobuf())
        for _ in range(size // 10**6):
            file.write(bytes(10**6))
    with pytest.raises(UsageError, match=r"more than 10\d,\d{3},\d{3} come out of it, as of a decompression bomb"):
        unpack(path, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_header_of_a_tar_has_bounds(tmp_path):
    for type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("header")
        info.type, info.size = type, 1 << 33
        path = tmp_path / "packed"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        refuses(tmp_path, path, "a header of 8,589,934,592 bytes")


@pytest.mark.parametrize(
    "record", [b"", b"5", b"99 path=a\n", b"0 path=a\n", b"9 path:a\n\n", b"3 path=a\n", b"9 path=ab", b"-9 path=a\n"]
)
def test_a_damaged_header_of_pax_is_refused(tmp_path, record):
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, len(record) + 3
    path = tmp_path / "packed"
    path.write_bytes(info.tobuf() + record.ljust(512, b"x") + tarfile.TarInfo("a").tobuf() + bytes(1024))
    refuses(tmp_path, path, "damaged or cut short (a damaged pax header)")


def extension(type, content, size=None):
    info = tarfile.TarInfo("header")
    info.type, info.size = type, len(content) if size is None else size
    return info.tobuf() + content.ljust(-(-len(content) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    "headers, words",
    [
        (extension(tarfile.XHDTYPE, b"9 path=b\n9 path=c\n", 9), "more than its size"),
        (extension(tarfile.GNUTYPE_LONGNAME, b"bcd", 1), "more than its size"),
        (extension(tarfile.XHDTYPE, b"9 path=b\n") * 2, "two headers of one kind"),
        (extension(tarfile.XHDTYPE, b"9 path=b\n") + extension(tarfile.SOLARIS_XHDTYPE, b""), "headers of one kind"),
        (extension(tarfile.GNUTYPE_LONGNAME, b"b\0") * 2, "two headers of one kind"),
        (extension(tarfile.XHDTYPE, b"310 comment=" + b"1" * 297 + b"\n"), "a number of 256 digits"),
        (extension(tarfile.XGLTYPE, b"") * 1100, "damaged or cut short (maximum recursion depth"),
    ],
)
def test_headers_in_which_readers_differ_or_do_not_end_are_refused(tmp_path, headers, words):
    path = tmp_path / "packed"
    path.write_bytes(headers + tarfile.TarInfo("a").tobuf() + bytes(1024))
    refuses(tmp_path, path, words)


def test_a_map_of_a_sparse_file_without_end_is_refused(tmp_path):
    keys = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
    info = tarfile.TarInfo("a")
    info.size = 1 << 22
    path = tmp_path / "packed"
    path.write_bytes(
        extension(tarfile.XHDTYPE, keys) + info.tobuf() + b"999999999\n" + b"0\n" * (1 << 21) + bytes(1014)
    )
    refuses(tmp_path, path, "a header of 512 bytes")


def test_a_python_without_the_data_filter_is_named(tmp_path, monkeypatch):
    path = tar(tmp_path / "packed", [("a", b"x")])
    monkeypatch.delattr(tarfile, "data_filter")
    refuses(tmp_path, path, "update to Python 3.11.4 or newer", error=RunError)


@pytest.mark.parametrize("size", ["-1", "1e3", "9" * 20, ""])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"size": size}
    refuses(tmp_path, tar(tmp_path / "packed", [(info, b"")], format=tarfile.PAX_FORMAT), f"invalid size '{size}'")


def test_a_negative_size_is_refused(tmp_path):
    info = tarfile.TarInfo("a")
    block = bytearray(info.tobuf())
    block[124:136] = b"\xff" * 11 + b"\x00"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "packed").write_bytes(block + bytes(1024))
    refuses(tmp_path, tmp_path / "packed", "invalid size '-256'")


def test_a_name_or_a_size_for_all_members_is_refused(tmp_path):
    path = tar(tmp_path / "packed", [("a", b"")], format=tarfile.PAX_FORMAT, pax_headers={"path": "b"})
    refuses(tmp_path, path, "one path to all members")


# Damage.

SOUND = [("a/b", b"some bytes " * 60), ("a/c", os.urandom(700)), ("d", b"")]


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
@settings(max_examples=80)
def test_cut_short_anywhere_or_changed_anywhere_it_is_refused_or_whole(kind, data):
    with tempfile.TemporaryDirectory() as name:
        path, target = pack(Path(name, "packed"), SOUND, kind), Path(name, "set")
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        change = data.draw(st.integers(0, 255))
        path.write_bytes(whole[:at] if not change else whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
        try:
            unpack(path, target)
        except FullconvError as error:
            assert "\n" not in str(error) and ";" in str(error)
            assert [entry.name for entry in Path(name).iterdir()] == ["packed"]
            return
        found = {name: content for name, content in tree(target).items() if content is not None}
        if kind == "tar" and change:  # which has no checksum of what its members hold
            assert {name: len(content) for name, content in found.items()} == {name: len(c) for name, c in SOUND}
        else:
            assert found == dict(SOUND)
            assert change or kind == "tar", "cut short after the end mark of a plain tar, and nowhere else"


def test_an_archive_that_ends_between_two_members_is_cut_short(tmp_path):
    path = tar(tmp_path / "packed", [("a", b"x" * 512), ("b", b"x")])
    path.write_bytes(path.read_bytes()[:1024])
    refuses(tmp_path, path, "damaged or cut short", "it ends too early", "fetch it again")


def test_an_archive_that_ends_after_a_header_for_the_next_member_is_cut_short(tmp_path):
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    path = tmp_path / "packed"
    path.write_bytes(tarfile.TarInfo("a").tobuf() + info.tobuf() + b"b".ljust(512, b"\0") + bytes(1024))
    refuses(tmp_path, path, "damaged or cut short (end of file header)")


def test_a_header_that_is_damaged_does_not_end_the_archive(tmp_path):
    path = tar(tmp_path / "packed", [("a", b"x" * 512), ("b", b"x")])
    data = bytearray(path.read_bytes())
    data[1024] ^= 1
    path.write_bytes(data)
    refuses(tmp_path, path, "damaged or cut short (a damaged header)")


def test_a_wrong_checksum_names_the_member(tmp_path):
    path = zipped(tmp_path / "packed", [("good", b"good"), ("bad", b"content")], zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"content", b"CONTENT"))
    refuses(tmp_path, path, "member 'bad'", "Bad CRC-32")
    path = tar(tmp_path / "packed.gz", [("a", b"x")], "gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    refuses(tmp_path, path, "CRC check failed")


@pytest.mark.parametrize("declared", [3, 30])
def test_a_length_that_is_a_lie_is_refused(tmp_path, declared):
    path = zipped(tmp_path / "packed", [("bad", b"content")])
    data = path.read_bytes()
    path.write_bytes(data.replace((7).to_bytes(4, "little") + b"\3\0", declared.to_bytes(4, "little") + b"\3\0"))
    assert path.read_bytes() != data
    refuses(tmp_path, path, "member 'bad'", "damaged or cut short")


def test_an_encrypted_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "packed", [("secret", b"x")])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    refuses(tmp_path, path, "member 'secret': encrypted; decrypt")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_output_has_no_bounds_are_refused(tmp_path, method):
    refuses(tmp_path, zipped(tmp_path / "packed", [("a", b"x")], method), f"compressed by method {method}")


def test_a_folder_with_bytes_is_refused(tmp_path):
    refuses(tmp_path, zipped(tmp_path / "packed", [("a/", b"x")]), "a folder with bytes")


@pytest.mark.parametrize(
    "content, words",
    [(b"", "cut short"), (b"<!doctype html>", "cut short"), (b"7z\xbc\xaf\x27\x1c" * 200, "neither a tar"),
     (gzip.compress(b"text, text\n" * 99, mtime=0), "neither a tar"), (bytes(10240), "there is nothing in it"),
     (b"BZh9 no" * 99, "damaged"), (b"\xfd7zXZ\0 no" * 99, "damaged"), (b"PK\3\4 no" * 99, "damaged"),
     (b"PK\5\6" + bytes(18), "there is nothing in it")],
)  # fmt: skip
def test_what_is_no_archive_is_refused(tmp_path, content, words):
    (tmp_path / "packed.tar").write_bytes(content)
    refuses(tmp_path, tmp_path / "packed.tar", words)


def test_what_cannot_be_read_or_made_is_named(tmp_path):
    refuses(tmp_path, tmp_path / "missing", "cannot be read")
    path = tar(tmp_path / "packed", [("a", b"x")])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="not a folder; choose another"):
        unpack(path, tmp_path / "file")
    with pytest.raises(RunError, match="cannot be unpacked there"):
        unpack(path, tmp_path / "file" / "set")


def test_an_interrupt_leaves_nothing(tmp_path):
    path = tar(tmp_path / "packed", [("a", b"x"), ("b", b"x")])

    def progress(have, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(path, tmp_path / "new" / "set", progress)
    assert set(tree(tmp_path)) == {"packed"}
