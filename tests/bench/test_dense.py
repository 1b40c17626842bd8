"""The comparison of the three ways to dense scores measures what it says."""

import json

import pytest

from fullconv.bench.dense import measure
from fullconv.cli.command import main
from fullconv.errors import UsageError


def test_the_three_ways_are_measured_and_agree():
    found = measure(image=64, stride=16, width=1 / 32, native=64, rounds=1)
    assert [row["way"] for row in found["ways"]] == ["shift-and-stitch", "rarefied", "upsampled"]
    assert [row["runs"] for row in found["ways"]] == [4, 1, 1]
    assert all(row["seconds"] > 0 for row in found["ways"])
    assert found["difference"] < 1e-4


@pytest.mark.parametrize("image", [96, 130])
def test_an_image_that_does_not_suit_is_refused(image):
    with pytest.raises(UsageError, match="multiple of 32"):
        measure(image=image, stride=16)


def test_the_verb(capsys):
    with pytest.raises(SystemExit) as left:
        main(["bench", "dense", "--image", "128", "--stride", "16", "--rounds", "1", "--json"])
    assert not left.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["stride"] == 16 and found["machine"]["threads"] > 0
    with pytest.raises(SystemExit) as left:
        main(["bench", "dense", "folder"])
    assert left.value.code == 2
    assert "takes no data" in capsys.readouterr().err
