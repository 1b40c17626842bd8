"""The loader is measured as it is used: the files it makes can be opened, and every way is timed."""

import json

import numpy as np
import pytest

from fullconv.bench import data_loading
from fullconv.cli.command import main
from fullconv.datasets.open_dataset import open_dataset


def test_the_pictures_are_a_data_set():
    with data_loading.pictures(3, (60, 80)) as root:
        dataset = open_dataset(str(root), "train")
        assert len(dataset) == 3 and len(dataset.labels) == 21
        sample = dataset[2]
        assert sample.image.shape == (60, 80, 3) and len(np.unique(sample.label)) > 5
        assert dataset.pairs[0][1].suffix == ".jpg" and dataset.pairs[0][2].suffix == ".png"
    assert not root.exists()


@pytest.fixture
def small(monkeypatch):
    """A tenth of the work."""
    monkeypatch.setattr(data_loading, "STEPS", 1)
    monkeypatch.setattr(data_loading.pictures.__wrapped__, "__defaults__", (3, (64, 96)))
    monkeypatch.setattr(data_loading.measure, "__defaults__", (None, 5, 2, (40, 48)))


@pytest.mark.slow
@pytest.mark.parametrize("data", [[], ["digits"]])
def test_the_verb(small, data, capsys):
    with pytest.raises(SystemExit) as left:
        main(["bench", "loader", *data, "--rounds", "1", "--json"])
    assert not left.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["data"].startswith(data[0] if data else "generated")
    assert [row["way"] for row in found["ways"]][::3] == ["decoding", "training step"]
    assert all(row["images_per_second"] > 0 for row in found["ways"])
    assert found["ways"][3]["share_of_training"] == 1
