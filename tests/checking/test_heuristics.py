"""A clean set has no finding; each planted fault gives exactly its own; the rest are laws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.faulty_folders import (
    CLASSES,
    FAULTS,
    NAMES,
    SIZE,
    constant,
    copied,
    every_label,
    jpeg,
    leak,
    lossy_colours,
    off_by_one,
    renumbered,
    save_mask,
    scene,
    specks,
    untaught,
    zero_is_void,
)

from fullconv.checking.check_dataset import check_dataset, check_samples, quick_check
from fullconv.checking.duplicates import near_pairs, thumbnail
from fullconv.checking.findings import Findings
from fullconv.checking.heuristics import facts_of, look
from fullconv.datasets.folder.folder_dataset import open_folder
from fullconv.datasets.open_dataset import open_dataset
from fullconv.datasets.synthetic.digits import Digits
from fullconv.errors import UsageError

# -- the faults --------------------------------------------------------------------------------------------------------


def found_in(findings: Findings) -> dict[str, str]:
    for problem in findings.problems:
        assert problem.count == 1 and ": " in problem.message and "; " in problem.message, problem
    return {problem.kind: problem.severity for problem in findings.problems}


def opens(root: Path) -> bool:
    try:
        folders = [open_folder(root, split) for split in ("train", "val")]
        return all(folder[i] for folder in folders for i in range(len(folder)))
    except UsageError:
        return False


def test_a_clean_set_has_no_finding(clean_set: Path) -> None:
    assert check_dataset(clean_set).problems == ()
    assert quick_check(*(open_dataset(clean_set, split) for split in NAMES)) == []


@pytest.mark.parametrize(("plant", "expected"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_each_fault_is_found_and_no_other(plant: Callable[[Path], None], expected: dict[str, str], root: Path) -> None:
    plant(root)
    findings = check_dataset(root)
    assert found_in(findings) == expected
    assert findings.ok == opens(root)
    for problem in findings.problems:
        marks = [mark for mark in findings.marks if mark.kind == problem.kind]
        assert len(marks) == (problem.kind not in ("off-by-one", "untaught-class"))


def test_the_advice_on_values_that_begin_at_1_repairs_them(root: Path) -> None:
    off_by_one(root)
    (problem,) = check_dataset(root).problems
    advice = problem.message.split("`")[1]
    assert advice == "map: {1: 0, 2: 1, 3: 2, 4: 3}"
    (root / "classes.yaml").write_text(CLASSES + advice)
    assert check_dataset(root).problems == ()
    zero_is_void(root)
    every_label(root, lambda label: label - 1)
    (problem,) = check_dataset(root).problems
    (root / "classes.yaml").write_text("names: [house, tree, road]\n" + "\n".join(problem.message.split("`")[1::2]))
    assert check_dataset(root).problems == ()


def test_findings_do_not_depend_on_the_number_of_workers(root: Path) -> None:
    for plant in (leak, renumbered, lossy_colours, specks, constant, copied):
        plant(root)
    (root / "train/images/t0.png").write_bytes(b"")
    steps: list[tuple[int, int]] = []
    found = [check_dataset(root, workers=n, progress=lambda *step: steps.append(step)) for n in (1, 2, 5)]
    assert found[0] == found[1] == found[2] and len(found[0].problems) == 7
    assert steps == [(i, 12) for i in range(1, 13)] * 3


def test_an_interruption_ends_the_pass(clean_set: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_dataset(clean_set, workers=3, progress=stop)


def test_weights_are_those_of_median_frequency_balancing(root: Path) -> None:
    findings = check_dataset(root)
    labels = [scene("train", name)[1] for name in NAMES["train"]]
    frequency = np.array(
        [sum((x == c).sum() for x in labels) / sum(x.size for x in labels if (x == c).any()) for c in range(4)]
    )
    assert findings.weights == pytest.approx(tuple(np.median(frequency) / frequency))
    untaught(root)
    assert check_dataset(root).weights[3] is None
    assert check_dataset(root).to_dict()["weights"][3] is None


def test_pictures_are_the_same_when_saved_again_and_not_when_something_moved() -> None:
    pictures = [scene("train", str(i))[0] for i in range(30)]
    small = np.stack([thumbnail(picture) for picture in pictures])
    again = [
        jpeg(np.asarray(Image.fromarray(p).resize((200, 150), Image.Resampling.LANCZOS)), 60).astype(int) * 9 // 10 + 9
        for p in pictures
    ]
    moved = [np.roll(picture, 4, axis=1) for picture in pictures]
    assert near_pairs(small, np.stack([thumbnail(p.astype(np.uint8)) for p in again])) == [(i, i) for i in range(30)]
    assert near_pairs(small, np.stack([thumbnail(p) for p in moved])) == []
    flat = np.full((3, 32, 36), 90, np.uint8)
    assert near_pairs(flat, flat) == [] == near_pairs(small[:0], small)


def test_many_small_objects_are_no_loss() -> None:
    label = np.zeros((240, 320), np.uint8)
    for i in range(1, 60):  # 59 classes of 16 pixels, each in its place
        y, x = divmod(i, 10)
        label[8 + 30 * y : 12 + 30 * y, 8 + 30 * x : 12 + 30 * x] = i
    seen = look(label, facts_of(label))
    assert seen.lossy is None and seen.specks == 0


def test_a_set_in_the_layout_of_voc_with_void_borders_is_clean(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for split, names in NAMES.items():
        (tmp_path / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            image, label = scene(split, name)
            for cut in (label[:, 1:] != label[:, :-1], label[1:] != label[:-1]):
                label[: cut.shape[0], : cut.shape[1]][cut] = 255
            Image.fromarray(image).save(tmp_path / "JPEGImages" / f"{name}.jpg", quality=90)
            save_mask(tmp_path / "SegmentationClass" / f"{name}.png", label)
    findings = check_dataset(tmp_path)
    assert {problem.kind for problem in findings.problems} == {"absent-class"}  # of VOC's 20 classes 17 are not drawn


def test_the_built_in_scenes_are_clean() -> None:
    scenes = {split: Digits(split, length=30) for split in NAMES}
    assert check_samples("digits", scenes).problems == ()


def test_camvid_is_clean(shared_data: Path) -> None:
    findings = check_dataset(shared_data / "camvid")
    assert findings.problems == ()
    assert quick_check(*(open_dataset(shared_data / "camvid", split) for split in ("train", "val"))) == []


def test_the_quick_check_says_what_it_saw(root: Path) -> None:
    train = open_dataset(root, "train")
    leak(root)
    untaught(root)
    save_mask(root / "train/labels/t0.png", np.full(SIZE, 255, np.uint8))
    said = quick_check(train, open_dataset(root, "val"))
    assert [line.split()[0] for line in said] == ["1", "1", "1"]
    assert "t3.png" in said[0] and "void all over" in said[1] and said[2].endswith(": road.")
    save_mask(root / "train/labels/t1.png", np.full(SIZE, 9, np.uint8))
    assert "1 of 8 training labels cannot be used" in " ".join(quick_check(train, None))


def test_shared_images_are_seen_among_files_of_one_size(root: Path) -> None:
    leak(root)
    for path in root.glob("*/images/*.png"):
        with Image.open(path, formats=("PNG",)) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    (said,) = quick_check(*(open_dataset(root, split) for split in NAMES))
    assert said.startswith("1 image stands") and "t3.bmp" in said and "v1.bmp" in said
