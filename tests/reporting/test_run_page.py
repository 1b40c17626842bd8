"""The report of a run says what the run reached, whatever is missing."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.strict_html import check

from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.data.dataset import Sample
from fullconv.datasets.synthetic.digits import Digits
from fullconv.evaluation.evaluate import evaluate
from fullconv.inference.predictor import Predictor, load
from fullconv.labels import LabelSpace
from fullconv.models.build import build
from fullconv.reporting.page import percent
from fullconv.reporting.run_page import write_run_report
from fullconv.training.run import prepare, records
from fullconv.weights.checkpoint import Header

SIZE = (48, 48)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    model, config = (
        ModelConfig("lenet", stride=4, width=0.1),
        TrainConfig(steps=2, batch_size=2, eval_every=2, workers=0),
    )
    validation = Digits("val", SIZE, length=3)
    for _ in records(
        prepare(folder, "digits", Digits("train", SIZE), validation, model, config, CONVENTIONS["torchvision"])
    ):
        pass
    return folder


class Samples:
    """A data set from a list."""

    def __init__(self, samples: list[Sample], labels: LabelSpace) -> None:
        self.samples, self.labels = samples, labels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def test_every_score_stands_in_the_report(run: Path) -> None:
    predictor, validation = load(run / "model.safetensors"), Digits("val", SIZE, length=5)
    path = write_run_report(run, predictor, validation, worst_and_best=2)
    assert path == run / "report.html"
    reader = check(path.read_text("utf-8"))
    found = evaluate(predictor, validation)
    text = "\n".join(reader.texts)
    for number in (found.mean_iu, found.pixel_accuracy, found.mean_accuracy, found.frequency_weighted_iu):
        assert f"{percent(number)} %" in reader.texts
    at = reader.texts.index("pixels")
    for i, name in enumerate(validation.labels.names):
        row = [name, percent(found.iu[i]), percent(found.accuracy[i]), f"{found.pixels[i]:,}"]
        assert reader.texts[at + 1 + 4 * i : at + 5 + 4 * i] == row
    assert "5 validation images" in text and f"averaged over {found.averaged} classes" in text
    assert text.count("Worst: digits-val-") == 2 and text.count("Best: digits-val-") == 2
    assert "lenet" in text and "weight_decay" in text and "123.675, 116.28, 103.53" in text
    shown = sum(1 for words in reader.texts if "the net says" in words)
    assert (
        sum(tag == "img" for tag, _ in reader.tags) == 1 + 1 + 3 * 4 + 4 * shown
    )  # curves, confusion, worst and best, audit


def test_the_same_run_gives_the_same_report(run: Path) -> None:
    predictor, validation = load(run / "model.safetensors"), Digits("val", SIZE, length=1)
    first, second = (write_run_report(run, predictor, validation, 1).read_bytes() for _ in range(2))
    assert first == second


def test_without_validation_data_the_noted_scores_are_shown_in_the_order_of_the_classes(run: Path) -> None:
    predictor = load(run / "model.safetensors")
    noted = predictor.header.provenance["val"]
    reader = check(write_run_report(run, predictor, None).read_text("utf-8"))
    assert f"{percent(noted['mean_iu'])} %" in reader.texts
    at = reader.texts.index("pixels")
    assert tuple(reader.texts[at + 1 : at + 1 + 4 * 11 : 4]) == predictor.labels.names
    assert "Worst and best images" not in reader.texts


def bare(labels: LabelSpace, **provenance: object) -> Predictor:
    torch.manual_seed(0)
    config = ModelConfig("lenet", 4, len(labels), width=0.1)
    return Predictor(build(config), Header(config, labels, CONVENTIONS["torchvision"], provenance=dict(provenance)))


def test_of_a_bare_net_and_an_empty_folder_there_is_a_report_too(tmp_path: Path) -> None:
    predictor = bare(LabelSpace.of(["background", "cell"]))
    reader = check(write_run_report(tmp_path, predictor, None).read_text("utf-8"))
    assert "The log of this run holds no step." in reader.texts
    assert any("No validation split was given" in text for text in reader.texts)


def test_a_log_that_was_cut_short(run: Path, tmp_path: Path) -> None:
    log = (run / "log.jsonl").read_text("utf-8")
    (tmp_path / "log.jsonl").write_text(log + log.splitlines()[0][:20], "utf-8")
    reader = check(write_run_report(tmp_path, load(run / "model.safetensors"), None).read_text("utf-8"))
    assert any(text.startswith("2 steps of up to 2 images") for text in reader.texts)


def test_environment_fingerprint_and_memory_are_those_of_the_training(run: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    noted = "".join(json.dumps({**line, "memory": n * 10**9}) + "\n" for n, line in enumerate(lines, start=2))
    (tmp_path / "log.jsonl").write_text(noted, "utf-8")
    there = {"python": "3.99.1", "processor": "abacus", "beads": "<b>100"}
    prints = {"train": "ab" * 32, "val": "cd" * 32}
    predictor = bare(LabelSpace.of(["a", "b"]), environment=there, data_fingerprint=prints, torch="1.0")
    texts = check(write_run_report(tmp_path, predictor, None).read_text("utf-8")).texts
    for name, value in {**there, "torch": "1.0", "data fingerprint, val": "cd" * 8}.items():
        assert texts[texts.index(name) + 1] == value
    assert any(f"up to {len(lines) + 1}.0 GB of memory" in text for text in texts)
    assert any(text.startswith("Versions and machine are those of the training.") for text in texts)
    older = check(write_run_report(run, load(run / "model.safetensors"), None).read_text("utf-8")).texts
    assert older[older.index("python") + 1] == platform.python_version()


def test_settings_that_are_not_as_by_default_are_marked(run: Path) -> None:
    page = write_run_report(run, load(run / "model.safetensors"), None).read_text("utf-8")
    assert "<mark>lenet</mark>" in page and "<mark>4</mark>" in page  # backbone, stride
    assert not re.search(r"weight_decay</th>\s*<td[^>]*><mark>", page)
    assert re.search(r"batch_size</th>\s*<td[^>]*><mark>2</mark>", page)


def test_void_images_absent_classes_and_hostile_names(tmp_path: Path) -> None:
    names = ["background", "<script>alert(1)</script>", "caf\udce9", "道路 $x$"]
    labels = LabelSpace.of(names)
    image = np.full((48, 48, 3), 90, np.uint8)
    void = Sample(image, np.full((48, 48), 255, np.uint8), "all void")
    half = np.zeros((48, 48), np.uint8)
    half[24:] = 1
    predictor = bare(labels, data="/data/\udcff<b>", command="fullconv train '<img src=x>'")
    page = write_run_report(tmp_path, predictor, Samples([void, Sample(image, half, "<i>\udcff")], labels)).read_text(
        "utf-8"
    )
    reader = check(page)
    assert "<script>" not in page and "fullconv train '<img src=x>'" in reader.texts
    text = "\n".join(reader.texts)
    assert "<script>alert(1)</script>" in text and "<i>\ufffd" in text and "all void" not in text
    assert text.count("Worst: ") == 1 and "Best: " not in text  # one scored image is not both
    only_void = check(write_run_report(tmp_path, predictor, Samples([void], labels)).read_text("utf-8"))
    assert "No validation image could be scored." in only_void.texts
    assert only_void.texts.count("-") >= 4


def test_the_report_begins_with_the_best_of_the_best_and_the_worst_of_the_worst(tmp_path: Path) -> None:
    labels = LabelSpace.of(["background", "cell"])
    predictor = replace_logits(bare(labels))
    samples = []
    for share in (10, 40, 0, 25):  # rows of cell; the net says background everywhere
        label = np.zeros((48, 48), np.uint8)
        label[:share] = 1
        samples.append(Sample(np.zeros((48, 48, 3), np.uint8), label, f"{share} rows"))
    text = "\n".join(check(write_run_report(tmp_path, predictor, Samples(samples, labels)).read_text("utf-8")).texts)
    order = [text.index(words) for words in ("Worst: 40 rows", "Worst: 25 rows", "Best: 0 rows", "Best: 10 rows")]
    assert order == sorted(order)


def replace_logits(predictor: Predictor) -> Predictor:
    """The same predictor over a net that says class 0 everywhere."""

    class Background(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device = torch.nn.Parameter(torch.zeros(1))  # where it computes is asked of its parameters

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(len(x), predictor.header.model.num_classes, *x.shape[2:])
            scores[:, 0] = 1
            return scores

    return Predictor(Background(), replace(predictor.header))
