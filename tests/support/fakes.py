"""Tiny copies of the published data sets in their official layouts, drawn from a seed, for the tests.

``fake(name, root)`` makes one and returns the names of each split; every class of a set occurs in it.
"""

import shutil
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from fullconv.datasets.published.camvid import COLOURS
from fullconv.datasets.published.catalog import abouts
from fullconv.datasets.published.cityscapes import IDS
from fullconv.datasets.published.label_spaces import CAMVID, PASCAL_CONTEXT, VOC
from fullconv.datasets.published.siftflow import INSIDE

SIZE = (40, 48)
SPLITS = {"train": 3, "val": 2, "test": 2}


def blocks(key, values, size=SIZE):
    """A label of upright stripes and blocks, in which as many of the values occur as there is room for."""
    rng = np.random.default_rng([len(values), *key.encode()])
    cells = rng.choice(np.array(values), (size[0] // 4, size[1] // 4))
    flat = cells.reshape(-1)
    flat[rng.permutation(flat.size)[: len(values)]] = np.array(values)[: flat.size]
    return cells.repeat(4, 0).repeat(4, 1)


def picture(path, label, key):
    """A photograph in which each value of the label has its own shade, with grain: a net can learn it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([1, *key.encode()])
    shades = np.random.default_rng(0).integers(0, 256, (1024, 3))
    grain = rng.normal(0, 6, (*label.shape, 3))
    Image.fromarray(np.clip(shades[label] + grain, 0, 255).astype(np.uint8)).save(path, quality=95)


def mask(path, label, space=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    png = Image.fromarray(np.asarray(label, np.uint8))
    if space is not None:
        png.putpalette(space.flat_palette())
    png.save(path)


def mat(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=True)


def listed(path, names, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + end)


def names_of(prefix, splits=SPLITS, first=1):
    made, number = {}, first
    for split, count in splits.items():
        made[split] = [f"{prefix}{number + n:06d}" for n in range(count)]
        number += count
    return made


def voc(name, root, splits=None):
    year = name.removeprefix("voc")
    folder = root / "VOCdevkit" / f"VOC{year}"
    names = names_of(f"{year}_", splits or SPLITS)
    for split, ids in names.items():
        listed(folder / "ImageSets" / "Segmentation" / f"{split}.txt", ids)
        for one in ids:
            label = blocks(one, [*range(21), 255])
            picture(folder / "JPEGImages" / f"{one}.jpg", label, one)
            if split != "test" or year == "2007":
                mask(folder / "SegmentationClass" / f"{one}.png", label, VOC)
    (folder / "SegmentationClass").mkdir(exist_ok=True)
    listed(folder / "ImageSets" / "Segmentation" / "trainval.txt", names["train"] + names["val"])
    return {**names, "trainval": names["train"] + names["val"]}


def sbd(name, root):
    folder = root / "benchmark_RELEASE" / "dataset"
    names = names_of("2008_", {"train": 3, "val": 2})
    for split, ids in names.items():
        listed(folder / f"{split}.txt", ids)
        for one in ids:
            label = blocks(one, range(21)).astype(np.uint8)
            picture(folder / "img" / f"{one}.jpg", label, one)
            for top, variable in (("cls", "GTcls"), ("inst", "GTinst")):
                inside = {"Segmentation": label, "Boundaries": np.zeros((2, 2)), "CategoriesPresent": np.unique(label)}
                mat(folder / top / f"{one}.mat", {variable: inside})
    listed(folder / "train_noval.txt", names["train"][:1])
    return {**names, "train_noval": names["train"][:1]}


def nyud(name, root):
    names = {split: [str(5001 + n) for n in range(*ends)] for split, ends in
             {"train": (0, 3), "val": (3, 5), "test": (5, 7)}.items()}  # fmt: skip
    for split, ids in names.items():
        listed(root / f"{split}.txt", ids, end="")  # the released lists have no last line end
        for one in ids:
            label = blocks(one, range(41))
            picture(root / "data" / "images" / f"img_{one}.png", label, one)
            picture(root / "data" / "hha" / f"img_{one}.png", label, f"hha {one}")
            depth = (label * 100 + 500).astype(np.uint16)
            depth[:2, :2] = 0
            (root / "data" / "depth").mkdir(exist_ok=True)
            Image.fromarray(depth).save(root / "data" / "depth" / f"img_{one}.png")
            mat(root / "segmentation" / f"img_{one}.mat", {"segmentation": label.astype(np.uint16)})
    every = {"trainval": names["train"] + names["val"], **names}
    return {split: [f"img_{one}" for one in ids] for split, ids in every.items()}


def siftflow(name, root):
    names = names_of("coast_n", {"trainval": 4, "test": 2})
    for split, ids in names.items():
        listed(root / f"{split}.txt", ids)
        for one in ids:
            label = blocks(one, range(34))
            picture(root / "Images" / INSIDE / f"{one}.jpg", label, one)
            mat(root / "SemanticLabels" / INSIDE / f"{one}.mat", {"S": label.astype(np.uint8), "names": ["a", "b"]})
            geometric = np.where(label == 0, -1, label % 3 + 1).astype(np.int16)
            mat(root / "GeoLabels" / INSIDE / f"{one}.mat", {"S": geometric})
    for one in ("highway_bost181", "street_urb506"):
        picture(root / "Images" / INSIDE / f"{one}.jpg", blocks(one, range(34)), one)
    return names


def context(name, root):
    photographs, folder = root / "VOC2010", root / "pascal-context"
    raw = ["thing", *PASCAL_CONTEXT.names[1:40], "other thing", *PASCAL_CONTEXT.names[40:]]
    spelt = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
    raw = [spelt.get(one, one) for one in raw]
    lines = [f"{number}: {one}" for number, one in enumerate(raw, start=1)]
    listed(folder / "labels.txt", lines)
    listed(folder / "33_labels.txt", [f"{number}: {one}" for number, one in enumerate(raw[1:34], start=1)])
    names = names_of("2010_", {"train": 3, "val": 2})
    for split, ids in names.items():
        listed(photographs / "ImageSets" / "Main" / f"{split}.txt", ids)
        for one in ids:
            label = blocks(one, range(1, len(raw) + 1))
            picture(photographs / "JPEGImages" / f"{one}.jpg", label, one)
            mat(folder / "trainval" / f"{one}.mat", {"LabelMap": label.astype(np.uint16)})
    return names


def camvid(name, root, original=False):
    names = {
        "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
        "val": ["0016E5_07959", "0016E5_08159"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }
    for split, ids in names.items():
        for one in ids:
            label = blocks(one, range(12))
            if original:
                colours = np.array([COLOURS[c][-1] for c in CAMVID.names] + [(0, 0, 0)], np.uint8)
                picture(root / "701_StillsRaw_full" / f"{one}.png", label, one)
                (root / "LabeledApproved_full").mkdir(exist_ok=True)
                Image.fromarray(colours[label]).save(root / "LabeledApproved_full" / f"{one}_L.png")
            else:
                picture(root / split / f"{one}.png", label, one)
                mask(root / f"{split}annot" / f"{one}.png", label)
    return names


def cityscapes(name, root):
    names = {split: [f"{city}_000000_00001{n}" for city in cities for n in range(2)] for split, cities in
             {"train": ("aachen", "ulm"), "val": ("lindau",), "test": ("bonn",)}.items()}  # fmt: skip
    for split, ids in names.items():
        for one in ids:
            city, label = one.partition("_")[0], blocks(one, [*IDS, 0, 4, 30])
            picture(root / "leftImg8bit" / split / city / f"{one}_leftImg8bit.png", label, one)
            mask(root / "gtFine" / split / city / f"{one}_gtFine_labelIds.png", label)
    return names


def ade20k(name, root):
    names = {"train": ["ADE_train_00000001", "ADE_train_00000002"], "val": ["ADE_val_00000001", "ADE_val_00000002"]}
    for split, folder in (("train", "training"), ("val", "validation")):
        for one in names[split]:
            label = blocks(one, range(151), (56, 64))
            top = root / "ADEChallengeData2016"
            picture(top / "images" / folder / f"{one}.jpg", label, one)
            mask(top / "annotations" / folder / f"{one}.png", label)
    return names


MAKERS = {"sbd": sbd, "siftflow": siftflow, "camvid": camvid, "cityscapes": cityscapes, "ade20k": ade20k}


def fake(name, root):
    """A tiny copy of the data set of this name under `root`; the names of the samples of each split."""
    root = Path(root)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    family = abouts()[name].read.__module__.rpartition(".")[2]
    return MAKERS.get(family, globals()[family])(name, root)
