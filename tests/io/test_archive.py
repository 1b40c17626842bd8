"""What is packed is what is unpacked; whatever is packed, nothing appears outside, and nothing half-made is left."""

import contextlib
import os
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.packing import FORMATS, TARS, pack, refuses, tar, tree, zipped

from fullconv.errors import RunError, UsageError
from fullconv.io.download.archive import Unpacked, unpack

# The good way.

PARTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=12
).filter(lambda part: part not in (".", "..", "__MACOSX") and not part.startswith("._") and part[1:2] != ":")


@st.composite
def contents(draw):
    """Files by path, none of which is a folder of another, none like another."""
    found, used = {}, set()
    for parts in draw(st.lists(st.lists(PARTS, min_size=1, max_size=4), min_size=1, max_size=6)):
        folded = [unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).casefold()) for part in parts]
        if any("/".join(folded[:depth]) in used for depth in range(1, len(parts) + 1)):
            continue
        used |= {"/".join(folded[:depth]) for depth in range(1, len(parts) + 1)}
        found["/".join(parts)] = draw(st.one_of(st.binary(max_size=40), st.integers(0, 3000).map(lambda n: b"ab" * n)))
    return found


@pytest.mark.parametrize("kind", FORMATS)
@given(files=contents())
@settings(max_examples=25)
def test_what_is_packed_is_what_is_unpacked(kind, files):
    with tempfile.TemporaryDirectory() as name:
        path = pack(Path(name, "packed"), files.items(), kind)
        target = Path(name, "set")
        assert unpack(path, target) == Unpacked(len(files), sum(len(content) for content in files.values()))
        assert {name: content for name, content in tree(target).items() if content is not None} == files
        assert sorted(entry.name for entry in Path(name).iterdir()) == ["packed", "set"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_dialects_of_tar(tmp_path, format):
    long = "/".join(["f" * 50] * (4 if format == tarfile.USTAR_FORMAT else 40))
    entries = [(".", None), ("./a", None), ("./a/empty", None), ("./a/b", b"b" * 512), (long, b"long"), ("ä/ß", b"")]
    path = tar(tmp_path / "packed", entries, format=format, pax_headers={"comment": "made by hand"})
    assert unpack(path, tmp_path / "set") == Unpacked(3, 516)
    assert tree(tmp_path / "set")["a/empty"] is None
    assert (tmp_path / "set" / "a" / "b").read_bytes() == b"b" * 512
    assert (tmp_path / "set" / long).read_bytes() == b"long" and (tmp_path / "set" / "ä" / "ß").exists()


def test_a_folder_may_exist_and_keeps_what_it_has(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    unpack(zipped(tmp_path / "packed", [("a/b", b"b")]), tmp_path)
    assert set(tree(tmp_path)) == {"mine", "packed", "a", "a/b"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["there", "there/b"])
def test_what_exists_is_not_replaced(tmp_path, kind, name):
    path = pack(tmp_path / "packed", [(name, b"new"), ("a", b"a")], kind)
    (tmp_path / "there").mkdir()
    before, seen = tree(tmp_path), []
    with pytest.raises(UsageError, match="there: it exists already; delete it or choose another folder"):
        unpack(path, tmp_path, lambda *now: seen.append(now))
    assert tree(tmp_path) == before and not seen


def test_what_comes_into_being_meanwhile_is_not_replaced(tmp_path):
    path = tar(tmp_path / "packed", [("a", b"a"), ("b", b"b"), ("c", b"c")])

    def progress(have, total):
        if have == total:  # all is unpacked, and not yet at its place
            (tmp_path / "set").mkdir(exist_ok=True)
            (tmp_path / "set" / "b").write_bytes(b"mine")

    with pytest.raises(UsageError, match="b: it exists already"):
        unpack(path, tmp_path / "set", progress)
    assert tree(tmp_path / "set") == {"b": b"mine"}


@pytest.mark.parametrize("kind", FORMATS)
def test_modes_owners_and_times_are_not_taken(tmp_path, kind):
    if kind in TARS:
        info = tarfile.TarInfo("a")
        info.mode, info.uid, info.gid, info.mtime, info.uname = 0o6777, 12345, 12345, 1, "nobody"
    else:
        info = zipfile.ZipInfo("a", (1980, 1, 1, 0, 0, 0))
        info.external_attr = (stat.S_IFREG | 0o6777) << 16
    unpack(pack(tmp_path / "packed", [(info, b"")], kind), tmp_path / "set")
    found, umask = (tmp_path / "set" / "a").stat(), os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(found.st_mode) == 0o644 & ~umask
    assert found.st_uid == os.geteuid() and found.st_mtime > 10**9


@pytest.mark.parametrize("kind", FORMATS)
def test_what_macos_adds_is_left_out(tmp_path, kind):
    names = ["set/a", "set/._a", "._set", "__MACOSX/set/._a", "__MACOSX/b"]
    path = pack(tmp_path / "packed", [(name, b"x") for name in names], kind)
    assert unpack(path, tmp_path / "out") == Unpacked(1, 1)
    assert set(tree(tmp_path / "out")) == {"set", "set/a"}


@pytest.mark.parametrize("kind", FORMATS)
def test_progress_ends_at_the_length_of_the_archive(tmp_path, kind):
    seen = []
    path = pack(tmp_path / "packed", [(f"f{i}", os.urandom(3000)) for i in range(9)], kind)
    unpack(path, tmp_path / "set", lambda *now: seen.append(now))
    assert seen == sorted(seen) and seen[-1] == (path.stat().st_size, path.stat().st_size) and len(seen) > 9


# Names.


@pytest.mark.parametrize("kind", ["tar", "gz", "zip"])
@pytest.mark.parametrize(
    "name, words",
    [
        ("../a", "leads out"), ("a/../../b", "leads out"), ("a/..", "leads out"), ("..", "leads out"),
        ("/etc/passwd", "an absolute path"), ("//a", "an absolute path"), ("a//b", "empty part"), ("", "no name"),
        ("..\\a", "backslash"), ("C:/a", "a drive letter"), ("a/c:b", "a drive letter"),
        ("a\nb", r"member 'a\nb': its name has a control character"), ("a\x7f", "control"), ("a\x9b", "control"),
        ("x" * 256, "more than 255 bytes"), ("ä" * 128, "more than 255 bytes"), ("d/" * 100 + "a", "100 folders deep"),
        ("/".join(["x" * 250] * 17), "4096 bytes or more"), (".", "that of the folder itself"),
    ],
)  # fmt: skip
def test_names_that_are_refused(tmp_path, kind, name, words):
    refuses(tmp_path, pack(tmp_path / "packed", [("good", b""), (name, b"x")], kind), words)


def test_a_name_with_a_nul_is_refused(tmp_path):
    path = zipped(tmp_path / "packed.zip", [("good", b""), ("a_b", b"x")])
    path.write_bytes(path.read_bytes().replace(b"a_b", b"a\0b"))
    refuses(tmp_path, path, "control character")
    refuses(tmp_path, tar(tmp_path / "packed", [("a\0b" + "c" * 100 + "ä", b"x")]), "control character")


def test_a_file_with_a_slash_at_the_end_is_refused(tmp_path):
    info = tarfile.TarInfo("ignored")
    info.pax_headers = {"path": "a/"}
    refuses(tmp_path, tar(tmp_path / "packed", [(info, b"")], format=tarfile.PAX_FORMAT), "empty part")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "gz", "zip"])
@pytest.mark.parametrize(
    "names, words",
    [
        (["a/b", "c", "a/b"], "member 'a/b': it comes twice"), (["a", "./a"], "comes twice"),
        (["a", "a/b"], "'a' is a file and a folder"), (["a/b", "a"], "'a' is a file and a folder"),
        (["a/File", "a/file"], "differs only in case"), (["A/b", "a/c"], "'A' exists, which differs only in case"),
        (["\u00e9", "e\u0301"], "differs only in case"), (["stra\u00dfe", "STRASSE"], "differs only in case"),
    ],
)  # fmt: skip
def test_names_that_collide_are_refused(tmp_path, kind, names, words):
    refuses(tmp_path, pack(tmp_path / "packed", [(name, b"x") for name in names], kind), words)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "zip"])
@given(names=st.lists(st.text("./aA\\:~ \0é\u0301", max_size=8), min_size=1, max_size=5))
@settings(max_examples=60)
def test_whatever_the_names_are_nothing_appears_outside(kind, names):
    entries = [(name, b"x") for name in dict.fromkeys(names)]
    with tempfile.TemporaryDirectory() as name:
        path = pack(Path(name, "packed"), entries, kind)
        with contextlib.suppress(UsageError):
            unpack(path, Path(name, "in", "set"))
            assert all(content in (b"x", None) for content in tree(Path(name, "in", "set")).values())
            assert [entry.name for entry in Path(name, "in").iterdir()] == ["set"]
        assert {entry.name for entry in Path(name).iterdir()} <= {"packed", "in"}


# Kinds.


@pytest.mark.parametrize("kind", ["tar", "xz"])
@pytest.mark.parametrize(
    "type, words",
    [(tarfile.SYMTYPE, "a symbolic link"), (tarfile.LNKTYPE, "a hard link"), (tarfile.FIFOTYPE, "a FIFO"),
     (tarfile.CHRTYPE, "a device"), (tarfile.BLKTYPE, "a device"), (tarfile.GNUTYPE_SPARSE, "a sparse file"),
     (b"M", "of the unknown type 'M'"), (b"V", "unknown type")],
)  # fmt: skip
def test_only_files_and_folders_are_unpacked(tmp_path, kind, type, words):
    info = tarfile.TarInfo("dir/odd")
    info.type, info.linkname = type, "good"
    refuses(tmp_path, tar(tmp_path / "packed", [("good", b""), (info, b"")], kind), "member 'dir/odd'", words)


def test_a_sparse_file_of_pax_is_refused(tmp_path):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "b"}
    refuses(tmp_path, tar(tmp_path / "packed", [(info, b"")], format=tarfile.PAX_FORMAT), "a sparse file")


@pytest.mark.parametrize("mode, words", [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFIFO, "neither a regular file")])
def test_only_files_and_folders_are_unpacked_of_a_zip(tmp_path, mode, words):
    info = zipfile.ZipInfo("link")
    info.external_attr = (mode | 0o777) << 16
    refuses(tmp_path, zipped(tmp_path / "packed", [("good", b""), (info, b"../outside")]), "member 'link'", words)


def link(name, to):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info, b""


def test_a_chain_of_links_that_outgrows_a_path_is_refused(tmp_path):
    """CVE-2025-4517: realpath gives up at PATH_MAX, and what it did not resolve is taken for harmless."""
    part, path, entries = "d" * 247, "", []
    for step in "abcdefghijklmnop":
        entries += [(f"{path}{part}", None), link(f"{path}{step}", part)]
        path += f"{part}/"
    chain = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    entries += [link(chain, "../" * 16), link("escape", f"{chain}/../../outside"), ("escape/a", b"x")]
    refuses(tmp_path, tar(tmp_path / "packed", entries, format=tarfile.PAX_FORMAT), "member 'a'", "a symbolic link")


@pytest.mark.parametrize("make", [lambda place, outside: place.symlink_to(outside), lambda place, _: place.mkdir()])
def test_no_link_that_somebody_puts_in_the_way_is_followed(tmp_path, make):
    outside = tmp_path / "outside"
    outside.mkdir()
    for second in ("way/a", "way"):
        path = tar(tmp_path / "packed", [("first", b"x"), (second, b"x")])

        def progress(have, total):
            (inner,) = tmp_path.glob(".fullconv-*")
            make(inner / "way", outside)

        with pytest.raises(RunError, match="cannot be unpacked there"):
            unpack(path, tmp_path / "set", progress)
        assert not list(outside.iterdir()) and not (tmp_path / "set").exists()


def test_no_file_is_written_through_a_link(tmp_path):
    path = tar(tmp_path / "packed", [("first", b"x"), ("way", b"x")])

    def progress(have, total):
        (inner,) = tmp_path.glob(".fullconv-*")
        (inner / "way").symlink_to(tmp_path / "outside")

    with pytest.raises(RunError, match="cannot be unpacked there"):
        unpack(path, tmp_path / "set", progress)
    assert set(tree(tmp_path)) == {"packed"}


def test_a_folder_that_is_exchanged_for_a_link_is_not_entered_again(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    path = tar(tmp_path / "packed", [("way/a", b"x"), ("b", b"x"), ("way/c", b"x")])

    def progress(have, total):
        (inner,) = tmp_path.glob(".fullconv-*")
        if not (inner / "moved").exists():
            (inner / "way").rename(inner / "moved")
            (inner / "way").symlink_to(outside)

    with pytest.raises(RunError, match="cannot be unpacked there"):
        unpack(path, tmp_path / "set", progress)
    assert not list(outside.iterdir()) and not (tmp_path / "set").exists()
