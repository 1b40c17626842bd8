"""A whole small run on the fake copy of every published set: train, evaluate, predict, one command each."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from tests.support.fakes import fake
from tests.support.nets import slow_but

import fullconv
from fullconv.cli.command import main
from fullconv.datasets.published.catalog import abouts

NET = ["--backbone", "vgg11", "--stride", "16", "--width", "0.03125", "--native-size", "32"]
SETS = [
    "voc2012", "sbd", "pascal-context", "pascal-context-33", "nyudv2", "nyudv2-hha", "nyudv2-color-d",
    "nyudv2-color-hha", "siftflow", "camvid", "cityscapes", "ade20k",
]  # fmt: skip


def call(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def test_no_set_is_forgotten():
    families = {about.read.__module__ for about in abouts().values()}
    assert families == {abouts()[name].read.__module__ for name in SETS}


@pytest.mark.parametrize("name", slow_but(("voc2012", "siftflow"), SETS))
def test_a_whole_small_run(name, tmp_path, capsys):
    splits = fake(name, tmp_path / "set")
    data, run, about = f"{name}:{tmp_path / 'set'}", tmp_path / "run", abouts()[name]
    code, out, err = call(
        capsys, "train", data, "--out", run, *NET, "--steps", "2", "--batch-size", "2", "--lr", "0.001", "--json"
    )
    assert code == 0, err
    assert np.isfinite([json.loads(line)["loss"] for line in out.splitlines()]).all()

    assert ("geometric pixel accuracy" in (run / "report.html").read_text()) == ("geometric" in about.tasks)
    predictor = fullconv.load(run / "model.safetensors")
    channels = {"color": 3, "depth": 1, "hha": 3}
    assert len(predictor.header.input.mean) == sum(channels[modality] for modality in about.modalities)
    assert list(predictor.header.tasks) == list(about.tasks)

    code, out, err = call(capsys, "evaluate", run / "model.safetensors", data, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["split"] == about.val and said["images"] == len(splits[about.val])
    assert ("geometric" in said) == ("geometric" in about.tasks)
    assert 0 <= said["pixel_accuracy"] <= 1

    code, out, err = call(capsys, "predict", run / "model.safetensors", data, "--out", tmp_path / "masks", "--json")
    assert code == 0, err
    for entry, one in zip(json.loads(out)["written"], splits[about.val], strict=True):
        assert entry["name"] == one
        for task, ending in (("semantic", ""), ("geometric", ".geometric")):
            if task in about.tasks:
                mask = np.asarray(Image.open(tmp_path / "masks" / f"{one}{ending}.png"))
                assert mask.shape == (entry["height"], entry["width"]) and mask.max() < len(
                    predictor.header.tasks[task]
                )


@pytest.mark.slow
def test_scores_of_siftflow_are_over_the_classes_in_the_truth(tmp_path, capsys):
    fake("siftflow", tmp_path / "set")
    data = f"siftflow:{tmp_path / 'set'}"
    assert call(capsys, "train", data, "--out", tmp_path / "run", *NET, "--steps", "1", "--lr", "0.001")[0] == 0
    import scipy.io

    for file in (tmp_path / "set" / "SemanticLabels").rglob("*.mat"):
        label = scipy.io.loadmat(file)["S"]
        scipy.io.savemat(file, {"S": np.where(label > 20, 1, label)})
    said = json.loads(call(capsys, "evaluate", tmp_path / "run" / "model.safetensors", data, "--json")[1])
    assert said["classes_averaged"] == 20


def test_training_on_what_validates_is_refused(tmp_path, capsys):
    fake("voc2011", tmp_path / "voc")
    fake("sbd", tmp_path / "sbd")
    lists = tmp_path / "voc" / "VOCdevkit" / "VOC2011" / "ImageSets" / "Segmentation"
    boundaries = tmp_path / "sbd" / "benchmark_RELEASE" / "dataset"
    val = (lists / "val.txt").read_text().split()
    both = (boundaries / "img" / "2008_000001.jpg"), (boundaries / "cls" / "2008_000001.mat")
    for file in both:  # one photograph of VOC's val is in SBD's train
        file.with_stem(val[0]).write_bytes(file.read_bytes())
    (boundaries / "train.txt").write_text(f"2008_000001\n{val[0]}\n")
    train = ["train", f"sbd:{tmp_path / 'sbd'}", "--out", tmp_path / "run", *NET, "--steps", "1", "--lr", "0.001"]
    beside = ["--val", f"voc2011:{tmp_path / 'voc'}"]
    code, _, err = call(capsys, *train, *beside)
    assert code == 2 and f"1 of the {len(val)} validation images" in err and val[0] in err and "seg11valid" in err
    code, _, err = call(capsys, *train, *beside, "--val-split", "seg11valid")
    assert code == 2 and "fullconv data seg11valid" in err

    code, out, _ = call(capsys, "data", "seg11valid", beside[1], train[1], "--json")
    assert code == 0 and json.loads(out)["images"] == len(val) - 1
    assert (lists / "seg11valid.txt").read_text().split() == val[1:]
    assert call(capsys, *train, *beside, "--val-split", "seg11valid")[0] == 0


@pytest.mark.slow
def test_a_submission_holds_every_image_of_the_list(tmp_path, capsys):
    names = fake("voc2012", tmp_path / "set")["test"]
    data = f"voc2012:{tmp_path / 'set'}"
    assert call(capsys, "train", data, "--out", tmp_path / "run", *NET, "--steps", "1", "--lr", "0.001")[0] == 0
    predict = ["predict", tmp_path / "run" / "model.safetensors", data, "--split", "test", "--out", tmp_path / "out"]
    code, _, err = call(capsys, *predict, "--submission", "comp7")
    assert code == 2 and "comp5 or comp6" in err
    assert call(capsys, *predict, "--submission", "comp6")[0] == 0
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in names]
        with archive.open(archive.namelist()[0]) as file:
            picture = Image.open(file)
            assert picture.mode == "P" and picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    code, _, err = call(capsys, *predict[:2], tmp_path / "out", "--out", tmp_path / "no", "--submission", "comp6")
    assert code == 2 and "--submission belongs to a published set" in err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--channels", "4"], "3 channels (color)"),
        (["--late-fusion", "sum"], "3 channels (color)"),
        (["--geometric-classes", "3"], "no geometric classes"),
    ],
)
def test_a_net_for_what_the_data_has_not_is_refused(tmp_path, capsys, flags, words):
    fake("camvid", tmp_path / "set")
    code, _, err = call(capsys, "train", f"camvid:{tmp_path / 'set'}", "--out", tmp_path / "run", *NET, *flags)
    assert code == 2 and words in err


def test_colour_and_hha_can_be_fused_early_too(tmp_path, capsys):
    fake("nyudv2-color-hha", tmp_path / "set")
    data = f"nyudv2-color-hha:{tmp_path / 'set'}"
    flags = ["--channels", "6", "--steps", "1", "--lr", "0.001"]
    assert call(capsys, "train", data, "--out", tmp_path / "run", *NET, *flags)[0] == 0
    assert fullconv.load(tmp_path / "run" / "model.safetensors").header.model.late_fusion == "none"
