"""Every published set is read as its official files lie on disk; what is wrong with a copy is said in one line."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.support.fakes import SIZE, camvid, fake

from fullconv.checking.check_dataset import check_dataset
from fullconv.config import CONVENTIONS
from fullconv.data.dataset import facts_of
from fullconv.datasets.open_dataset import default_splits, open_dataset, splits_of
from fullconv.datasets.published.camvid import split_of
from fullconv.datasets.published.catalog import abouts, named
from fullconv.datasets.published.label_spaces import (
    CITYSCAPES,
    NYUDV2,
    PASCAL_CONTEXT,
    SIFTFLOW,
    SIFTFLOW_GEOMETRIC,
    VOC,
)
from fullconv.datasets.published.nyud import LOG_DEPTH_MEAN
from fullconv.errors import UsageError
from fullconv.labels import voc_colour

NAMES = [name for name in abouts() if not name.startswith("voc20") or name in ("voc2007", "voc2011", "voc2012")]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A tiny copy of every set, by name: (folder, names by split)."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("sets") / name
        made[name] = folder, fake(name, folder)
    return made


def refused(what, *words, split="train"):
    with pytest.raises(UsageError) as caught:
        data = open_dataset(what, split)
        for index in range(len(data)):
            data[index]
    message = str(caught.value)
    assert "\n" not in message and ": " in message and "; " in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("name", NAMES)
def test_names_and_their_order_are_those_of_the_list(copies, name):
    folder, splits = copies[name]
    for split, names in splits.items():
        data = open_dataset(f"{name}:{folder}", split)
        assert list(data.files.names) == names and len(data) == len(names)
        if split not in data.about.unlabelled:
            assert [data[i].name for i in range(len(data))] == names
    assert set(splits) <= set(splits_of(f"{name}:{folder}"))


@pytest.mark.parametrize("name", NAMES)
def test_every_class_and_void_come_out_as_indices(copies, name):
    folder, _ = copies[name]
    data = open_dataset(f"{name}:{folder}", default_splits(f"{name}:{folder}")[0])
    for task, space in facts_of(data).tasks.items():
        found = {int(value) for i in range(len(data)) for value in np.unique(data[i].tasks[task])}
        void = set() if name.startswith("pascal-context") or name == "sbd" else {255}
        assert found == {*range(len(space)), *void}, task
        assert all(data[i].tasks[task].dtype == np.uint8 for i in range(len(data)))


@pytest.mark.parametrize("name", NAMES)
def test_the_channels_are_those_of_the_modalities(copies, name):
    folder, _ = copies[name]
    data = open_dataset(f"{name}:{folder}", default_splits(f"{name}:{folder}")[0])
    kinds = {"color": 3, "depth": 1, "hha": 3}
    image = data[0].image
    assert image.shape[2] == sum(kinds[modality] for modality in facts_of(data).modalities)
    assert image.dtype == (np.float32 if "depth" in facts_of(data).modalities else np.uint8)
    assert image.shape[:2] == data[0].semantic.shape


@pytest.mark.parametrize("name", NAMES)
def test_check_finds_nothing_wrong(copies, name):
    folder, _ = copies[name]
    found = check_dataset(f"{name}:{folder}")
    assert found.ok, found.problems
    assert found.labels is not None and sum(sum(split.pixels) for split in found.splits.values()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_way_out(copies, name, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies[name][0], folder)
    split = default_splits(f"{name}:{folder}")[0]
    data = open_dataset(f"{name}:{folder}", split)
    lost = data.files.labels[0][-1]
    lost.unlink()
    refused(f"{name}:{folder}", lost.name, split=split)


@pytest.mark.parametrize("name", NAMES)
def test_a_half_downloaded_label_is_a_named_file(copies, name, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies[name][0], folder)
    split = default_splits(f"{name}:{folder}")[0]
    data = open_dataset(f"{name}:{folder}", split)
    file = data.files.labels[1][0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    data[0]
    refused(f"{name}:{folder}", file.name, split=split)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_says_what_was_looked_for(name, tmp_path):
    about = abouts()[name]
    refused(f"{name}:{tmp_path}", about.title.split(",")[0].split(":")[0], split=about.train)
    refused(f"{name}:{tmp_path / 'nowhere'}", "no such folder", split=about.train)
    refused(f"{name}:{tmp_path}", "no split 'dev'", split="dev")


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_another_size_than_its_label(copies, name, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies[name][0], folder)
    split = default_splits(f"{name}:{folder}")[0]
    file = open_dataset(f"{name}:{folder}", split).files.images[0][0]
    Image.new("RGB", (9, 7)).save(file)
    message = refused(f"{name}:{folder}", split=split)
    assert "7x9" in message or "(7, 9" in message, message


@pytest.mark.parametrize("name", abouts())
def test_everything_is_said_of_every_set(name):
    about = abouts()[name]
    assert about.citation and about.terms and about.home.startswith("http") and about.form and about.title
    assert about.files or about.by_hand
    assert about.train in about.splits and about.val in about.splits
    for file in about.files:
        assert file.url.startswith(("http://", "https://"))
    for space in about.tasks.values():
        assert space.ignore_index == 255


def test_counts_and_classes_are_those_of_the_fact_sheet():
    counts = {name: about.splits for name, about in abouts().items()}
    assert counts["voc2011"] == {"train": 1112, "val": 1111, "trainval": 2223, "test": 0, "seg11valid": 736}
    assert counts["voc2012"] == {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "seg11valid": 0}
    assert (counts["sbd"]["train"], counts["sbd"]["val"], 8498 + 2857) == (8498, 2857, 11355)
    assert counts["nyudv2"] == {"trainval": 795, "train": 381, "val": 414, "test": 654}
    assert counts["siftflow"] == {"trainval": 2486, "test": 200}
    assert counts["pascal-context"] == {"train": 4998, "val": 5105}
    assert counts["camvid"] == {"train": 367, "val": 101, "test": 233}
    assert [len(space) for space in (VOC, NYUDV2, SIFTFLOW, SIFTFLOW_GEOMETRIC, PASCAL_CONTEXT)] == [21, 40, 33, 3, 60]
    assert NYUDV2.names[23] == "refridgerator" and PASCAL_CONTEXT.names[:21] == VOC.names
    assert [SIFTFLOW.names.index(name) for name in ("cow", "desert", "moon")] == [8, 10, 15]
    assert len(CITYSCAPES) == 19 and len(abouts()["ade20k"].labels) == 150
    assert [voc_colour(value) for value in (0, 1, 2, 3, 15, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (192, 128, 128), (224, 224, 192)
    ]  # fmt: skip
    assert CONVENTIONS["nyud-color-d"].mean[3] == LOG_DEPTH_MEAN


def test_depth_of_zero_becomes_the_mean(copies):
    data = open_dataset(f"nyudv2-color-d:{copies['nyudv2-color-d'][0]}", "trainval")
    depth = data[0].image[:, :, 3]
    assert np.isfinite(depth).all() and (depth[:2, :2] == np.float32(LOG_DEPTH_MEAN)).all()
    millimetres = np.asarray(Image.open(data.files.images[0][1]))
    known = millimetres > 0
    np.testing.assert_allclose(depth[known], np.log(millimetres[known].astype(float)), rtol=1e-6)


def test_trainval_of_nyudv2_joins_lists_without_a_last_line_end(copies):
    folder, splits = copies["nyudv2"]
    assert not (folder / "train.txt").read_text().endswith("\n")
    assert len(open_dataset(f"nyudv2:{folder}", "trainval")) == len(splits["train"]) + len(splits["val"])


def test_siftflow_leaves_out_what_is_not_annotated(copies, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies["siftflow"][0], folder)
    (folder / "trainval.txt").unlink()
    assert list(open_dataset(f"siftflow:{folder}", "trainval").files.names) == copies["siftflow"][1]["trainval"]
    (folder / "trainval.txt").write_text("coast_n000001\nstreet_urb506\n")
    refused(f"siftflow:{folder}", "street_urb506", "no annotation", split="trainval")


def test_camvid_is_the_same_in_both_layouts(tmp_path):
    names = fake("camvid", tmp_path / "segnet")
    (tmp_path / "original").mkdir()
    camvid("camvid", tmp_path / "original", original=True)
    for split in names:
        one, other = (open_dataset(f"camvid:{tmp_path / top}", split) for top in ("segnet", "original"))
        assert one.files.names == other.files.names
        for i in range(len(one)):
            np.testing.assert_array_equal(one[i].label, other[i].label)


def test_camvid_of_colours_refuses_another_colour(tmp_path):
    camvid("camvid", tmp_path, original=True)
    file = tmp_path / "LabeledApproved_full" / "0001TP_006690_L.png"
    picture = np.asarray(Image.open(file)).copy()
    picture[3, 5] = (1, 2, 3)
    Image.fromarray(picture).save(file)
    refused(f"camvid:{tmp_path}", "#010203", "x=5 y=3")


def test_camvid_splits_of_the_real_copy(shared_data):
    for split in ("train", "val"):
        data = open_dataset(f"camvid:{shared_data / 'camvid'}", split)
        assert len(data) == abouts()["camvid"].splits[split]
        assert {split_of(name) for name in data.files.names} == {split}


def test_the_labels_of_a_private_test_split_are_not_invented(copies):
    data = open_dataset(f"cityscapes:{copies['cityscapes'][0]}", "test")
    assert data.image(0).shape == (*SIZE, 3)
    with pytest.raises(UsageError, match="kept by their publishers"):
        data[0]


def test_a_value_that_is_no_class_is_named(copies, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies["voc2012"][0], folder)
    file = open_dataset(f"voc2012:{folder}", "train").files.labels[0][0]
    label = np.asarray(Image.open(file)).copy()
    label[4, 6] = 77
    Image.fromarray(label).save(file)
    refused(f"voc2012:{folder}", "77 at x=6 y=4", "21 classes")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(file)
    refused(f"voc2012:{folder}", "colour picture")


@pytest.mark.parametrize("text", ["", "\n\n", "a\nb\na\n", "\xff\xfe"])
def test_a_list_that_is_none_is_named(copies, tmp_path, text):
    folder = tmp_path / "copy"
    shutil.copytree(copies["voc2012"][0], folder)
    listed = next(folder.rglob("train.txt"))
    listed.write_bytes(text.encode("latin-1"))
    refused(f"voc2012:{folder}", "train.txt")


def test_lists_may_have_any_line_ends(copies, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies["voc2012"][0], folder)
    listed, names = next(folder.rglob("train.txt")), copies["voc2012"][1]["train"]
    listed.write_bytes("\ufeff".encode() + "\r\n".join(names).encode() + b"\r\n\r\n")
    assert list(open_dataset(f"voc2012:{folder}", "train").files.names) == names


def test_what_stands_before_the_colon():
    assert named("photos/a:b") is None and named("somewhere") is None
    assert named("camvid:here").about.name == "camvid"
    for text, word in (("voc2021:x", "voc2012"), ("siftflo:x", "siftflow"), ("sbd", "sbd:DIR")):
        with pytest.raises(UsageError, match=word):
            named(text)


def test_a_class_of_context_is_found_by_its_name_or_alias(copies, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(copies["pascal-context"][0], folder)
    path = folder / "pascal-context" / "labels.txt"
    path.write_text(path.read_text().replace(": table", ": tbl"))
    refused(f"pascal-context:{folder}", "diningtable")
    path.write_text("no list")
    refused(f"pascal-context:{folder}", "labels.txt")
    (folder / "pascal-context" / "33_labels.txt").unlink()
    shutil.copy(copies["pascal-context"][0] / "pascal-context" / "labels.txt", path)
    refused(f"pascal-context-33:{folder}", "33_labels.txt", "get it from")


def test_the_33_classes_are_named_by_their_list(copies):
    data = open_dataset(f"pascal-context-33:{copies['pascal-context-33'][0]}", "train")
    assert len(data.labels) == 34 and data.labels.names[1] == "aeroplane"


def test_a_description_is_plain_data():
    assert json.loads(json.dumps([about.to_dict() for about in abouts().values()]))
