"""`repair`: whatever was planted, the copy has no errors, the original is untouched, and nothing goes unsaid."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.faulty_folders import (
    CLASSES,
    COLOURS,
    FAULTS,
    NAMES,
    SIZE,
    every_label,
    leak,
    off_by_one,
    save_mask,
    scene,
    turned,
)

from fullconv.checking.check_dataset import check_dataset
from fullconv.checking.repair import LEFT_OUT, Repaired, repair
from fullconv.datasets.folder.folder_dataset import open_folder
from fullconv.errors import UsageError
from fullconv.io.image import read_image


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def repaired(root: Path) -> tuple[Repaired, Path]:
    """Repair beside the root; the laws that always hold."""
    before, out = files(root), root.parent / "out"
    made = repair(root, out, check_dataset(root))
    assert files(root) == before
    after = check_dataset(out)
    assert after.ok and {"leak", "renumbered", "lossy", "copied", "suffix"}.isdisjoint(p.kind for p in after.problems)
    assert {split: found.images for split, found in after.splits.items()} == {k: n for k, n in made.pairs.items() if n}
    assert (out / LEFT_OUT).exists() == bool(made.left_out)
    return made, out


def test_a_clean_set_is_copied_whole(clean_set: Path, tmp_path: Path) -> None:
    data = shutil.copytree(clean_set, tmp_path / "data")
    made, out = repaired(data)
    assert made == Repaired({"train": 8, "val": 4}, 0, 0, ())
    images = {name: digest for name, digest in files(data).items() if "images" in name}
    assert {name: digest for name, digest in files(out).items() if "images" in name} == images
    for split, names in NAMES.items():
        one, other = open_folder(data, split), open_folder(out, split)
        assert one.labels == other.labels
        assert all((one[i].label == other[i].label).all() for i in range(len(names)))


@pytest.mark.parametrize(("plant", "expected"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_what_was_planted_is_repaired_or_left_out(plant, expected, root: Path) -> None:
    plant(root)
    if "off-by-one" in expected:
        with pytest.raises(UsageError, match="map"):
            repair(root, root.parent / "out", check_dataset(root))
        return
    made, _ = repaired(root)
    gone = expected.keys() & {"leak", "renumbered", "lossy", "copied"}
    assert len(made.left_out) == len(gone) == 12 - sum(made.pairs.values())


def test_everything_that_can_be_repaired_at_once(root: Path) -> None:
    """Colours become indices, `map` and `void` are applied, a photograph is turned, a suffix is set right."""
    turned(root)
    (root / "classes.yaml").write_text(CLASSES + "map: {10: 1}\nvoid: [200]\n")
    label = scene("train", "t0")[1]
    Image.fromarray(COLOURS[label]).save(root / "train/labels/t0.png")
    mapped = np.where(label == 1, 10, np.where(label == 2, 200, label)).astype(np.uint8)
    Image.fromarray(np.repeat(mapped[:, :, None], 3, 2) * 0 + COLOURS[label]).save(root / "train/labels/t1.png")
    save_mask(root / "train/labels/t0.png", mapped)
    (root / "val/images/v0.png").rename(root / "val/images/v0.jpg")
    made, out = repaired(root)
    assert made.left_out == () and made.images_turned == 1 and made.masks_rewritten == 2
    assert (out / "val/images/v0.png").exists()
    assert (read_image(out / "train/images/t7.png") == read_image(root / "train/images/t7.jpg")).all()
    for split in NAMES:
        one, other = open_folder(root, split), open_folder(out, split)
        assert all((one[i].label == other[i].label).all() for i in range(len(one)))


def test_gray_masks_saved_as_rgb_become_indices(root: Path) -> None:
    (root / "classes.yaml").write_text("names: [ground, house, tree, road]\n")
    for path in root.glob("*/labels/*.png"):
        label = np.asarray(Image.open(path, formats=("PNG",)))
        Image.fromarray(np.repeat(label[:, :, None], 3, 2)).save(path)
    made, out = repaired(root)
    assert made.masks_rewritten == 12
    assert (open_folder(out, "val")[0].label == scene("val", "v0")[1]).all()


def test_what_is_broken_is_left_out_with_its_reason(root: Path) -> None:
    (root / "train/images/t0.png").write_bytes(b"")
    (root / "train/labels/t1.png").write_bytes(b"<html>")
    save_mask(root / "train/labels/t2.png", np.zeros((5, 5), np.uint8))
    save_mask(root / "train/labels/t3.png", np.full(SIZE, 77, np.uint8))
    (root / "train/labels/t4.png").unlink()
    shutil.copy(root / "train/images/t5.png", root / "train/images/t5.bmp")
    leak_source = root / "train/images/t0.png"
    shutil.copy(root / "train/images/t6.png", root / "val/images/v1.png")
    (root / "test/images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "test/images/x.png")
    made, out = repaired(root)
    assert made.pairs == {"train": 2, "val": 3} and leak_source.read_bytes() == b""
    text = (out / LEFT_OUT).read_text()
    for words in ("t0: ", "empty", "HTML", "5x5", "77", "t4.png", "several files", "stands in train already", "test:"):
        assert words in text, words


def test_masks_of_ground_and_void_alone_stay_what_they_are(root: Path) -> None:
    (root / "classes.yaml").write_text("names: [ground, house]\nvoid: [254]\n")
    every_label(root, lambda label: np.where(label == 1, 254, 0).astype(np.uint8))
    save_mask(root / "val/labels/v0.png", (scene("val", "v0")[1] == 1).astype(np.uint8))
    made, out = repaired(root)
    assert made.left_out == () and open_folder(out, "train").labels.names == ("ground", "house")


def test_a_folder_without_splits_gets_them(root: Path) -> None:
    for side in ("images", "labels"):
        (root / side).mkdir()
        for path in root.glob(f"*/{side}/*"):
            path.rename(root / side / path.name)
    for split in NAMES:
        shutil.rmtree(root / split)
    made, _ = repaired(root)
    assert sum(made.pairs.values()) == 12 and set(made.pairs) == {"train", "val"}


def test_places_that_are_refused(root: Path) -> None:
    found = check_dataset(root)
    full = root.parent / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    for out in (root, root / "inside" / "it", root.parent, full, full / "precious.txt"):
        with pytest.raises(UsageError):
            repair(root, out, found)
    assert (full / "precious.txt").read_text() == "mine" and not (root / "inside").exists()
    for path in root.glob("train/images/*"):
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="usable"):
        repair(root, root.parent / "out", check_dataset(root))
    off_by_one(root)
    leak(root)
