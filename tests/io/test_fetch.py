"""Files are fetched once, whole and verified, resumed after breaks, and never mistaken for others."""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.file_server import BODY, SHA, failed, only_this_machine, part, running_site

from fullconv.errors import RunError, UsageError
from fullconv.io.download.fetch import cache_folder, fetch_file, file_name

at_home = pytest.fixture(autouse=True)(only_this_machine)


@pytest.fixture
def site():
    with running_site() as running:
        yield running


# The good way.


def test_a_file_is_fetched_once(site, tmp_path):
    seen = []
    path = fetch_file(site.url, tmp_path, progress=lambda have, total: seen.append((have, total)))
    assert path == tmp_path / "net-1.pth" and path.read_bytes() == BODY
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net-1.pth", "net-1.pth.origin.json"]
    assert seen == sorted(seen) and seen[-1] == (len(BODY), len(BODY))
    assert site.requests[0]["User-Agent"].startswith("fullconv/")
    assert fetch_file(site.url, tmp_path) == fetch_file(site.url, tmp_path, expected=SHA) == path
    assert len(site.requests) == 1


@pytest.mark.parametrize("length", ["none", "chunked"])
def test_a_server_that_does_not_say_how_long_it_is(site, tmp_path, length):
    def misbehave(handler):
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        headers = {"Transfer-Encoding": "chunked"} if length == "chunked" else {"Connection": "close"}
        handler.answer(200, chunks if length == "chunked" else BODY, headers)

    site.misbehave = misbehave
    seen = []
    assert fetch_file(site.url, tmp_path, progress=lambda *now: seen.append(now)).read_bytes() == BODY
    assert seen[-1] == (len(BODY), None)


@pytest.mark.parametrize(
    "environment, folder",
    [
        ({"FULLCONV_HOME": "/a/b"}, Path("/a/b")),
        ({"FULLCONV_HOME": "/a/b", "XDG_CACHE_HOME": "/c"}, Path("/a/b")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/fullconv")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "fullconv"),
        ({}, Path.home() / ".cache" / "fullconv"),
    ],
)
def test_where_files_are_kept(monkeypatch, environment, folder):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == folder


def test_a_file_may_be_kept_under_another_name(site, tmp_path):
    path = fetch_file(site.url, tmp_path / "new", name="set.tar")
    assert path == tmp_path / "new" / "set.tar" and path.read_bytes() == BODY
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["set.tar", "set.tar.origin.json"]


def test_the_longest_file_that_may_be_is_taken_and_a_longer_one_is_not(site, tmp_path):
    assert fetch_file(site.url, tmp_path / "a", most=len(BODY)).read_bytes() == BODY
    failed(RunError, "10,240 bytes are announced", url=site.url, folder=tmp_path / "b", most=len(BODY) - 1)


# Breaks.


@given(st.lists(st.integers(1, len(BODY)), max_size=5))
@settings(max_examples=25)
def test_a_download_goes_on_where_it_broke_off(cuts):
    with running_site() as site, tempfile.TemporaryDirectory() as name:
        folder, have = Path(name), 0
        for cut in cuts:
            if have + cut >= len(BODY):
                break
            site.cut = cut
            message = failed(RunError, "the part that came is kept", url=site.url, folder=folder)
            have += cut
            assert f"it broke off after {have:,} of {len(BODY):,} bytes" in message
            assert part(folder).read_bytes() == BODY[:have]
            assert not (folder / "net-1.pth").exists()
            assert site.requests[-1].get("Range") == (f"bytes={have - cut}-" if have > cut else None)
        site.cut = None
        assert fetch_file(site.url, folder).read_bytes() == BODY
        assert site.requests[-1].get("Range") == (f"bytes={have}-" if have else None)
        assert site.requests[-1].get("If-Range") == ('"v1"' if have else None)


def broken_off(site, folder, at=1000):
    site.cut = at
    failed(RunError, "broke off", url=site.url, folder=folder)
    site.cut = None
    assert part(folder).stat().st_size == at


def test_an_empty_part_is_not_left_behind(site, tmp_path):
    site.cut = 0
    failed(RunError, "broke off after 0 of 10,240 bytes", url=site.url, folder=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net-1.pth.origin.json"]


def test_a_server_without_ranges_starts_over(site, tmp_path):
    broken_off(site, tmp_path)
    site.ranges = False
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY


def test_two_versions_of_a_file_are_never_joined(site, tmp_path):
    broken_off(site, tmp_path)
    site.body, site.tag = BODY[::-1], '"v2"'
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("tag, date", [(None, None), ('W/"v1"', None), ('"v\xe4"', None)])
def test_without_a_name_for_the_version_it_starts_over(site, tmp_path, tag, date):
    site.tag, site.date = tag, date
    broken_off(site, tmp_path)
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert "Range" not in site.requests[-1]


def test_the_date_of_the_last_change_names_the_version_too(site, tmp_path):
    site.tag, site.date = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    broken_off(site, tmp_path)
    site.tag = site.date  # what the server compares If-Range with
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["If-Range"] == site.date and site.requests[-1]["Range"] == "bytes=1000-"


@pytest.mark.parametrize(
    "status, headers",
    [
        (206, {"ETag": '"v2"', "Content-Range": "bytes 1000-10239/10240"}),
        (206, {"ETag": '"v1"', "Content-Range": "bytes 0-10239/10240"}),
        (206, {"ETag": '"v1"'}),
        (416, {"Content-Range": "bytes */900"}),
        (204, {}),
    ],
)
def test_an_answer_that_does_not_fit_the_part_is_not_appended(site, tmp_path, status, headers):
    broken_off(site, tmp_path)

    def misbehave(handler):
        if "Range" in handler.headers:
            return handler.answer(status, b"", headers | ({"Content-Length": 0} if status != 204 else {}))
        return handler.serve(site)

    site.misbehave = misbehave
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert "Range" in site.requests[-2] and "Range" not in site.requests[-1]


def test_a_part_of_another_address_is_not_continued(site, tmp_path):
    broken_off(site, tmp_path)
    assert fetch_file(site.url.replace("/models/", "/others/"), tmp_path).read_bytes() == BODY
    assert "Range" not in site.requests[-1]


@pytest.mark.parametrize(
    "junk",
    ["", "[]", "{", '{"url": 3}', '{"url": "U", "version": 3}', '{"url": "U", "sha256": "x"}', '{"url": "U", "a": 1}',
     '{"url": "U", "version": "a\\nb"}'],
)  # fmt: skip
def test_a_damaged_side_file_is_as_none(site, tmp_path, junk):
    broken_off(site, tmp_path)
    (tmp_path / "net-1.pth.origin.json").write_text(junk.replace("U", site.url))
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert "Range" not in site.requests[-1]


# What is there already.


def test_a_kept_file_that_was_damaged_is_refused(site, tmp_path):
    path = fetch_file(site.url, tmp_path)
    path.write_bytes(BODY[:-1])
    damaged = hashlib.sha256(BODY[:-1]).hexdigest()
    failed(UsageError, str(path), SHA.value, damaged, "delete it", url=site.url, folder=tmp_path)
    failed(UsageError, str(path), SHA.value, damaged, url=site.url, folder=tmp_path, expected=SHA)
    path.write_bytes(b"<html>")
    failed(UsageError, "it is an HTML page", url=site.url, folder=tmp_path)
    assert len(site.requests) == 1


def test_a_file_of_unknown_origin_is_not_taken_for_another(site, tmp_path):
    (tmp_path / "net-1.pth").write_bytes(BODY)
    failed(UsageError, "nothing says that it is", site.url, url=site.url, folder=tmp_path)
    assert fetch_file(site.url, tmp_path, expected=SHA).read_bytes() == BODY
    fetch_file(site.url.replace("1.pth", "2.pth"), tmp_path)
    failed(UsageError, "nothing says", url=site.url.replace("/models/net-1", "/o/net-2"), folder=tmp_path)
    assert len(site.requests) == 1


def test_a_file_put_there_by_hand_is_taken_where_the_caller_says_so_and_remembered(site, tmp_path):
    path = tmp_path / "net-1.pth"
    path.write_bytes(BODY)
    assert fetch_file(site.url, tmp_path, by_hand=True) == path and not site.requests
    assert json.loads((tmp_path / "net-1.pth.origin.json").read_text())["sha256"] == SHA.value
    path.write_bytes(BODY[1:])
    failed(UsageError, SHA.value, url=site.url, folder=tmp_path, by_hand=True)


def test_a_folder_in_place_of_the_file_is_named(site, tmp_path):
    (tmp_path / "net-1.pth").mkdir()
    failed(UsageError, "cannot be read", url=site.url, folder=tmp_path)


@pytest.mark.parametrize(
    "url, words",
    [
        ("file:///etc/passwd", "not the address of a file on the web"),
        ("ftp://a.example/x.pth", "not the address of a file on the web"),
        ("http:///x.pth", "not the address of a file on the web"),
        ("http://[::1/x.pth", "not the address of a file on the web"),
        ("http://a.example:99999/x.pth", "not the address of a file on the web"),
        ("http://a.example:b/x.pth", "not the address of a file on the web"),
        ("http://user:secret@a.example/x.pth", "not the address of a file on the web"),
        ("http://a.example/x y.pth", "not the address of a file on the web"),
        ("http://a.example/x.pth\r\nHost: b", "not the address of a file on the web"),
        ("http://a.example", "does not end in a file name"),
        ("http://a.example/models/", "does not end in a file name"),
        ("http://a.example/models/..", "does not end in a file name"),
        ("http://a.example/%2e%2e", "does not end in a file name"),
        ("http://a.example/a%00b", "does not end in a file name"),
        ("http://a.example/..%5cx", "does not end in a file name"),
    ],
)
def test_what_is_no_address_of_a_file_is_refused_at_once(tmp_path, url, words):
    failed(UsageError, words, url=url, folder=tmp_path)
    failed(UsageError, words, fetch=file_name, url=url)
    assert not list(tmp_path.iterdir())


def test_an_encoded_slash_does_not_leave_the_folder(site, tmp_path):
    path = fetch_file(site.url.replace("net-1.pth", "..%2f..%2fnet-1.pth?download=1"), tmp_path / "in")
    assert path == tmp_path / "in" / "net-1.pth"


def test_the_guard_against_the_internet_holds(tmp_path):
    with pytest.raises(AssertionError, match=r"example\.org"):
        fetch_file("http://example.org/net.pth", tmp_path)
