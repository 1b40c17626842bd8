"""The ways are measured side by side on one input, and the labels of ours are those of the plain net."""

import json

import numpy as np
import pytest
import torch

from fullconv.bench import prediction
from fullconv.bench.subprocess_runner import Apart
from fullconv.cli.command import main
from fullconv.hardware import multiplies_bf16

SMALL = {"width": 1 / 16, "sizes": ((70, 90),), "threads": (1,), "rounds": 1}


@pytest.fixture
def torch_alone(monkeypatch):
    """As where no other engine is installed: the others take seconds to be made."""
    monkeypatch.setattr(prediction, "installed", lambda: ["torch"])


@pytest.mark.slow
def test_every_way_is_measured_and_says_the_same():
    before = torch.get_num_threads()
    found = prediction.measure(**SMALL)
    assert torch.get_num_threads() == before
    (run,) = found["runs"]
    ways = {row["way"]: row for row in run["ways"]}
    assert {prediction.PLAIN, "torch fp32"} <= set(ways) and ways[prediction.PLAIN]["speedup"] == 1
    assert ("torch bf16" in ways) == multiplies_bf16()
    for row in run["ways"]:
        if "labels" in row:
            assert row["max_rel_diff"] <= (1e-4 if row["way"][-4:] not in ("bf16", "int8") else 0.5)
            least = {"bf16": 0.95, "int8": 0.8}.get(row["way"][-4:], 0.999)
            assert row["seconds"] > 0 and row["labels"] >= least, row["way"]
    assert run["gflop"] > 0 and run["limit_gflop_per_second"]["fp32"] > 0


@pytest.mark.slow
def test_a_way_that_fails_is_left_out_and_said(torch_alone):
    def refuses():
        raise RuntimeError("no such operation")

    said = []
    found = prediction.measure(**SMALL, others=lambda *given: [("somebody's", "other", refuses)], say=said.append)
    assert "somebody's: left out (no such operation)" in said
    assert "somebody's" not in {row["way"] for row in found["runs"][0]["ways"]}


def another(net, size, threads):
    assert net.num_classes == 21 and (size, threads) == ((70, 90), 1)
    yield "another", "other", lambda: lambda x: np.zeros(x.shape[2:], int)


@pytest.mark.slow
def test_another_net_is_timed_and_not_compared(torch_alone):
    row = prediction.measure(**SMALL, others=another)["runs"][0]["ways"][-1]
    assert row["way"] == "another" and "labels" not in row


def test_the_plain_net_is_the_net_with_dense_upsampling():
    net = prediction.random_net("vgg16", 1 / 16, "paper")
    x = torch.randn(1, 3, 60, 80)
    with torch.inference_mode():
        assert (prediction.plain(net)(x) == net(x)[0].argmax(0).numpy()).mean() > 0.999


@pytest.mark.slow
def test_the_verb_prints(torch_alone, capsys):
    words = ["bench", "predict", "--width", "0.0625", "--sizes", "64,70x90", "--threads", "1", "--rounds", "1"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--json"])
    assert not left.value.code
    found = json.loads(capsys.readouterr().out)
    assert [run["size"] for run in found["runs"]] == [[64, 64], [70, 90]] and found["machine"]["cores"]
    for wrong in (["--sizes", "axb"], ["--threads", "0"]):
        with pytest.raises(SystemExit) as left:
            main([*words, *wrong])
        assert left.value.code == 2


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(torch_alone, capsys):
    words = ["bench", "predict", "--width", "0.0625", "--sizes", "64", "--threads", "1", "--rounds", "1"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--memory", "--json"])
    assert not left.value.code
    said = capsys.readouterr()
    rows = {row["way"]: row["peak_bytes"] for row in json.loads(said.out)["runs"][0]["ways"]}
    assert set(rows) >= {prediction.PLAIN, "torch fp32"} and "memory" in said.err
    assert all(100e6 < peak < 3e9 for peak in rows.values())


@pytest.mark.slow
def test_a_way_in_a_process_of_its_own_is_the_same():
    net = prediction.random_net("vgg11", 1 / 16, "paper")
    x = prediction.random_input(net, (64, 96))
    apart = Apart(prediction.plain, net, 1)
    try:
        wanted = prediction.plain(net).logits(x)
        assert np.abs(apart.logits(x) - wanted).max() <= 1e-5 * np.ptp(wanted)
        assert (apart(x) == wanted[0].argmax(0)).mean() > 0.999
        assert 0 < apart.seconds(x) < 5
    finally:
        apart.close()
