"""Published weights are fetched by name or address, and nothing else is taken for them."""

import json

import pytest
from tests.support.file_server import BODY, SHA, failed, only_this_machine, part, running_site

from fullconv.errors import RunError, UsageError
from fullconv.io.download.fetch import page_or_pointer
from fullconv.weights.known import KNOWN
from fullconv.weights.pretrained import fetch

at_home = pytest.fixture(autouse=True)(only_this_machine)


@pytest.fixture
def site():
    with running_site() as running:
        yield running


def test_an_address_is_fetched_once(site, tmp_path):
    seen = []
    path = fetch(site.url, tmp_path, lambda *now: seen.append(now), SHA)
    assert path.read_bytes() == BODY and seen[-1] == (len(BODY), len(BODY))
    assert fetch(site.url, tmp_path) == path and len(site.requests) == 1


def test_the_cache_is_where_files_go(site, tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_HOME", str(tmp_path / "new" / "home"))
    assert fetch(site.url) == tmp_path / "new" / "home" / "net-1.pth"


@pytest.mark.parametrize(
    "body, words",
    [(b"<!DOCTYPE html><title>Sign in</title>", "it is an HTML page"), (b"", "it is an empty file"),
     (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "it is a git-lfs pointer")],
)  # fmt: skip
def test_what_comes_instead_of_weights_is_refused(site, tmp_path, body, words):
    site.misbehave = lambda handler: handler.answer(200, body, {"Content-Length": len(body), "ETag": '"x"'})
    failed(RunError, words, "check the address", fetch=fetch, source=site.url, folder=tmp_path)
    assert not part(tmp_path).exists() and not (tmp_path / "net-1.pth").exists()


def test_a_page_that_is_kept_is_not_taken_for_weights(site, tmp_path):
    (tmp_path / "net-1.pth").write_bytes(b"<html>")
    failed(UsageError, "an HTML page", fetch=fetch, source=site.url, folder=tmp_path)


def test_a_length_at_the_start_is_no_html():
    assert page_or_pointer((0x3C3C).to_bytes(8, "little") + b'{"a":') is None
    assert page_or_pointer((0x3C20).to_bytes(8, "little") + b'{"a":') is None
    assert page_or_pointer(b"\n<VGG_ILSVRC_16_layers with a name of sixty bytes") is None


UNPUBLISHED = next(entry for entry in KNOWN.values() if entry.checksum is None)
PUBLISHED = next(entry for entry in KNOWN.values() if entry.checksum is not None)


def test_known_weights_put_there_by_hand_are_taken_and_remembered(tmp_path):
    path = tmp_path / UNPUBLISHED.file
    path.write_bytes(BODY)
    assert fetch(UNPUBLISHED.name, tmp_path) == path
    assert json.loads((tmp_path / f"{path.name}.origin.json").read_text())["sha256"] == SHA.value
    path.write_bytes(BODY[1:])
    failed(UsageError, SHA.value, fetch=fetch, source=UNPUBLISHED.name, folder=tmp_path)


def test_known_weights_must_be_what_was_published(tmp_path):
    (tmp_path / PUBLISHED.file).write_bytes(BODY)
    failed(
        UsageError,
        str(PUBLISHED.checksum),
        "the published checksum is",
        fetch=fetch,
        source=PUBLISHED.name,
        folder=tmp_path,
    )


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / UNPUBLISHED.file).mkdir()
    failed(UsageError, "cannot be read", fetch=fetch, source=UNPUBLISHED.name, folder=tmp_path)
