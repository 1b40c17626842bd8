"""The peers say what the network says, and the script measures, prints and draws them."""

import json
import os

import numpy as np
import pytest
from benchmarks import peers

from fullconv.bench import prediction


@pytest.mark.slow
def test_every_way_of_others_says_what_the_net_says():
    """Those that are installed: their labels, or classes of the size of the image."""
    net = prediction.random_net("vgg11", 1 / 16, "paper")
    x = prediction.random_input(net, (64, 96))
    wanted = prediction.plain(net)(x)
    for _, make in peers.engines(net, (64, 96), 2):
        assert (make()(x) == wanted).mean() > 0.999
    for _, make in peers.nets(5):
        assert make()(x).shape == (64, 96)


def test_what_is_printed_past_python_goes_to_the_errors_and_comes_back(capfd):
    print("before")
    with peers.spoken_aside():
        os.write(1, b"aside\n")
    print("after")
    said = capfd.readouterr()
    assert said.out == "before\nafter\n" and said.err == "aside\n"


@pytest.fixture
def one_peer(monkeypatch):
    """Our own engine and one other net, as the others take seconds to build."""
    monkeypatch.setattr(prediction, "installed", lambda: ["torch"])
    monkeypatch.setattr(peers, "engines", lambda net, size, threads: [])
    monkeypatch.setattr(peers, "nets", lambda classes: [("another", lambda: lambda x: np.zeros(x.shape[2:], int))])


WORDS = ["peers.py", "--width", "0.0625", "--sizes", "64,70x90", "--threads", "1", "--rounds", "1"]


@pytest.mark.slow
def test_the_script_prints_and_draws(one_peer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [*WORDS, "--json", "--plot", str(tmp_path / "plot.png")])
    peers.main()
    found = json.loads(capsys.readouterr().out)
    assert [run["size"] for run in found["runs"]] == [[64, 64], [70, 90]] and found["machine"]["cores"]
    assert [run["ways"][-1]["way"] for run in found["runs"]] == ["another", "another"]
    assert {prediction.PLAIN, "torch fp32"} <= {way["way"] for way in found["runs"][0]["ways"]}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [["--sizes", "axb"], ["--threads", "0"], ["--rounds", "0"]])
def test_the_script_refuses_what_the_verb_refuses(wrong, monkeypatch):
    monkeypatch.setattr("sys.argv", [*WORDS, *wrong])
    with pytest.raises(SystemExit) as left:
        peers.main()
    assert left.value.code == 2
