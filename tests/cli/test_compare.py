"""`fullconv compare`: every number of the runs, what differs, and what cannot be compared, in words."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.strict_html import check

from fullconv.cli.command import main
from fullconv.errors import UsageError
from fullconv.inference.predictor import load_checkpoint
from fullconv.reporting.page import percent
from fullconv.reporting.run_page import write_run_report
from fullconv.training.log import read_log
from fullconv.weights import checkpoint

SMALL = ["--backbone", "lenet", "--width", "0.1", "--stride", "4", "--workers", "0", "--batch-size", "2"]


def fullconv(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def runs(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in their rate and length."""
    top = tmp_path_factory.mktemp("runs")
    for name, rate, steps in (("slow", 0.01, 4), ("fast", 0.1, 6)):
        words = ["--lr", rate, "--steps", steps, "--eval-every", 2, *SMALL]
        assert fullconv("train", digits_folder, "--out", top / name, *words) == 0
    return top


def changed(run: Path, to: Path, **provenance: object) -> Path:
    """A copy of a run whose checkpoint says other things of itself."""
    shutil.copytree(run, to)
    tensors, header = checkpoint.load(to / "model.safetensors")
    assert header is not None
    labels = provenance.pop("labels", header.labels)
    header = replace(header, labels=labels, provenance={**header.provenance, **provenance})
    checkpoint.save(to / "model.safetensors", tensors, header)
    return to


def said(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    assert fullconv("compare", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_checkpoints_and_logs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, runs / "slow", runs / "fast")
    for one in found["runs"]:
        tensors, header = checkpoint.load(runs / one["name"] / "model.safetensors")
        log = [json.loads(line) for line in (runs / one["name"] / "log.jsonl").read_text().splitlines()]
        assert header is not None and one["scores"] == header.provenance["val"]
        assert one["best_step"] == header.provenance["step"]
        assert one["steps"] == len(log) == {"slow": 4, "fast": 6}[one["name"]]
        assert one["seconds"] == pytest.approx(sum(line["seconds"] for line in log))
        assert one["parameters"] == sum(t.numel() for name, t in tensors.items() if t.is_floating_point())
    assert found["differences"] == {"lr": [0.01, 0.1], "steps": [4, 6]}
    assert found["notes"] == []


def test_the_page_says_the_same_and_marks_what_differs(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, header = checkpoint.load(runs / "fast" / "model.safetensors")
    assert header is not None
    scores = json.loads(json.dumps(header.provenance["val"]))
    for place, row in enumerate(scores["classes"].values()):  # two nets that have learned next to nothing are alike
        row["iu"] = place / 20 if place != 3 else None
    scores["mean_iu"] = 0.4321
    fast = changed(runs / "fast", tmp_path / "fast", val=scores)
    assert fullconv("compare", runs / "slow", fast, "--out", tmp_path / "c.html") == 0
    page = (tmp_path / "c.html").read_text("utf-8")
    reader, out = check(page), capsys.readouterr().out
    found = said(capsys, runs / "slow", fast)
    first, second = (one["scores"] for one in found["runs"])
    for scores in (first, second):
        assert percent(scores["mean_iu"]) in reader.texts and percent(scores["mean_iu"]) in out
    for name in first["classes"]:
        at = reader.texts.index(name, reader.texts.index("Classes", reader.texts.index("What they reached") + 9))
        one, other = first["classes"][name]["iu"], second["classes"][name]["iu"]
        apart = "-" if None in (one, other) else f"{100 * (other - one):+.1f}"
        assert reader.texts[at + 1 : at + 4] == [percent(one), percent(other), apart]
        far = None not in (one, other) and abs(other - one) >= 0.05
        assert (f"<mark>{apart}</mark>" in page) == far
    assert re.search(r"<mark>[+-]\d", page) and "fast reaches the highest mean IU, 43.2 %." in " ".join(reader.texts)
    assert "<mark>43.2</mark>" in page
    assert "<mark>0.1</mark>" in page and "<mark>0.01</mark>" not in page and "<mark>6</mark>" in page
    assert sum(tag == "img" for tag, _ in reader.tags) == 1
    assert "lr" in out and "weight_decay" not in out and "weight_decay" not in reader.texts


def test_a_folder_of_runs_stands_for_them_and_stages_begin_with_the_coarsest(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, of in (("8s", "fast"), ("32s", "slow"), ("16s", "slow")):
        shutil.copytree(runs / of, tmp_path / "top" / stage)
    shutil.copy(runs / "fast" / "model.safetensors", tmp_path / "top")
    found = said(capsys, tmp_path / "top", runs / "slow")
    assert [one["name"] for one in found["runs"]] == ["32s", "16s", "8s", "slow"]
    assert found["notes"][0].endswith("top holds 3 runs: 32s, 16s, 8s.")
    # The same run in two ways is one run; equal names become longer ones.
    again = said(capsys, runs / "slow", runs / "slow" / "model.safetensors", runs / "fast")
    assert [one["name"] for one in again["runs"]] == ["slow", "fast"]
    longer = said(capsys, runs / "slow", shutil.copytree(runs / "slow", tmp_path / "other" / "slow"))
    assert [one["name"] for one in longer["runs"]][1] == "other/slow"


def test_other_validation_data_is_told(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, header = checkpoint.load(runs / "slow" / "model.safetensors")
    assert header is not None
    scores = json.loads(json.dumps(header.provenance["val"]))
    scores["classes"]["background"]["pixels"] += 1
    moved = changed(runs / "slow", tmp_path / "moved", val=scores, data_fingerprint=None)  # as older runs are
    (note,) = said(capsys, runs / "slow", moved)["notes"]
    assert note.startswith("moved was scored on other validation data than slow")
    # Where fingerprints were noted they decide.
    prints = [
        changed(runs / "slow", tmp_path / f"p{n}", data_fingerprint={"train": t, "val": v})
        for n, (t, v) in enumerate([("a", "b"), ("a", "b"), ("a", "c"), ("d", "b")])
    ]
    assert said(capsys, prints[0], prints[1])["notes"] == []
    assert "p2 was scored on other validation data than p0" in said(capsys, prints[0], prints[2])["notes"][0]
    assert "p3 learned from other training data than p0" in said(capsys, prints[0], prints[3])["notes"][0]


def test_other_classes_are_told_and_only_the_four_numbers_compared(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, header = checkpoint.load(runs / "slow" / "model.safetensors")
    assert header is not None
    labels = replace(header.labels, names=tuple(f"<b>{i}" for i in range(11)))
    other = changed(runs / "slow", tmp_path / "[red]other", labels=labels, val=None)
    assert fullconv("compare", runs / "slow", other, "--out", tmp_path / "c.html") == 0
    reader, out = check((tmp_path / "c.html").read_text("utf-8")), capsys.readouterr().out
    assert "Classes" not in reader.texts and "different classes (slow 11, [red]other 11)" in " ".join(out.split())
    assert any("[red]other was trained without validation and has no scores" in text for text in reader.texts)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "slow"], "nowhere: there is no such folder; give the folder of a run"),
        (["empty", "slow"], "empty: it is no run and holds none; give a folder that fullconv train --out made"),
        (["file.txt", "slow"], "file.txt: it is no run and holds none; give a folder that fullconv train --out made"),
        (["slow"], "slow: one run alone; give another to compare it with"),
        (["begun", "slow"], "begun: it has no model.safetensors yet; wait for its first evaluation"),
        (["slow", "slow", "--out", "empty"], "empty: it is a folder; give a file such as empty/compare.html"),
    ],
)
def test_what_is_no_run_is_one_line(
    words: list[str], told: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    shutil.copytree(runs / "slow", tmp_path / "slow")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "log.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert fullconv("compare", *words) == 2
    assert capsys.readouterr().err == f"fullconv: error: {told}\n"


def test_a_log_that_is_no_text_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "slow", tmp_path / "torn")
    log = tmp_path / "torn" / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"loss"', b'"l\xffss"', 2))
    said = f"{log}: line 1 is damaged (it is not UTF-8); take another copy, or delete the line"
    capsys.readouterr()
    assert fullconv("compare", runs / "fast", tmp_path / "torn", "--out", tmp_path / "c.html") == 2
    assert capsys.readouterr().err == f"fullconv: error: {said}\n"
    with pytest.raises(UsageError) as caught:
        write_run_report(log.parent, load_checkpoint(log.parent / "model.safetensors"), None)
    assert str(caught.value) == said
    log.write_bytes(whole[:-20])  # what a kill cuts short is left out
    assert len(read_log(log.parent)) == len(whole.splitlines()) - 1
