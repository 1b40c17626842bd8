"""Folders open in the layouts that people have, or say in one line why they do not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.datasets.folder.classes_file import ClassesFile, parse_rules
from fullconv.datasets.folder.folder_dataset import Folder, make_split, open_folder
from fullconv.datasets.folder.layouts import MASK_ENDINGS, MASK_FOLDERS
from fullconv.datasets.folder.mask_encoding import find_coding
from fullconv.datasets.folder.mask_facts import MaskFacts, packed, unpacked
from fullconv.datasets.published.label_spaces import VOC
from fullconv.errors import UsageError
from fullconv.labels import voc_colour

SHAPE = (6, 8)
PLAIN = np.arange(48, dtype=np.uint8).reshape(SHAPE) % 3
CAMVID = Path(os.environ.get("FULLCONV_SHARED_DATA", "../shared/data")) / "camvid"


def image(path: Path, shape: tuple[int, int] = SHAPE, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *os.fsencode(path.name)]).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def mask(path: Path, values: np.ndarray = PLAIN, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values))
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def pairs(images: Path, masks: Path, names: str = "ab", values: np.ndarray = PLAIN) -> None:
    for name in names:
        image(images / f"{name}.jpg")
        mask(masks / f"{name}.png", values)


def simple(root: Path, values: np.ndarray = PLAIN, palette: list[int] | None = None) -> Path:
    """One training and one validation pair."""
    for split in ("train", "val"):
        image(root / split / "images" / f"{split}0.png")
        mask(root / split / "labels" / f"{split}0.png", values, palette)
    return root


def refused(root: Path, *words: str, split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        open_folder(root, split)
    message = str(caught.value)
    assert "\n" not in message and ": " in message and "; " in message
    for word in words:
        assert word in message
    return message


# -- layouts -----------------------------------------------------------------------------------------------------------


def voc(root: Path) -> Path:
    pairs(root / "JPEGImages", root / "SegmentationClass", "abcd")
    image(root / "JPEGImages" / "not-segmented.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    return root


SPLIT_LAYOUTS = {
    **{f"split/images + split/{m}": ("{s}/images", "{s}/" + m) for m in MASK_FOLDERS},
    **{f"images/split + {m}/split": ("images/{s}", m + "/{s}") for m in MASK_FOLDERS},
    "segnet": ("{s}", "{s}annot"),
}


@pytest.mark.parametrize("layout", SPLIT_LAYOUTS)
def test_split_layouts(layout: str, tmp_path: Path) -> None:
    images, masks = SPLIT_LAYOUTS[layout]
    for split, names in (("train", "abc"), ("val", "de"), ("test", "f")):
        pairs(tmp_path / images.format(s=split), tmp_path / masks.format(s=split), names)
    for split, names in (("train", "abc"), ("val", "de"), ("test", "f")):
        folder = open_folder(tmp_path, split)
        assert [name for name, _, _ in folder.pairs] == list(names) and len(folder) == len(names)
        assert folder.split_made is None and len(folder.labels) == 3
        for sample in folder:
            assert sample.image.shape == (*SHAPE, 3) and sample.label.dtype == np.uint8
            np.testing.assert_array_equal(sample.label, PLAIN)


def test_voc(tmp_path: Path) -> None:
    voc(tmp_path)
    sizes = {split: len(open_folder(tmp_path, split)) for split in ("train", "val", "trainval")}
    assert sizes == {"train": 2, "val": 1, "trainval": 3}
    assert open_folder(tmp_path, "val").labels == VOC
    refused(tmp_path, "no split 'test'", "One of: train, val", split="test")


@pytest.mark.parametrize("text", [b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb", b"\n a \n\n\nb\n\n", b"a\rb\r"])
def test_voc_lists_of_any_editor(text: bytes, tmp_path: Path) -> None:
    (voc(tmp_path) / "ImageSets/Segmentation/train.txt").write_bytes(text)
    assert [name for name, _, _ in open_folder(tmp_path, "train").pairs] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb\na\n", ("line 3", "'a'", "line 1 already")),
        ("a\n\nzebra\n", ("line 3", "'zebra'", "JPEGImages nor in")),
        ("../JPEGImages/a\n", ("line 1", "without image or mask")),
        ("not-segmented\n", ("line 1", "SegmentationClass")),
        ("\n", ("no names",)),
    ],
)
def test_voc_lists_with_mistakes(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (voc(tmp_path) / "ImageSets/Segmentation/train.txt").write_text(text)
    refused(tmp_path, "train.txt", *words)


def test_voc_masks_in_colour_are_read_by_colour(tmp_path: Path) -> None:
    colours = np.array([voc_colour(i) for i in (0, 15, 20, 255)], np.uint8)[np.arange(48).reshape(SHAPE) % 4]
    mask(voc(tmp_path) / "SegmentationClass" / "c.png", colours)
    assert np.unique(open_folder(tmp_path, "val")[0].label).tolist() == [0, 15, 20, 255]


def test_a_folder_without_splits_gets_one(tmp_path: Path) -> None:
    pairs(tmp_path / "images", tmp_path / "masks", "abcdefghij")
    train, val = open_folder(tmp_path, "train"), open_folder(tmp_path, "val")
    assert (len(train), len(val)) == (8, 2)
    assert {p[0] for p in train.pairs} | {p[0] for p in val.pairs} == set("abcdefghij")
    assert train.split_made and "8 train, 2 val" in train.split_made and train.split_made == val.split_made
    assert open_folder(tmp_path, "val") == val
    refused(tmp_path, "no split 'test'", split="test")


NAMES = st.lists(st.text("abc_-0123", min_size=1, max_size=7), min_size=2, max_size=40, unique=True)


@settings(max_examples=200, deadline=None)
@given(NAMES, st.randoms())
def test_a_made_split_is_a_partition_and_depends_on_the_names_alone(names: list[str], shuffle: object) -> None:
    train, val, made = make_split(sorted(names))
    assert set(train) | set(val) == set(names) and not set(train) & set(val) and train and val
    assert len(val) <= max(1, 1.5 * round(0.2 * len(names)))
    again = list(names)
    shuffle.shuffle(again)  # type: ignore[attr-defined]
    train2, val2, made2 = make_split(again)
    assert (set(train2), val2, made2) == (set(train), val, made)


@pytest.mark.parametrize("sign", "_-")
def test_frames_of_one_film_stay_together(sign: str) -> None:
    names = sorted(f"film{f}{sign}{i:04d}" for f in range(20) for i in range(1 + f % 4))
    train, val, _ = make_split(names)
    films = [{name.split(sign)[0] for name in part} for part in (train, val)]
    assert not films[0] & films[1] and abs(len(val) - 0.2 * len(names)) <= 0.1 * len(names)
    assert "image by image" in make_split([f"img{sign}{i}" for i in range(30)])[2]  # one group is none


def test_classes_of_a_made_split_come_from_all_masks(tmp_path: Path) -> None:
    pairs(tmp_path / "images", tmp_path / "labels", "abcdefghij")
    val = make_split(list("abcdefghij"))[1]
    mask(tmp_path / "labels" / f"{val[0]}.png", PLAIN + 2)
    assert len(open_folder(tmp_path, "train").labels) == len(open_folder(tmp_path, "val").labels) == 5


@pytest.mark.parametrize("ending", MASK_ENDINGS)
def test_mask_names_with_an_ending_and_in_capitals(ending: str, tmp_path: Path) -> None:
    image(tmp_path / "train/images/a.JPG")
    mask(tmp_path / f"train/labels/a{ending}.PNG")
    (tmp_path / "train/images/.DS_Store").write_bytes(b"x")
    (tmp_path / "train/labels/._a.png").write_bytes(b"x")
    assert [name for name, _, _ in open_folder(tmp_path, "train").pairs] == ["a"]


def test_accents_pair_however_they_are_composed(tmp_path: Path) -> None:
    image(tmp_path / "train/images/caf\u00e9.png")
    mask(tmp_path / "train/labels/cafe\u0301.png")
    assert len(open_folder(tmp_path, "train")) == 1


def test_names_that_are_no_text(tmp_path: Path) -> None:
    odd = os.fsdecode(b"-caf\xe9\n")
    image(tmp_path / "train/images" / f"{odd}.png")
    mask(tmp_path / "train/labels" / f"{odd}.png")
    assert open_folder(tmp_path, "train")[0].name == odd
    (tmp_path / "train/labels" / f"{odd}.png").unlink()
    image(tmp_path / "train/images/b.png")
    mask(tmp_path / "train/labels/b.png")
    assert refused(tmp_path, "-caf\\udce9\\n.png").isprintable()


# -- what is not there -------------------------------------------------------------------------------------------------


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path / "no" / "where", "no such folder", f"nearest one that exists is {tmp_path}")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "a file, not a folder")
    refused(tmp_path / "file" / "below", "no such folder", f"exists is {tmp_path}")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty folder", "train/images + train/labels")
    (tmp_path / "empty" / "readme.txt").write_text("x")
    refused(tmp_path / "empty", "readme.txt", "train/images + train/labels")


@pytest.mark.parametrize("place", ["", "images", "train/images", "images/train", "train"])
def test_images_without_a_folder_of_masks(place: str, tmp_path: Path) -> None:
    image(tmp_path / place / "a.jpg")
    refused(tmp_path, "1 image in", "no folder of masks", "expected")


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    simple(tmp_path)
    refused(tmp_path, "no split 'test'", "One of: train, val", split="test")
    image(tmp_path / "test/images/a.png")
    refused(tmp_path, "'test' has images but no masks", split="test")
    image(tmp_path / "one/images/a.png")
    mask(tmp_path / "one/labels/a.png")
    refused(tmp_path / "one", "one image cannot be split")


def test_missing_partners_are_counted_and_the_first_five_shown(tmp_path: Path) -> None:
    simple(tmp_path)
    for i in range(7):
        image(tmp_path / f"train/images/lonely{i}.png")
    message = refused(tmp_path, "7 images without a mask", "lonely0.png", "lonely4.png", "...")
    assert "lonely5" not in message
    simple(tmp_path / "b")
    mask(tmp_path / "b/train/labels/extra.png")
    refused(tmp_path / "b", "1 mask without an image", "extra.png")


def test_one_name_borne_twice(tmp_path: Path) -> None:
    image(simple(tmp_path) / "train/images/train0.jpg")
    refused(tmp_path, "train0.jpg and train0.png")
    simple(tmp_path / "b")
    np.save(tmp_path / "b/train/labels/train0.npy", PLAIN)
    refused(tmp_path / "b", "train0.npy and train0.png")


def test_empty_sides(tmp_path: Path) -> None:
    for folder in ("train/images/berlin", "train/labels"):
        (tmp_path / folder).mkdir(parents=True)
    refused(tmp_path, "no images", "1 folder")
    image(tmp_path / "train/images/a.png")
    image(tmp_path / "train/labels/a.jpg")
    refused(tmp_path, "no masks for 1 image", "1 .jpg file", "JPEG changes label values")


# -- classes -----------------------------------------------------------------------------------------------------------


def test_classes_are_found_from_all_training_masks(tmp_path: Path) -> None:
    values = PLAIN.copy()
    values[0, 0] = 255
    simple(tmp_path, values)
    image(tmp_path / "train/images/z.png")
    mask(tmp_path / "train/labels/z.png", np.full(SHAPE, 6, np.uint8))
    for split in ("train", "val"):
        labels = open_folder(tmp_path, split).labels
        assert labels.names == tuple(f"class{i}" for i in range(7)) and labels.ignore_index == 255
        assert labels.palette == tuple(voc_colour(i) for i in range(7))


def test_a_palette_that_all_masks_share_is_kept(tmp_path: Path) -> None:
    palette = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert open_folder(simple(tmp_path, PLAIN, palette), "val").labels.palette == (
        (10, 20, 30),
        (40, 50, 60),
        (70, 80, 90),
    )


def test_a_value_above_the_classes_is_named_with_its_place(tmp_path: Path) -> None:
    values = PLAIN.copy()
    values[4, 3:5] = 77
    mask(simple(tmp_path) / "val/labels/val0.png", values)
    refused(tmp_path, "val0.png", "value 77", "2 pixels", "x=3 y=4", "0 to 2", split="val")
    assert len(open_folder(tmp_path, "train")) == 1


def test_binary_masks_of_0_and_255(tmp_path: Path) -> None:
    values = np.uint8(PLAIN > 0) * 255
    simple(tmp_path, values)
    refused(tmp_path, "0/255 binary mask", "map: {255: 1}")
    (tmp_path / "classes.yaml").write_text("names: [ground, thing]")
    refused(tmp_path, "0/255 binary mask")
    for text in ("map: {255: 1}", "names: [ground, thing]\nmap: {255: 1}\n"):
        (tmp_path / "classes.yaml").write_text(text)
        folder = open_folder(tmp_path, "val")
        assert len(folder.labels) == 2
        np.testing.assert_array_equal(folder[0].label, PLAIN > 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(SHAPE, np.uint8), "only the value 0"),
        (np.full(SHAPE, 255, np.uint8), "only void"),
        (np.full(SHAPE, 1003, np.uint16), "the value 1003"),
    ],
)
def test_masks_without_classes(values: np.ndarray, words: str, tmp_path: Path) -> None:
    refused(simple(tmp_path, values), words, "classes.yaml")


def test_gray_masks_saved_as_rgb_are_values(tmp_path: Path) -> None:
    simple(tmp_path, np.repeat(PLAIN[..., None], 3, axis=2))
    folder = open_folder(tmp_path, "val")
    np.testing.assert_array_equal(folder[0].label, PLAIN)
    assert len(folder.labels) == 3


COLOURS = np.array([[0, 0, 0], [200, 10, 20], [0, 99, 255]], np.uint8)
YAML = """
classes:
- {name: ground, color: [0, 0, 0]}
- {name: cell, color: '#c80a14'}
- {name: wall, color: [0, 99, 255]}
"""


def test_colour_masks(tmp_path: Path) -> None:
    simple(tmp_path, COLOURS[PLAIN])
    refused(tmp_path, "1 of 1 masks are colour pictures", "(200, 10, 20)", "classes.yaml")
    (tmp_path / "classes.yaml").write_text(YAML)
    folder = open_folder(tmp_path, "val")
    assert folder.labels.names == ("ground", "cell", "wall")
    np.testing.assert_array_equal(folder[0].label, PLAIN)
    wrong = COLOURS[PLAIN].copy()
    wrong[5, 7] = (1, 2, 3)
    mask(tmp_path / "val/labels/val0.png", wrong)
    refused(tmp_path, "(1, 2, 3)", "1 pixels", "x=7 y=5", split="val")
    (tmp_path / "classes.yaml").write_text(YAML + "void: ['#010203']\n")
    assert open_folder(tmp_path, "val")[0].label[5, 7] == 255


def test_colour_masks_in_vocs_colours(tmp_path: Path) -> None:
    colours = np.array([voc_colour(i) for i in (0, 2, 255)], np.uint8)
    simple(tmp_path, colours[PLAIN])
    refused(tmp_path, "PASCAL VOC's colours", "palette: voc")
    (tmp_path / "classes.yaml").write_text("palette: voc")
    folder = open_folder(tmp_path, "train")
    assert len(folder.labels) == 3
    np.testing.assert_array_equal(folder[0].label, np.array([0, 2, 255])[PLAIN])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=300, unique=True), st.integers(0, 99))
def test_colour_to_index_to_colour_is_the_identity(palette: list[tuple[int, int, int]], seed: int) -> None:
    rules = ClassesFile(names=tuple(f"c{i}" for i in range(len(palette))), palette=tuple(palette))
    coding = find_coding(Path("root"), rules, [])
    picture = np.array(palette, np.uint8)[np.random.default_rng(seed).integers(0, len(palette), (5, 7))]
    label = coding.encode(picture, Path("mask.png"))
    np.testing.assert_array_equal(np.array(coding.labels.palette)[label], picture)
    assert label.dtype == (np.uint8 if len(palette) <= 255 else np.int32)
    assert unpacked(int(packed(picture)[0, 0])) == tuple(picture[0, 0])


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 400), st.dictionaries(st.integers(0, 500), st.integers(0, 1), max_size=5), st.integers(0, 99))
def test_values_are_coded_as_a_slow_loop_would(count: int, mapping: dict[int, int], seed: int) -> None:
    coding = find_coding(Path("root"), ClassesFile(names=tuple(f"c{i}" for i in range(count)), mapping=mapping), [])
    void = coding.labels.ignore_index
    stored = np.random.default_rng(seed).integers(0, count, (4, 5)).astype(np.uint16)
    stored[0, 0] = void
    expected = [[mapping.get(int(v), int(v)) for v in row] for row in stored]
    assert coding.encode(stored, Path("m")).tolist() == expected
    counts = dict(zip(*(a.tolist() for a in np.unique(stored, return_counts=True)), strict=True))
    classes, void_pixels = coding.pixels(MaskFacts((4, 5), False, counts, None))
    flat = np.array(expected).ravel()
    assert classes.tolist() == [int((flat == i).sum()) for i in range(count)] and void_pixels == (flat == void).sum()
    for stray in (-1, count if count != 255 else 256, 70000):
        if stray not in mapping and stray not in (255, void):
            with pytest.raises(UsageError, match=f"value {stray} in 1 pixels, first at x=1 y=1"):
                coding.encode(np.array([[0, 0], [0, stray]], np.int64), Path("m"))


def test_void_values_and_names(tmp_path: Path) -> None:
    simple(tmp_path)
    (tmp_path / "classes.yaml").write_text("names: [a, b]\nvoid: 2\n")
    folder = open_folder(tmp_path, "train")
    assert folder.labels.names == ("a", "b")
    np.testing.assert_array_equal(folder[0].label, np.where(PLAIN == 2, 255, PLAIN))
    (tmp_path / "classes.yaml").write_text("names: [a, b]")
    refused(tmp_path, "value 2", "0 to 1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nmaes: [a, b]", ("line 1", "unknown key 'nmaes'", "did you mean 'names'")),
        ("names: [a, b]\nnames: [c, d]", ("line 2", "twice")),
        ("names: [a, a]", ("'a' stands twice",)),
        ("names: a", ("no list",)),
        ("names: []", ("0 classes",)),
        ("names: [a, [b]]", ("names[1]", "no class name")),
        ("names: [yes, no]", ("True", "in quotes")),
        ("names: [a, b]\nclasses: [a, b]", ("both",)),
        ("names: [a, b]\npalette: [[0, 0, 0]]", ("2 names but 1 colours",)),
        ("palette: [[0, 0, 256]]", ("no colour",)),
        ("classes: [{name: a, color: red}]", ("'red' is no colour", "#rrggbb")),
        ("classes: [{name: a, colr: [0, 0, 0]}]", ("'colr'", "did you mean 'color'")),
        ("void: [1.5]", ("1.5",)),
        ("map: [1]", ("map",)),
        ("map: {a: 1}", ("'a' is no mask value",)),
        ("map: {1: 0}\nvoid: 1", ("'void' and in 'map'",)),
        ("- a\n- b", ("list in place of keys",)),
        ("names: [a, b", ("line 1", "YAML")),
        ("names: !!python/object/apply:os.mkdir [x]", ("line 1", "tag")),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]", ("alias",)),
        ("names: " + "[" * 200_000, ("nested too deeply",)),
        ("- " * 100_000, ("nested too deeply",)),
        ("names: [\x00]", ("classes.yaml",)),
        ("2001-99-99: 1", ("classes.yaml",)),
        ("? [a]\n: b", ("list as a key",)),
    ],
)
def test_a_classes_file_with_a_mistake(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (simple(tmp_path) / "classes.yaml").write_text(text)
    refused(tmp_path, "classes.yaml", *words)


def test_a_classes_file_that_is_large_or_no_text(tmp_path: Path) -> None:
    simple(tmp_path)
    (tmp_path / "classes.yaml").write_bytes(b"#" * (2 << 20))
    refused(tmp_path, "bytes")
    (tmp_path / "classes.yaml").write_bytes(b"names: [\xff\xfe]")
    refused(tmp_path, "UTF-8")
    (tmp_path / "classes.yaml").write_text("names: [a, b, c]\nmap: {7: 3}")
    refused(tmp_path, "map sends 7 to 3", "0 to 2")
    assert parse_rules(b"") == ClassesFile()


def test_two_classes_of_one_colour_only_matter_for_colour_masks(tmp_path: Path) -> None:
    (simple(tmp_path) / "classes.yaml").write_text("names: [a, b, c]\npalette: [[0, 0, 0], [1, 1, 1], [1, 1, 1]]")
    assert len(open_folder(tmp_path, "train")) == 1
    mask(tmp_path / "train/labels/train0.png", np.uint8(COLOURS[PLAIN] > 0))
    refused(tmp_path, "(1, 1, 1)", "'b' and 'c'")


# -- samples -----------------------------------------------------------------------------------------------------------


def test_sizes_that_differ_are_both_shown(tmp_path: Path) -> None:
    mask(simple(tmp_path) / "train/labels/train0.png", np.ones((5, 4), np.uint8))
    mask(tmp_path / "val/labels/val0.png", PLAIN.T.copy())
    mask(tmp_path / "train/labels/b.png")
    image(tmp_path / "train/images/b.png")
    for split, words in (("train", ("5x4", "6x8")), ("val", ("8x6", "6x8", "EXIF"))):
        folder = open_folder(tmp_path, split)
        with pytest.raises(UsageError) as caught:
            _ = folder[len(folder) - 1]
        assert all(word in str(caught.value) for word in words)


def test_an_unreadable_mask_is_named(tmp_path: Path) -> None:
    (simple(tmp_path) / "train/labels/train0.png").write_bytes(b"")
    refused(tmp_path, "train0.png", "empty file")


def test_a_changed_mask_is_read_anew(tmp_path: Path) -> None:
    simple(tmp_path)
    assert len(open_folder(tmp_path, "train").labels) == 3
    mask(tmp_path / "train/labels/train0.png", PLAIN + 1)
    os.utime(tmp_path / "train/labels/train0.png", ns=(1, 1))
    assert len(open_folder(tmp_path, "train").labels) == 4


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"{CAMVID} is not there (set FULLCONV_SHARED_DATA)")
def test_camvid_opens_as_a_plain_folder() -> None:
    train, val = open_folder(CAMVID, "train"), open_folder(CAMVID, "val")
    assert (len(train), len(val)) == (367, 101)
    assert isinstance(train, Folder) and len(train.labels) == 11 and train.labels == val.labels
    sample = val[0]
    assert sample.image.shape == (360, 480, 3) and sample.label.shape == (360, 480)
    assert set(np.unique(sample.label)) <= {*range(11), 255}
