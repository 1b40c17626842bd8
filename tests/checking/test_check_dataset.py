"""`check_dataset` finds everything at once, and agrees with what opening the folder says."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.checking.check_dataset import check_dataset, check_samples
from fullconv.checking.findings import Findings
from fullconv.data.dataset import Sample
from fullconv.datasets.folder.folder_dataset import open_folder
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace

SHAPE = (6, 8)
PLAIN = np.arange(48, dtype=np.uint8).reshape(SHAPE) % 3
CAMVID = Path(os.environ.get("FULLCONV_SHARED_DATA", "../shared/data")) / "camvid"


def pair(
    root: Path, split: str, name: str, values: np.ndarray = PLAIN, shape: tuple[int, int] = SHAPE, seed: int = 0
) -> None:
    for side in ("images", "labels"):
        (root / split / side).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *f"{split}/{name}".encode()]).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / split / "images" / f"{name}.png")
    Image.fromarray(np.asarray(values)).save(root / split / "labels" / f"{name}.png")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    for split, names in (("train", "abcdef"), ("val", "xyz")):
        for name in names:
            pair(tmp_path, split, name)
    return tmp_path


def kinds(findings: Findings) -> dict[str, int]:
    counts: dict[str, int] = {}
    for problem in findings.problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
        assert ": " in problem.message and "; " in problem.message and "\n" not in problem.line()
        assert len(problem.examples) <= 5 and problem.count >= len(problem.examples)
    return counts


def test_a_good_folder_has_no_problems_and_the_right_numbers(good: Path) -> None:
    seen: list[tuple[int, int]] = []
    findings = check_dataset(good, progress=lambda done, total: seen.append((done, total)))
    assert findings.ok and findings.problems == () and seen == [(i, 9) for i in range(1, 10)]
    assert findings.labels == open_folder(good, "train").labels
    train = findings.splits["train"]
    assert (train.images, train.pixels, train.void) == (6, (96, 96, 96), 0)
    assert train.smallest == train.largest == SHAPE and train.void_share == 0 and sum(train.shares) == pytest.approx(1)
    assert json.loads(json.dumps(findings.to_dict()))["splits"]["val"]["pixels"] == [48, 48, 48]
    assert list(check_dataset(good, "val").splits) == ["val"]


def spoil(root: Path) -> dict[str, int]:
    """One of everything in one folder; returns the kinds to be found with their counts."""
    train, val = root / "train", root / "val"
    (train / "images/a.png").write_bytes(b"")
    (train / "labels/b.png").write_bytes(b"<html>")
    pair(root, "train", "c", shape=(9, 7))
    for name in "gh":
        pair(root, "train", name)
        (train / f"labels/{name}.png").unlink()
    pair(root, "train", "i")
    (train / "images/i.png").unlink()
    stray = PLAIN.copy()
    stray[2, 5:] = 77
    pair(root, "val", "stray", stray)
    pair(root, "val", "void", np.full(SHAPE, 255, np.uint8))
    pair(root, "val", "ground", np.zeros(SHAPE, np.uint8))
    pair(root, "val", "colour", np.random.default_rng(0).integers(0, 9, (*SHAPE, 3), dtype=np.uint8))
    (val / "images/x.png").write_bytes((train / "images/d.png").read_bytes())
    Image.open(train / "images/e.png", formats=("PNG",)).convert("RGB").save(train / "images/e.jpg", format="PNG")
    (train / "images/e.png").unlink()
    (val / "images/y.png").write_bytes((val / "images/y.png").read_bytes()[:-12])
    (root / "test/images").mkdir(parents=True)
    Image.fromarray(PLAIN).save(root / "test/images/q.png")
    return {
        "unreadable-image": 1,
        "unreadable-mask": 1,
        "size": 1,
        "no-mask": 2,
        "no-image": 1,
        "value": 1,
        "colour": 1,
        "all-void": 1,
        "leak": 1,
        "suffix": 1,
        "no-end": 1,
        "unlabelled": 1,
    }


def test_everything_is_found_in_one_pass(good: Path) -> None:
    expected = spoil(good)
    findings = check_dataset(good)
    assert kinds(findings) == expected and not findings.ok
    by_kind = {problem.kind: problem for problem in findings.problems}
    assert [p.severity for p in findings.problems] == sorted(p.severity for p in findings.problems)
    assert "value 77 in 3 pixels, first at x=5 y=2" in by_kind["value"].examples[0]
    assert "6x8" in by_kind["size"].examples[0] and "9x7" in by_kind["size"].examples[0]
    assert by_kind["no-mask"].examples == ("g.png", "h.png")
    assert by_kind["leak"].examples == (f"{good}/train/images/d.png = {good}/val/images/x.png",)
    val = findings.splits["val"]
    assert (val.all_void, val.all_background, val.void, val.images) == (1, 1, 48, 7)
    assert findings.splits["train"].largest == (9, 8)
    json.dumps(findings.to_dict())


def test_what_opens_has_no_errors_and_what_has_errors_does_not_open(good: Path) -> None:
    steps = [
        lambda: None,
        lambda: (good / "val/labels/x.png").unlink(),
        lambda: (good / "classes.yaml").write_text("nmes: []"),
    ]
    for step in steps:
        step()
        for split in ("train", "val"):
            try:
                folder = open_folder(good, split)
                usable = all(folder[i] for i in range(len(folder)))
            except UsageError:
                usable = False
            assert check_dataset(good, split).ok == usable


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.uint8(PLAIN > 0) * 255, "map: {255: 1}"),
        (np.random.default_rng(1).integers(0, 255, (*SHAPE, 3), dtype=np.uint8), "colour pictures"),
        (np.zeros(SHAPE, np.uint8), "only the value 0"),
    ],
)
def test_masks_without_usable_classes(values: np.ndarray, words: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        pair(tmp_path, split, split, values)
    (tmp_path / "train/images/train.png").write_bytes(b"")
    findings = check_dataset(tmp_path)
    assert findings.labels is None and kinds(findings) == {"classes": 1, "unreadable-image": 1}
    assert any(words in problem.message for problem in findings.problems)


def test_masks_that_can_none_be_read(tmp_path: Path) -> None:
    pair(tmp_path, "train", "a")
    (tmp_path / "train/labels/a.png").write_bytes(b"")
    assert kinds(check_dataset(tmp_path)) == {"unreadable-mask": 1}


def test_absent_classes_are_warned_of(good: Path) -> None:
    (good / "classes.yaml").write_text("names: [a, b, c, d]")
    pair(good, "val", "x", np.zeros(SHAPE, np.uint8))
    for name in "yz":
        pair(good, "val", name, PLAIN // 2)
    findings = check_dataset(good)
    assert findings.ok
    assert {(p.message.split(":")[0], p.examples) for p in findings.problems} == {("classes", ("d",)), ("val", ("c",))}


def test_a_folder_without_splits(tmp_path: Path) -> None:
    for i in range(10):
        pair(tmp_path, "", f"scene-{i}")
    Image.fromarray(PLAIN).save(tmp_path / "labels/extra.png")
    findings = check_dataset(tmp_path)
    assert {split: found.images for split, found in findings.splits.items()} == {"train": 8, "val": 2}
    assert findings.splits["val"].made and kinds(findings) == {"no-image": 1}


def test_one_image_alone(tmp_path: Path) -> None:
    pair(tmp_path, "", "only")
    assert kinds(check_dataset(tmp_path)) == {"split": 1}


def test_voc_lists_are_checked_and_trainval_is_not_a_leak(tmp_path: Path) -> None:
    for name in "abc":
        pair(tmp_path, "", name)
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "labels").rename(tmp_path / "SegmentationClass")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, text in (("train", "a\nb\nb\n"), ("val", "c\nnone\n"), ("trainval", "a\nb\nc\n")):
        (lists / f"{split}.txt").write_text(text)
    found = kinds(check_dataset(tmp_path))
    assert found.pop("absent-class") == 18 and found == {"list": 2}


def test_nothing_to_look_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        check_dataset(tmp_path / "none")
    pair(tmp_path, "train", "a")
    with pytest.raises(UsageError, match="no split 'val'"):
        check_dataset(tmp_path, "val")


class Scenes:
    """A data set that is no folder: two classes, with one sample of each fault where asked."""

    def __init__(self, length: int, seed: int, faulty: bool = False) -> None:
        self.labels, self.length, self.seed, self.faulty = LabelSpace.of(["ground", "thing"]), length, seed, faulty

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        sample = Sample(rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8), np.uint8(PLAIN > 0), f"scene{index}")
        if self.faulty and index == 0:
            raise UsageError("scene0: it is gone; look for it")
        if self.faulty and index == 1:
            return replace(sample, label=np.zeros((3, 3), np.uint8))
        if self.faulty and index == 2:
            return replace(sample, label=PLAIN * 4)
        return sample


def test_any_data_set_can_be_checked() -> None:
    findings = check_samples("scenes", {"train": Scenes(4, 0), "val": Scenes(2, 1)})
    assert findings.ok and findings.problems == () and findings.splits["train"].pixels == (64, 128)
    assert kinds(check_samples("scenes", {"train": Scenes(4, 0, faulty=True)})) == {
        "unreadable": 1,
        "size": 1,
        "value": 1,
    }
    assert kinds(check_samples("scenes", {"train": Scenes(4, 0), "val": Scenes(2, 0)})) == {"leak": 2}


def test_the_built_in_scenes_go_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        "fullconv.checking.check_dataset.open_dataset",
        lambda name, split: opened.append((name, split)) or Scenes(3, len(opened)),
    )
    assert check_dataset("digits").ok and opened == [("digits", "train"), ("digits", "val"), ("digits", "test")]
    assert list(check_dataset("digits", "val").splits) == ["val"]


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"{CAMVID} is not there (set FULLCONV_SHARED_DATA)")
def test_camvid_is_counted_as_its_readme_says() -> None:
    val = check_dataset(CAMVID, "val").splits["val"]
    expected = (1601620, 4531180, 98499, 5053176, 1521751, 2851125, 155724, 537197, 304716, 113531, 387010)
    assert val.pixels == expected and val.void == 297271
