"""Folders of images and masks with one fault each."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (120, 160)


CLASSES = "names: [ground, house, tree, road]\npalette: [[0, 0, 0], [200, 40, 40], [40, 180, 60], [60, 80, 220]]\n"


COLOURS = np.array([[0, 0, 0], [200, 40, 40], [40, 180, 60], [60, 80, 220]], np.uint8)


NAMES = {"train": [f"t{i}" for i in range(8)], "val": [f"v{i}" for i in range(4)]}


def scene(split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping boxes of three classes on ground, under texture: image (120, 160, 3), label (120, 160)."""
    rng = np.random.default_rng([*f"{split}/{name}".encode()])
    label, image = np.zeros(SIZE, np.uint8), np.empty((*SIZE, 3))
    coarse = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    image[:] = np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    for index in (1, 2, 3):
        top, left = 2 + 38 * (index - 1) + int(rng.integers(0, 8)), int(rng.integers(0, 80))
        box = slice(top, top + 28), slice(left, left + 76)
        label[box] = index
        image[box] = 0.5 * image[box] + 0.5 * COLOURS[index]
    return np.clip(image, 0, 255).astype(np.uint8), label


def save_mask(path: Path, label: np.ndarray, palette: np.ndarray = COLOURS) -> None:
    picture = Image.fromarray(label)
    picture.putpalette(np.resize(palette, (256, 3)).reshape(-1).tolist())  # a short one would cut the indices to 2 bits
    picture.save(path)


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    for split, names in NAMES.items():
        for side in ("images", "labels"):
            (root / split / side).mkdir(parents=True)
        for name in names:
            image, label = scene(split, name)
            Image.fromarray(image).save(root / split / "images" / f"{name}.png")
            save_mask(root / split / "labels" / f"{name}.png", label)
    (root / "classes.yaml").write_text(CLASSES)
    return root


@pytest.fixture
def root(clean_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean_set, tmp_path / "data"))


def every_label(root: Path, change: Callable[[np.ndarray], np.ndarray], palette: np.ndarray = COLOURS) -> None:
    for path in root.glob("*/labels/*.png"):
        save_mask(path, change(np.asarray(Image.open(path, formats=("PNG",)))), palette)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=("JPEG",)))


def near_duplicate(root: Path) -> None:
    image = Image.fromarray(scene("train", "t0")[0]).resize((240, 180), Image.Resampling.BICUBIC)
    label = Image.open(root / "train/labels/t0.png", formats=("PNG",)).resize((240, 180), Image.Resampling.NEAREST)
    (root / "val/images/v0.png").unlink()
    image.save(root / "val/images/v0.jpg", quality=80)
    label.save(root / "val/labels/v0.png")


def leak(root: Path) -> None:
    shutil.copy(root / "train/images/t3.png", root / "val/images/v1.png")


def off_by_one(root: Path) -> None:
    every_label(root, lambda label: label + 1)


def off_by_one_unnamed(root: Path) -> None:
    (root / "classes.yaml").unlink()
    every_label(root, lambda label: label + 1)


def zero_is_void(root: Path) -> None:
    (root / "classes.yaml").write_text("names: [house, tree, road]\n")


def renumbered(root: Path) -> None:
    label = scene("train", "t1")[1]
    order = np.array([2, 0, 3, 1])
    palette = COLOURS.copy()
    palette[order] = COLOURS
    save_mask(root / "train/labels/t1.png", order.astype(np.uint8)[label], palette)


def lossy_colours(root: Path) -> None:
    Image.fromarray(jpeg(COLOURS[scene("train", "t2")[1]], 75)).save(root / "train/labels/t2.png")


def smooth_colours(root: Path) -> None:
    picture = Image.fromarray(COLOURS[scene("val", "v2")[1]])
    small = picture.resize((74, 54), Image.Resampling.BICUBIC)
    small.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(root / "val/labels/v2.png")


def smooth_values(root: Path) -> None:
    spread = 80 * scene("train", "t4")[1]
    (root / "classes.yaml").write_text(CLASSES + "map: {80: 1, 160: 2, 240: 3}\n")
    picture = Image.fromarray(spread).resize((66, 50), Image.Resampling.NEAREST)
    picture.resize(SIZE[::-1], Image.Resampling.BILINEAR).save(root / "train/labels/t4.png")


def lossy_values(root: Path) -> None:
    (root / "classes.yaml").write_text(CLASSES + "map: {80: 1, 160: 2, 240: 3}\n")
    Image.fromarray(jpeg(80 * scene("train", "t4")[1], 60)).save(root / "train/labels/t4.png")


def specks(root: Path) -> None:
    label, rng = scene("val", "v3")[1], np.random.default_rng(0)
    noisy = np.where(rng.random(SIZE) < 0.08, rng.integers(0, 4, SIZE), label).astype(np.uint8)
    save_mask(root / "val/labels/v3.png", noisy)


def constant(root: Path) -> None:
    Image.new("RGB", SIZE[::-1], (20, 30, 40)).save(root / "train/images/t5.png")


def copied(root: Path) -> None:
    shutil.copy(root / "train/images/t6.png", root / "train/labels/t6.png")


def copied_back(root: Path) -> None:
    shutil.copy(root / "train/labels/t6.png", root / "train/images/t6.png")


def untaught(root: Path) -> None:
    for path in root.glob("train/labels/*.png"):
        label = np.asarray(Image.open(path, formats=("PNG",)))
        save_mask(path, np.where(label == 3, 0, label).astype(np.uint8))


def turned(root: Path) -> None:
    image = Image.fromarray(np.rot90(scene("train", "t7")[0]).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "train/images/t7.png").unlink()
    image.save(root / "train/images/t7.jpg", quality=90, exif=exif)


FAULTS = [
    (near_duplicate, {"near-duplicate": "warning"}),
    (leak, {"leak": "warning"}),
    (off_by_one, {"off-by-one": "error"}),
    (off_by_one_unnamed, {"off-by-one": "warning"}),
    (zero_is_void, {"off-by-one": "error"}),
    (renumbered, {"renumbered": "warning"}),
    (lossy_colours, {"lossy": "error"}),
    (smooth_colours, {"lossy": "error"}),
    (smooth_values, {"lossy": "error"}),
    (lossy_values, {"lossy": "error"}),
    (specks, {"specks": "warning"}),
    (constant, {"constant-image": "warning"}),
    (copied, {"copied": "error"}),
    (copied_back, {"copied": "warning"}),
    (untaught, {"untaught-class": "warning"}),
    (turned, {}),
]
