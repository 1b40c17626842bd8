"""The table of published weights agrees with itself, with the nets, and with torchvision where that is installed."""

import importlib.util
from pathlib import Path

import pytest
from tests.support.file_server import failed

from fullconv.config import InputConvention
from fullconv.errors import UsageError
from fullconv.io.download.fetch import file_name
from fullconv.models.backbones.registry import BACKBONES
from fullconv.weights.known import KNOWN
from fullconv.weights.pretrained import fetch


@pytest.mark.parametrize("entry", KNOWN.values(), ids=KNOWN)
def test_known_weights_are_well_described(entry):
    assert entry.name.count(".") == 1 and "://" not in entry.name
    assert file_name(entry.url) == entry.file
    assert entry.backbone is None or entry.backbone in BACKBONES
    assert entry.backbone is None or entry.name.startswith(f"{entry.backbone}.")
    assert entry.input is None or isinstance(InputConvention.named(entry.input), InputConvention)
    assert entry.licence and entry.source
    assert entry.file.endswith(".pth" if entry.name.endswith(".torchvision") else ".caffemodel")
    if entry.checksum is not None and entry.checksum.kind == "sha256-prefix":
        assert entry.file == f"{entry.backbone}-{entry.checksum.value}.pth"


def test_no_two_known_files_have_one_name_or_one_checksum():
    assert list(KNOWN) == [entry.name for entry in KNOWN.values()]
    assert len({entry.file for entry in KNOWN.values()}) == len(KNOWN)
    sums = [entry.checksum for entry in KNOWN.values() if entry.checksum is not None]
    assert len(set(sums)) == len(sums)


def test_the_table_says_what_torchvision_says():
    found = importlib.util.find_spec("torchvision")  # where it is, without running it
    if found is None:
        pytest.skip("no torchvision")
    models = Path(found.origin).parent / "models"
    text = "".join(path.read_text() for path in sorted(models.glob("*.py")))
    entries = [entry for entry in KNOWN.values() if entry.name.endswith(".torchvision")]
    assert len(entries) == 14
    for entry in entries:
        published = text.partition(f'url="{entry.url}"')[2].partition("Weights(")[0]
        assert f'"_file_size": {entry.mebibytes},' in published, entry.name


@pytest.mark.parametrize(
    "source, words",
    [
        ("vgg16.torchvison", "did you mean 'vgg16.torchvision'?"),
        ("", "weights '': unknown name"),
        ("a\nb", r"a\nb"),
        ("file:///etc/passwd", "not the address of a file on the web"),
    ],
)
def test_what_cannot_be_fetched_is_refused_at_once(tmp_path, source, words):
    failed(UsageError, words, fetch=fetch, source=source, folder=tmp_path)
    assert not list(tmp_path.iterdir())
