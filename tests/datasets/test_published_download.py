"""Published data sets are fetched from a server that cuts, lies and redirects, verified, unpacked once, and counted."""

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from tests.support.fakes import fake, names_of, voc
from tests.support.file_server import only_this_machine, running_site

from fullconv.datasets.published.catalog import Named, abouts
from fullconv.datasets.published.description import Published
from fullconv.datasets.published.download import ARCHIVES, get, verify
from fullconv.errors import RunError, UsageError

at_home = pytest.fixture(autouse=True)(only_this_machine)


class Shelf:
    """A site that serves several files, by their paths; a path may be cut short, replaced or redirected."""

    def __init__(self, site):
        self.site, self.files, self.cut, self.moved = site, {}, {}, {}
        self.top = f"http://{urlsplit(site.url).netloc}"
        site.misbehave = self.serve

    def serve(self, handler):
        path = urlsplit(handler.path).path
        if path in self.moved:
            return handler.answer(302, b"", {"Location": self.moved[path], "Content-Length": 0})
        if path not in self.files:
            return handler.answer(404, b"", {"Content-Length": 0})
        self.site.body, self.site.tag = self.files[path], f'"{hashlib.md5(self.files[path]).hexdigest()}"'
        self.site.cut = self.cut.pop(path, None)
        return handler.serve(self.site)


@pytest.fixture
def shelf():
    with running_site() as site:
        yield Shelf(site)


def zipped(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"SiftFlowDataset/{file.relative_to(folder)}")
    return buffer.getvalue()


def tarred(folder):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for top in sorted(folder.iterdir()):
            archive.add(top, top.name)
    return buffer.getvalue()


@pytest.fixture
def siftflow(shelf, tmp_path):
    """SIFT Flow as the shelf offers it: the images and labels in an archive, the lists beside it."""
    splits = fake("siftflow", tmp_path / "made")
    lists = {name: (tmp_path / "made" / f"{name}.txt") for name in ("trainval", "test")}
    for name, path in lists.items():
        shelf.files[f"/lists/{name}.txt"] = path.read_bytes()
        path.unlink()
    shelf.files["/SiftFlowDataset.zip"] = zipped(tmp_path / "made")
    files = (
        Published(f"{shelf.top}/SiftFlowDataset.zip"),
        *(Published(f"{shelf.top}/lists/{name}.txt", into="SiftFlowDataset") for name in lists),
    )
    return replace(abouts()["siftflow"], files=files, splits={split: len(names) for split, names in splits.items()})


def fetch(about, folder):
    said, seen = [], []
    get(about, folder, said.append, lambda what, done, total: seen.append((what, done, total)), timeout=5)
    return said, seen


def test_what_was_fetched_is_complete_and_is_not_fetched_again(shelf, siftflow, tmp_path):
    said, seen = fetch(siftflow, tmp_path / "set")
    assert "unpacked" in said[0] and seen
    found = verify(Named(siftflow, tmp_path / "set"), lambda *_: None)
    assert [split.complete for split in found] == [True, True] and len({split.fingerprint for split in found}) == 2
    asked = len(shelf.site.requests)
    again, _ = fetch(siftflow, tmp_path / "set")
    assert len(shelf.site.requests) == asked and "already" in again[0]
    assert [split.fingerprint for split in verify(Named(siftflow, tmp_path / "set"), lambda *_: None)] == [
        split.fingerprint for split in found
    ]


def test_a_download_that_broke_off_goes_on(shelf, siftflow, tmp_path):
    shelf.cut["/SiftFlowDataset.zip"] = 1000
    with pytest.raises(RunError, match="run again"):
        fetch(siftflow, tmp_path / "set")
    part = tmp_path / "set" / ARCHIVES / "SiftFlowDataset.zip.part"
    assert part.stat().st_size == 1000
    assert not (tmp_path / "set" / "SiftFlowDataset").exists()
    fetch(siftflow, tmp_path / "set")
    assert any("Range" in request for request in shelf.site.requests)
    assert all(split.complete for split in verify(Named(siftflow, tmp_path / "set"), lambda *_: None))


def test_another_file_than_the_published_one_is_not_unpacked(shelf, siftflow, tmp_path):
    right = hashlib.md5(shelf.files["/SiftFlowDataset.zip"]).hexdigest()
    about = replace(siftflow, files=(replace(siftflow.files[0], checksum=f"md5 {right}"), *siftflow.files[1:]))
    shelf.files["/SiftFlowDataset.zip"] += b"!"
    with pytest.raises(RunError, match=right):
        fetch(about, tmp_path / "set")
    assert not list((tmp_path / "set").rglob("*.zip")) and not (tmp_path / "set" / "SiftFlowDataset").exists()
    shelf.files["/SiftFlowDataset.zip"] = shelf.files["/SiftFlowDataset.zip"][:-1]
    fetch(about, tmp_path / "set")


def test_a_page_in_place_of_the_archive_is_refused(shelf, siftflow, tmp_path):
    shelf.files["/SiftFlowDataset.zip"] = b"<!doctype html><title>moved</title>"
    with pytest.raises(RunError, match="HTML"):
        fetch(siftflow, tmp_path / "set")


def test_redirects_are_followed_on_the_web_only(shelf, siftflow, tmp_path):
    shelf.files["/elsewhere.zip"] = shelf.files["/SiftFlowDataset.zip"]
    shelf.moved["/SiftFlowDataset.zip"] = "/elsewhere.zip"
    fetch(siftflow, tmp_path / "one")
    shelf.moved["/SiftFlowDataset.zip"] = "file:///etc/hostname"
    with pytest.raises(RunError, match="check the address"):
        fetch(siftflow, tmp_path / "two")


def test_a_hostile_archive_leaves_nothing(shelf, siftflow, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("SiftFlowDataset/fine.txt", "x")
        archive.writestr("../outside.txt", "x")
    shelf.files["/SiftFlowDataset.zip"] = buffer.getvalue()
    with pytest.raises(UsageError, match="outside"):
        fetch(siftflow, tmp_path / "set")
    assert not (tmp_path / "outside.txt").exists()
    assert [path.name for path in (tmp_path / "set").iterdir()] == [ARCHIVES]


def test_two_archives_fill_one_folder(shelf, tmp_path):
    """VOC2007's training and test archives both unpack ``VOCdevkit/VOC2007``."""
    both = names_of("2007_")
    for name, splits in (("a", {"train": 3, "val": 2}), ("b", {"test": 2})):
        voc("voc2007", tmp_path / name, {**{"train": 0, "val": 0}, **splits})
        shelf.files[f"/{name}.tar"] = tarred(tmp_path / name)
    files = tuple(Published(f"{shelf.top}/{name}.tar") for name in ("a", "b"))
    about = replace(abouts()["voc2007"], files=files)
    fetch(about, tmp_path / "set")
    found = {split.split: split.samples for split in verify(Named(about, tmp_path / "set"), lambda *_: None)}
    assert found["train"] == len(both["train"]) and found["test"] == 2


def test_one_changed_byte_changes_the_fingerprint_of_its_split(siftflow, tmp_path):
    fetch(siftflow, tmp_path / "set")
    named = Named(siftflow, tmp_path / "set")
    before = {split.split: split.fingerprint for split in verify(named, lambda *_: None)}
    file = named.open("test").files.labels[0][0]
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    after = {split.split: split.fingerprint for split in verify(named, lambda *_: None)}
    assert after["test"] != before["test"] and after["trainval"] == before["trainval"]


def test_a_set_that_nobody_may_fetch_says_how_to_come_by_it(tmp_path):
    with pytest.raises(UsageError, match="sign up"):
        fetch(abouts()["cityscapes"], tmp_path)
