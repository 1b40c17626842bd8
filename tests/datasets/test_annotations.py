"""Polygons open as they were drawn, are painted pixel by pixel by one rule, or one line says why not."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support import drawn
from tests.support.drawn import NONE, SHAPES, SIZE, SPLIT_LAYOUTS, TRAIN, VAL, WHOLE_LAYOUTS, cvat_image, photo, write

from fullconv.datasets.annotations import rasterize as outlines
from fullconv.datasets.annotations.annotation_dataset import Polygons, open_polygons
from fullconv.datasets.annotations.coco import decode_counts
from fullconv.datasets.annotations.discover import find_polygons
from fullconv.datasets.annotations.rasterize import Ellipse, Rings, rasterize, runs_of
from fullconv.errors import UsageError


def opened(root: Path, split: str = "train") -> Polygons:
    layout = find_polygons(root)
    assert layout is not None
    return open_polygons(layout, split)


def refused(root: Path, *words: str, split: str = "train", sample: bool = False) -> None:
    with pytest.raises(UsageError) as caught:
        dataset = opened(root, split)
        if sample:
            _ = [dataset[i] for i in range(len(dataset))]
    message = str(caught.value)
    assert message.isprintable() and ": " in message and "; " in message
    for word in words:
        assert word in message, message


def labels(root: Path, splits: tuple[str, ...] = ("train", "val")) -> dict[str, np.ndarray]:
    """The label of every image by its name."""
    datasets = [opened(root, split) for split in splits]
    samples = [dataset[i] for dataset in datasets for i in range(len(dataset))]
    return {sample.name: sample.semantic for sample in samples}


# -- the rule ----------------------------------------------------------------------------------------------------------

COORDINATE = st.integers(-24, 64).map(lambda n: n / 4)
RING = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9)
FREE = st.floats(-1e3, 1e3, width=32)


def inside(rings: list[list[tuple[float, float]]], row: int, column: int) -> bool:
    """Whether a ray from the centre to the left meets an odd number of edges, in exact numbers."""
    x, y, odd = Fraction(2 * column + 1, 2), Fraction(2 * row + 1, 2), False
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            a, b, c, d = map(Fraction, (x0, y0, x1, y1))
            if (b <= y) != (d <= y):
                odd ^= a + (y - b) * (c - a) / (d - b) <= x
    return odd


def rings_of(rings: list[list[tuple[float, float]]]) -> Rings:
    return Rings(tuple(np.array(ring, float) for ring in rings))


@settings(max_examples=120)
@given(st.lists(RING, min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 11))
def test_a_pixel_belongs_to_a_polygon_if_its_centre_does(rings: list, height: int, width: int) -> None:
    expected = [[inside(rings, y, x) for x in range(width)] for y in range(height)]
    np.testing.assert_array_equal(rasterize([(rings_of(rings), 1)], (height, width)), expected)


@given(st.lists(st.tuples(FREE, FREE), min_size=3, max_size=6))
def test_any_numbers_give_the_same_in_bands_reversed_and_turned_round(ring: list) -> None:
    size = (40, 30)
    whole = rasterize([(rings_of([ring]), 1)], size)
    np.testing.assert_array_equal(rasterize([(rings_of([ring[::-1]]), 1)], size), whole)
    np.testing.assert_array_equal(rasterize([(rings_of([ring[1:] + ring[:1]]), 1)], size), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "BAND", 5)
        np.testing.assert_array_equal(rasterize([(rings_of([ring]), 1)], size), whole)


@given(st.tuples(FREE, FREE), st.tuples(FREE, FREE))
def test_neighbours_leave_no_gap_and_share_no_pixel(one: tuple, other: tuple) -> None:
    """A line cuts a frame about the image in two."""
    left, right = rings_of([[one, other, (-2e3, 2e3), (-2e3, -2e3)]]), rings_of([[other, one, (3e3, 1e3)]])
    rest = rings_of([[(-2e3, -2e3), (-2e3, 2e3), other, (3e3, 1e3), one]])
    painted = [rasterize([(part, 1)], (30, 30)) for part in (left, right, rest)]
    np.testing.assert_array_equal(painted[0] ^ painted[1], painted[2])


def test_area_zero_is_nothing_and_a_hole_is_one() -> None:
    assert not rasterize([(rings_of([[(0, 0), (9, 9), (4.5, 4.5)]]), 1)], (9, 9)).any()
    assert not rasterize([(Ellipse(3, 3, 0, 5), 1)], (9, 9)).any()
    square, hole = [(0, 0), (6, 0), (6, 6), (0, 6)], [(2, 2), (4, 2), (4, 4), (2, 4)]
    label = rasterize([(rings_of([square, hole]), 3)], (7, 7), ground=1)
    assert (label == 3).sum() == 32 and (label[2:4, 2:4] == 1).all() and rings_of([square]).area == 36


@given(
    st.floats(-5, 20), st.floats(-5, 20), st.floats(0.1, 15), st.floats(0.1, 15), st.floats(-400, 400, allow_nan=False)
)
def test_an_ellipse(x: float, y: float, first: float, second: float, turn: float) -> None:
    down, right = np.indices((12, 14)) + 0.5 - np.array([y, x])[:, None, None]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    reach = ((right * c + down * s) / first) ** 2 + ((down * c - right * s) / second) ** 2
    clear = np.abs(reach - 1) > 1e-6
    label = rasterize([(Ellipse(x, y, first, second, turn), 1)], (12, 14))
    np.testing.assert_array_equal(label[clear], (reach <= 1)[clear])


MASK = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda size: st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda bits: np.array(bits).reshape(size)
    )
)


@given(MASK, st.booleans(), st.integers(-9, 9), st.integers(-9, 9))
def test_run_lengths_come_round(mask: np.ndarray, by_column: bool, top: int, left: int) -> None:
    runs = runs_of(mask, by_column, top, left)
    np.testing.assert_array_equal(runs.bitmap(), mask)
    assert runs.area == mask.sum()
    expected = np.zeros((30, 30), bool)
    expected[10 + top : 10 + top + mask.shape[0], 10 + left : 10 + left + mask.shape[1]] = mask
    np.testing.assert_array_equal(rasterize([(runs, 1)], (10, 10)), expected[10:20, 10:20])


def compressed(counts: list[int]) -> str:
    """COCO's text, written as its own tools do it, a number at a time."""
    text = ""
    for i, count in enumerate(counts):
        number, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            five, number = number & 31, number >> 5
            more = number != (-1 if five & 16 else 0)
            text += chr(five + 32 * more + 48)
    return text


@given(st.lists(st.integers(0, 2**28), min_size=1, max_size=12))
def test_compressed_run_lengths_come_round(counts: list[int]) -> None:
    assert decode_counts(compressed(counts)).tolist() == counts


@given(st.text() | st.text("0123456789PQRSTUVWXYZ`abcdefghijklmno"))
def test_any_text_is_run_lengths_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert len(decode_counts(text))


# -- layouts -----------------------------------------------------------------------------------------------------------


def expected(shapes: drawn.Shapes) -> np.ndarray:
    value = {"cell": 1, "wall": 2, "void": 255}
    return rasterize([(rings_of([points]), value[label]) for label, points in shapes], SIZE)


@pytest.mark.parametrize("layout", SPLIT_LAYOUTS)
def test_splits_as_given(layout: str, tmp_path: Path) -> None:
    for split, drawings in (("train", TRAIN), ("val", VAL), ("test", {"d": NONE})):
        drawn.lay(tmp_path, SPLIT_LAYOUTS[layout], drawings, split)
    found = find_polygons(tmp_path)
    assert found and found.names == ("train", "val", "test") and found.kind == SPLIT_LAYOUTS[layout][0]
    for split, drawings in (("train", TRAIN), ("val", VAL), ("test", {"d": NONE})):
        dataset = opened(tmp_path, split)
        assert [name for name, _, _ in dataset.pairs] == list(drawings) and len(dataset) == len(drawings)
        assert dataset.labels.names == ("background", "cell", "wall") and dataset.split_made is None
        assert dataset == pickle.loads(pickle.dumps(dataset)) and dataset.notes == ()
        for i, shapes in enumerate(drawings.values()):
            sample = pickle.loads(pickle.dumps(dataset))[i]
            assert sample.image.shape == (*SIZE, 3) and sample.label.dtype == np.uint8
            np.testing.assert_array_equal(sample.label, expected(shapes))
    refused(tmp_path, "no split 'trial'", "One of: train, val, test", split="trial")


@pytest.mark.parametrize("layout", WHOLE_LAYOUTS)
def test_a_split_is_made(layout: str, tmp_path: Path) -> None:
    drawn.lay(tmp_path, WHOLE_LAYOUTS[layout], SHAPES)
    train, val = opened(tmp_path), opened(tmp_path, "val")
    assert (len(train), len(val)) == (2, 1) and train.split_made and train.split_made == val.split_made
    assert train.labels == val.labels
    for name, label in labels(tmp_path).items():
        np.testing.assert_array_equal(label, expected(SHAPES[name]))


def test_masks_are_not_stolen_and_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    for name in ("no", "empty", "photos/a.png", "readme/settings.json"):
        if "." in name:
            photo(tmp_path / name) if name.endswith("png") else write(tmp_path / name, {"a": 1})
    (tmp_path / "empty").mkdir()
    assert all(find_polygons(tmp_path / name) is None for name in ("no", "empty", "photos", "readme", "photos/a.png"))
    drawn.labelme(tmp_path / "m", SHAPES, "images", "images")
    drawn.coco(tmp_path / "m", "annotations.json", "images")
    for name in SHAPES:
        photo(tmp_path / "m/labels" / f"{name}.png")
    assert find_polygons(tmp_path / "m") is None
    for name in SHAPES:
        (tmp_path / "m/labels" / f"{name}.png").unlink()  # the folder is left, without a mask in it
    found = find_polygons(tmp_path / "m")
    assert found and found.kind == "coco"


def test_other_names_of_val_and_the_subsets_of_cvat(tmp_path: Path) -> None:
    drawn.coco(tmp_path / "r", "train/_annotations.coco.json", "train", TRAIN)
    drawn.coco(tmp_path / "r", "valid/_annotations.coco.json", "valid", VAL)
    assert list(labels(tmp_path / "r", ("val",))) == ["b"]
    drawn.cvat(tmp_path / "x", images="images/Train")
    refused(tmp_path / "x", "3 images not found")
    text = drawn.cvat_document(SHAPES).replace("<image ", "<image subset='Train' ")
    write(tmp_path / "x/annotations.xml", text)
    assert set(labels(tmp_path / "x")) == set(SHAPES)


@pytest.mark.parametrize("layout", ["labelme beside", "coco official", "cvat"])
def test_val_opens_without_the_images_of_train(layout: str, tmp_path: Path) -> None:
    drawn.lay(tmp_path, SPLIT_LAYOUTS[layout], TRAIN)
    drawn.lay(tmp_path, SPLIT_LAYOUTS[layout], VAL, "val")
    for path in (path for path in tmp_path.rglob("[ac].png")):
        path.unlink()
    assert opened(tmp_path, "val").labels.names == ("background", "cell", "wall")
    np.testing.assert_array_equal(labels(tmp_path, ("val",))["b"], expected(SHAPES["b"]))
    refused(tmp_path, "a.png", "not ")


def test_two_files_for_one_split(tmp_path: Path) -> None:
    drawn.coco(tmp_path, "annotations/instances_train2014.json", "train2014")
    drawn.coco(tmp_path, "annotations/instances_train2017.json", "train2017")
    with pytest.raises(UsageError, match="the split 'train' is in"):
        find_polygons(tmp_path)


# -- classes -----------------------------------------------------------------------------------------------------------


def test_names_from_classes_yaml(tmp_path: Path) -> None:
    drawn.labelme(tmp_path, TRAIN, "train", "train")
    drawn.labelme(tmp_path, {"d": [("door", SHAPES["a"][0][1])]}, "val", "val")
    refused(tmp_path, "d.json: shape 0", "'door'", "the training annotations", split="val")
    for text in ("names: [wall, cell, door]", "names: [background, wall, cell, door]"):
        write(tmp_path / "classes.yaml", text)
        assert opened(tmp_path).labels.names == ("background", "wall", "cell", "door")
        assert labels(tmp_path, ("val",))["d"].max() == 3
    write(tmp_path / "classes.yaml", "names: [wall, cells, door]")
    refused(tmp_path, "a.json: shape 0", "'cell'", "did you mean 'cells'?", "classes.yaml")
    write(tmp_path / "classes.yaml", "classes: [{name: wall, color: [1, 2, 3]}, cell]")
    assert opened(tmp_path).labels.palette[:2] == ((0, 0, 0), (1, 2, 3))
    for text, word in (
        ("map: {1: 2}", "'map'"),
        ("void: 3", "'void'"),
        ("names: [cell, ignore]", "'ignore'"),
        ("names: [cell, background]", "class 0"),
    ):
        write(tmp_path / "classes.yaml", text)
        refused(tmp_path, "classes.yaml", word)


@pytest.mark.parametrize("word", ["void", "ignore", "_ignore_", "__ignore__", "unlabeled", "Void"])
@pytest.mark.parametrize("tool", ["labelme", "coco", "cvat"])
def test_words_that_are_void_and_background(word: str, tool: str, tmp_path: Path) -> None:
    big, small, least = ([[0, 0], [n, 0], [n, n], [0, n]] for n in (9, 5, 3))
    drawings = {name: [("cell", big), (word, small), ("_background_", least)] for name in "ab"}
    for name in drawings:
        photo(tmp_path / "images" / f"{name}.png")
    if tool == "labelme":
        drawn.labelme(tmp_path, drawings, "images", "images")
    elif tool == "coco":
        write(tmp_path / "annotations.json", drawn.coco_document(drawings, ("cell", word, "_background_")))
    else:
        write(tmp_path / "annotations.xml", drawn.cvat_document(drawings, ("cell", word, "_background_")))
    label = labels(tmp_path)["a"]
    assert opened(tmp_path).labels.names == ("background", "cell")
    assert (label[0, 0], label[4, 4], label[8, 8], label[10, 10]) == (0, 255, 1, 0)


def test_order_and_number_of_classes(tmp_path: Path) -> None:
    drawings = dict.fromkeys("ab", SHAPES["a"])
    drawn.coco(tmp_path / "c", "annotations.json", "images", drawings)
    document = drawn.coco_document(drawings, ("wall", "zebra", "cell"))
    document["categories"].append({"id": 0, "name": "things", "supercategory": "none"})
    for category in document["categories"][:3]:
        category["supercategory"] = "things"
    write(tmp_path / "c/annotations.json", document)
    assert opened(tmp_path / "c").labels.names == ("background", "wall", "zebra", "cell")
    drawn.cvat(tmp_path / "x", drawings=drawings)
    write(tmp_path / "x/annotations.xml", drawn.cvat_document(drawings, ("wall", "zebra", "cell")))
    assert opened(tmp_path / "x").labels.names == ("background", "wall", "zebra", "cell")
    write(tmp_path / "x/annotations.xml", drawn.cvat_document(drawings, ()))
    assert opened(tmp_path / "x").labels.names == ("background", "cell", "wall")
    for count in (0, 254, 255):
        many = [(f"k{i:03}", SHAPES["a"][0][1]) for i in range(count)]
        drawn.labelme(tmp_path / str(count), {"a": many, "b": many})
    refused(tmp_path / "255", "255 classes", "from 1 to 254")
    refused(tmp_path / "0", "0 classes", "from 1 to 254")
    assert len(opened(tmp_path / "254").labels) == 255 and labels(tmp_path / "254")["a"].max() == 254


# -- LabelMe -----------------------------------------------------------------------------------------------------------


def one(root: Path, **changed: Any) -> Path:
    """Two images of LabelMe, the first with these values in its file."""
    drawn.labelme(root, {name: SHAPES[name] for name in "ac"})
    write(root / "a.json", {**drawn.labelme_document("a.png", SHAPES["a"]), **changed})
    return root


def shape(kind: str | None, points: object, label: object = "cell", **more: object) -> dict[str, object]:
    return {"label": label, "points": points, "shape_type": kind, **more}


def test_kinds_of_labelme(tmp_path: Path) -> None:
    mask = np.array([[1, 0, 1], [0, 1, 0]], np.uint8)
    stream = BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    kinds = [
        shape("rectangle", [[6, 4], [1, 1]]),
        shape("circle", [[10, 6], [10, 9]], "wall"),
        shape("mask", [[2, 1], [4, 2]], "wall", mask=text),
        shape(None, [[0, 9], [3, 9], [3, 12], [0, 12]], "wall"),
        shape("line", None), shape("point", 3, label=None), shape("linestrip", []), shape("point", []),
    ]  # fmt: skip
    one(tmp_path, shapes=kinds)
    label = labels(tmp_path)["a"]
    assert opened(tmp_path).notes == (
        "1 shape of the kind 'line' left out: no area",
        "1 shape of the kind 'linestrip' left out: no area",
        "2 shapes of the kind 'point' left out: no area",
    )
    np.testing.assert_array_equal(label[1:3, 2:5] == 2, mask)
    assert (label == 1).sum() == 15 - 3 and (label[9:, :3] == 2).all()
    assert (label[:9, 7:] == 2).sum() == 32  # centres within 3 of a corner of the grid


@pytest.mark.parametrize(
    "noted", ["..\\images\\a.png", "/home/x/a.png", "gone.jpg", None, "", "../../etc/passwd", "a.json"]
)
def test_the_image_of_a_labelme_file(noted: str | None, tmp_path: Path) -> None:
    dataset = opened(one(tmp_path, imagePath=noted))
    assert {path.name for _, path, _ in (*dataset.pairs, *opened(tmp_path, "val").pairs)} == {"a.png", "c.png"}


def test_an_image_inside_the_file(tmp_path: Path) -> None:
    one(tmp_path)
    pixels = (tmp_path / "a.png").read_bytes()
    shown = labels(tmp_path)["a"]
    one(tmp_path, imageData=base64.b64encode(pixels).decode())
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(labels(tmp_path)["a"], shown)
    for data, words in (("?", "not base64"), ("", "empty file"), ("YWFhYQ==", "imageData"), (7, "base64")):
        write(tmp_path / "a.json", {**drawn.labelme_document("a.png", SHAPES["a"]), "imageData": data})
        for split in ("train", "val"):
            name = {"train": "c", "val": "a"}[split]
            if data == 7 or opened(tmp_path, split).pairs[0][0] != name:
                refused(tmp_path, "a.json", words, split=split, sample=True)
    write(tmp_path / "a.json", drawn.labelme_document("a.png", SHAPES["a"]))
    refused(tmp_path, "a.json", "'a.png' is not there")


def test_sizes_that_differ(tmp_path: Path) -> None:
    for size, words in (((16, 12), ("EXIF", "16x12", "12x16")), ((9, 9), ("9x9", "12x16"))):
        for name in "ac":
            photo(one(tmp_path) / f"{name}.png", size)
        refused(tmp_path, ".json", *words, sample=True)
    photo(one(tmp_path) / "a.jpg", (16, 12), exif=(turned := Image.Exif()))
    turned[0x0112] = 6
    photo(tmp_path / "a.jpg", (16, 12), exif=turned)
    photo(tmp_path / "c.png")
    (tmp_path / "a.png").unlink()
    assert labels(tmp_path)["a"].shape == SIZE


TRIANGLE = [[1, 1], [5, 1], [5, 5]]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (shape("polygon", TRIANGLE[:2]), ("2 points",)),
        (shape("polygon", [[1, 1], [5, "1"], [5, 5]]), ("1 instead of a coordinate",)),
        (shape("polygon", [[1, 1], [5, True], [5, 5]]), ("true",)),
        (shape("polygon", [[1, 1], [float("nan"), 1], [5, 5]]), ("nan",)),
        (shape("polygon", [[1, 1], [float("inf"), 1], [5, 5]]), ("inf",)),
        (shape("polygon", [[1, 1], [10**400, 1], [5, 5]]), ("in no image",)),
        (shape("polygon", [[1, 1], [1, 1, 1], [5, 5]]), ("[x, y]",)),
        (shape("polygon", None), ("'points' is null",)),
        (shape("rectangle", TRIANGLE), ("a rectangle of 3",)),
        (shape("circle", TRIANGLE[:1]), ("1 points",)),
        (shape("rotated", TRIANGLE), ("'rotated' is not read",)),
        (shape(7, TRIANGLE), ("'7' is not read",)),
        (shape([], TRIANGLE), ("a list",)),
        (shape("mask", TRIANGLE[:2]), ("'mask' is null",)),
        (shape("mask", TRIANGLE[:2], mask="YQ=="), ("not an image",)),
        (shape("polygon", TRIANGLE, ""), ("'label'",)),
        (shape("polygon", TRIANGLE, "two\nlines"), (r"two\nlines",)),
        (shape("polygon", TRIANGLE, None), ("null",)),
        ("x", ("instead of an object",)),
    ],
)  # fmt: skip
def test_shapes_of_labelme_that_are_refused(bad: object, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(one(tmp_path, shapes=[shape("polygon", TRIANGLE), bad]), "a.json: shape 1", *words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"imageHeight": 0}, ("'imageHeight' is 0",)),
        ({"imageWidth": -3}, ("'imageWidth' is -3",)),
        ({"imageWidth": None}, ("null",)),
        ({"imageWidth": 10**8, "imageHeight": 10**8}, ("limit",)),
        ({"imagePath": 3}, ("'imagePath' is 3",)),
        ({"imagePath": "c.png"}, ("c.json", "c.png")),
        ({"shapes": {}}, ("'shapes' is an object",)),
    ],
)
def test_files_of_labelme_that_are_refused(changed: dict, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(one(tmp_path, **changed), *words)


# -- any file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("line 1 column 1",)),
        (b'{"things": [,]}', ("line 1 column 13",)),
        (b'{"things": "\xff"}', ("UTF-8",)),
        (b"[" * 100_000, ("nested too deeply",)),
        (b'{"a": ' * 100_000, ("nested too deeply",)),
        (b'{"things": [' + b"1" * 10_000 + b"]}", ("thousands of digits",)),
        (b'{"things": [], "things": []}', ("'things' occurs twice",)),
        (b'{"x": {"a\\nb": 1, "a\\nb": 2}}', (r"'a\nb' occurs twice",)),
        (b"[]", ("instead of an object",)),
    ],
)
@pytest.mark.parametrize("file", ["a.json", "_annotations.coco.json"])
def test_broken_json(content: bytes, words: tuple[str, ...], file: str, tmp_path: Path) -> None:
    drawn.labelme(tmp_path, {"a": NONE}) if file == "a.json" else drawn.coco(tmp_path, file, "")
    (tmp_path / file).write_bytes(content)
    refused(tmp_path, file, *words)


def test_files_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("labelme", "coco", "cvat"):
        monkeypatch.setattr(f"fullconv.datasets.annotations.{tool}.MAX_BYTES", 100)
    for i, root in enumerate((drawn.labelme(tmp_path / "l"), drawn.cvat(tmp_path / "x"))):
        refused(root, "more than 100 bytes", ("a.json", "annotations.xml")[i])
    refused(drawn.coco(tmp_path / "c", "annotations.json", "images"), "more than 100 bytes")


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -1, "a.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def spoiled(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    document = copy.deepcopy(document)
    inside = document
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return document


def either_way(root: Path) -> None:
    """A data set all of whose samples can be read, or one line."""
    for split in ("train", "val"):
        try:
            dataset = opened(root, split)
            for i in range(len(dataset)):
                assert dataset[i].semantic.max() <= 255
        except UsageError as error:
            assert str(error).isprintable() and "; " in str(error)


@pytest.fixture(scope="module")
def lain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("spoiled")
    drawn.labelme(root / "labelme", TRAIN)
    drawn.coco(root / "coco", "annotations.json", "images")
    drawn.cvat(root / "cvat")
    return lambda tool: root / tool


KINDS = [shape("rectangle", TRIANGLE[:2]), shape("circle", TRIANGLE[:2]), shape("mask", TRIANGLE[:2], mask="YQ==")]
LABELME = {**drawn.labelme_document("a.png", SHAPES["a"]), "imageData": "YQ=="}
COCO = drawn.coco_document(SHAPES)
COCO["annotations"][0] |= {"segmentation": {"size": list(SIZE), "counts": [100, 92]}}
COCO["annotations"][1] |= {"segmentation": {"size": list(SIZE), "counts": compressed([90, 2, 100])}, "iscrowd": 1}


@settings(max_examples=150)
@given(st.sampled_from(places({**LABELME, "shapes": [*LABELME["shapes"], *KINDS[:2]]})), ANY, st.integers(0, 3))
def test_any_value_in_a_labelme_file(lain: Callable[[str], Path], place: tuple, value: Any, kinds: int) -> None:
    document = {**LABELME, "shapes": [*LABELME["shapes"], *KINDS[:2]]}
    write(lain("labelme") / "a.json", spoiled(document, place, value))
    either_way(lain("labelme"))


@settings(max_examples=250)
@given(st.sampled_from(places(COCO)), ANY)
def test_any_value_in_a_coco_file(lain: Callable[[str], Path], place: tuple, value: Any) -> None:
    write(lain("coco") / "annotations.json", spoiled(COCO, place, value))
    either_way(lain("coco"))


CVAT = drawn.cvat_document(TRAIN).replace(
    "</image>",
    "<box label='cell' xtl='1' ytl='1' xbr='4' ybr='5' rotation='30'/>"
    "<ellipse label='wall' cx='1' cy='1' rx='4' ry='5'/>"
    "<mask label='cell' rle='1, 2, 3' left='2' top='3' width='3' height='2'/></image>",
)
PIECES = re.findall(r"'[^']*'|\"[^\"]*\"|<\w+|</?\w+>", CVAT)


@settings(max_examples=150)
@given(
    st.integers(0, len(PIECES) - 1),
    st.text(max_size=6) | st.sampled_from(["-1", "1e999", "nan", "٣", "1,2", "9" * 5000]),
)
def test_any_text_in_a_cvat_file(lain: Callable[[str], Path], number: int, text: str) -> None:
    piece = PIECES[number]
    plain = text.translate({ord(c): None for c in "<&'\""})
    new = f"{piece[0]}{plain}{piece[-1]}" if piece[0] in "'\"" else text
    (lain("cvat") / "annotations.xml").write_bytes(CVAT.replace(piece, new).encode("utf-8", "surrogatepass"))
    either_way(lain("cvat"))


# -- COCO --------------------------------------------------------------------------------------------------------------


def coco_with(root: Path, *segmentations: object, **changed: object) -> Path:
    """Two images; the first has these segmentations, each with a category of its own."""
    document = drawn.coco_document({"a": NONE, "b": NONE}, ("k0", "k1", "k2"))
    for name in "ab":
        photo(root / "images" / f"{name}.png")
    document["annotations"] = [
        {"image_id": 0, "category_id": 10 * i + 3, "segmentation": given, **changed}
        for i, given in enumerate(segmentations)
    ]
    write(root / "annotations.json", document)
    return root


def box(x: float, y: float, right: float, lower: float) -> list[float]:
    return [x, y, right, y, right, lower, x, lower]


def test_small_objects_stay_visible_and_parts_are_united(tmp_path: Path) -> None:
    coco_with(tmp_path, [box(2, 2, 4, 4)], [box(0, 0, 8, 8), box(6, 6, 10, 10)], [box(1, 1, 5, 5)])
    label = labels(tmp_path)["a"]
    assert (label[3, 3], label[1, 1], label[0, 0], label[7, 7], label[9, 9], label[11, 0]) == (1, 3, 2, 2, 2, 0)


def test_crowds_are_void_and_below_the_rest(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, bool)
    mask[:6, :5] = mask[10:, 12:] = True
    counts = runs_of(mask, by_column=True).counts.tolist()
    for written in (counts, compressed(counts)):
        root = coco_with(tmp_path, {"size": list(SIZE), "counts": written})
        np.testing.assert_array_equal(labels(root)["a"], mask)
        root = coco_with(tmp_path, {"size": list(SIZE), "counts": written}, [box(0, 0, 3, 12)])
        document = json.loads((root / "annotations.json").read_text())
        document["annotations"][0]["iscrowd"] = 1
        write(root / "annotations.json", document)
        label = labels(root)["a"]
        assert (label[:, :3] == 2).all()
        np.testing.assert_array_equal(label[:, 3:] == 255, mask[:, 3:])
        assert not labels(root)["b"].any()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ("a box alone",)),
        (None, ("'segmentation' is null",)),
        ([[1, 2, 3, 4]], ("2 points",)),
        ([[1, 2, 3, 4, 5, 6, 7]], ("3.5 points",)),
        ([1, 2, 3, 4, 5, 6], ("list of polygons",)),
        ({"size": [12, 17], "counts": [204]}, ("12x17", "12x16")),
        ({"size": [12, 16], "counts": [191]}, ("do not sum to 12x16",)),
        ({"size": [12, 16], "counts": [193, -1]}, ("'counts' is a list",)),
        ({"size": [12, 16], "counts": [192.0]}, ("'counts' is a list",)),
        ({"size": [12, 16], "counts": compressed([193, -1])}, ("do not sum",)),
        ({"size": [12, 16], "counts": "PPPPPPPPPPP"}, ("is not a run-length encoding",)),
        ({"size": [12, 16], "counts": "\U0001f600"}, ("is not a run-length encoding",)),
        ({"size": 3, "counts": ""}, ("size 3",)),
    ],
)
def test_segmentations_that_are_refused(given: object, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(coco_with(tmp_path, [box(1, 1, 5, 5)], given), "annotations.json: annotation 1", *words)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("images", 1, "file_name"), "../../etc/passwd", ("image 1", "leads out")),
        (("images", 1, "file_name"), "/etc/passwd", ("leads out",)),
        (("images", 1, "file_name"), "..\\x.png", ("leads out",)),
        (("images", 1, "file_name"), "C:\\x.png", ("leads out",)),
        (("images", 1, "file_name"), "x\nb.png", ("1 image not found", r"x\nb.png")),
        (("images", 1, "file_name"), "x" * 9999, ("1 image not found",)),
        (("images", 1, "file_name"), "a/" * 9999, ("1 image not found",)),
        (("images", 1, "file_name"), "images/a.png", ("occurs twice (image 0)",)),
        (("images", 1, "id"), 0, ("the id 0 occurs twice",)),
        (("images", 1, "height"), -1, ("image 1", "'height' is -1")),
        (("images",), [], ("no images",)),
        (("annotations", 0, "image_id"), 77, ("annotation 0", "no image has the id 77")),
        (("annotations", 0, "category_id"), 77, ("no category has the id 77",)),
        (("annotations", 0, "iscrowd"), 2, ("'iscrowd' is 2",)),
        (("categories", 0, "name"), "wall", ("'wall' occurs twice",)),
        (("categories", 0, "name"), "a\nb", ("category 0", "'name'", r"a\nb")),
    ],
)  # fmt: skip
def test_coco_files_that_are_refused(place: tuple, value: object, words: tuple[str, ...], tmp_path: Path) -> None:
    drawn.coco(tmp_path, "annotations.json", "images")
    write(tmp_path / "annotations.json", spoiled(drawn.coco_document(SHAPES), place, value))
    refused(tmp_path, "annotations.json", *words)


def test_images_of_one_stem_in_several_folders(tmp_path: Path) -> None:
    document = drawn.coco_document({"x/a": SHAPES["a"], "y/a": SHAPES["b"]})
    for name in "xy":
        photo(tmp_path / "images" / name / "a.png")
    write(tmp_path / "annotations.json", document)
    assert set(labels(tmp_path)) == {"x_a", "y_a"}
    photo(tmp_path / "images/x/a.jpg")
    document["images"][1]["file_name"] = "x\\a.jpg"
    write(tmp_path / "annotations.json", document)
    refused(tmp_path, "x/a.png and x/a.jpg")


# -- CVAT --------------------------------------------------------------------------------------------------------------


def cvat_with(root: Path, inner: str, before: str = "") -> Path:
    for name in "ab":
        photo(root / "images" / f"{name}.png")
    images = cvat_image("a.png", inner) + cvat_image("b.png", "<tag label='x'/>")
    write(root / "annotations.xml", f"{before}<annotations>{images}</annotations>")
    return root


def test_kinds_and_order_of_cvat(tmp_path: Path) -> None:
    shapes = (
        "<box label='k1' xtl='0' ytl='0' xbr='6' ybr='6' z_order='2'/>"
        "<polygon label='k2' points='0,0;9,0;9,9;0,9' z_order='-1'><attribute name='x'>1</attribute></polygon>"
        "<mask label='k3' rle='0, 3, 1, 2' left='10' top='2' width='3' height='2'/>"
        "<ellipse label='k2' cx='13' cy='9' rx='2' ry='1' z_order='2'/><polyline label='k9' points='nonsense'/>"
        "<polygon label='k3' points='5,5;8,5;8,8;5,8' z_order='2'/><points/>"
    )
    cvat_with(tmp_path, shapes)
    label = labels(tmp_path)["a"]
    assert opened(tmp_path).labels.names == ("background", "k1", "k2", "k3") and len(opened(tmp_path).notes) == 2
    assert (label[0, 0], label[8, 8], label[5, 5], label[6, 6], label[9, 12]) == (1, 2, 3, 3, 2)
    assert (label[2:4, 10:13] == [[3, 3, 3], [0, 3, 3]]).all()
    turned = cvat_with(tmp_path / "t", "<box label='k' xtl='2' ytl='4' xbr='10' ybr='6' rotation='90'/>")
    np.testing.assert_array_equal(np.argwhere(labels(turned)["a"]).min(0), [1, 5])
    assert labels(turned)["a"][1:9, 5:7].all() and labels(turned)["a"].sum() == 16


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("<polygon label='k' points='1,1;2,2'/>", ("2 points",)),
        ("<polygon label='k' points='1,1;2,nan;3,3'/>", ("2,nan", "a point is x,y")),
        ("<polygon label='k' points='1,1;1e999,2;3,3'/>", ("1e999",)),
        ("<polygon label='k' points='1,1;2;3,3'/>", ("a point is x,y",)),
        ("<polygon label='k' points='1_0,1;2,3;3,3'/>", ("1_0",)),
        ("<polygon label='k'/>", ("a point is x,y",)),
        ("<polygon points='1,1;2,2;3,3'/>", ("'label' is null",)),
        ("<polygon label='k' points='1,1;2,2;3,3' z_order='x'/>", ("'z_order' is x",)),
        ("<box label='k' xtl='5' ytl='0' xbr='2' ybr='6'/>", ("negative size",)),
        ("<box label='k' xtl='5' ytl='0' xbr='8'/>", ("'ybr'",)),
        ("<ellipse label='k' cx='5' cy='0' rx='-2' ry='6'/>", ("negative size",)),
        ("<mask label='k' rle='7' left='0' top='0' width='3' height='2'/>", ("3", "do not sum to 2x3")),
        ("<mask label='k' rle='6' left='14' top='0' width='3' height='2'/>", ("2x3 at x=14",)),
        ("<mask label='k' rle='6,x' left='1' top='0' width='3' height='2'/>", ("'rle'",)),
        ("<mask label='k' rle='6' left='1' top='0' width='-3' height='-2'/>", ("-2x-3",)),
        ("<cuboid label='k'/>", ("'cuboid' is not read",)),
    ],
)  # fmt: skip
def test_shapes_of_cvat_that_are_refused(inner: str, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(cvat_with(tmp_path, "<points/>" + inner), "annotations.xml: image 0: shape 1", *words)


LAUGHS = "<!DOCTYPE a [<!ENTITY a 'ha'>" + "".join(f"<!ENTITY a{i} '{'&a;' * 99}'>" for i in range(9)) + "]>"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LAUGHS + "<annotations>&a8;</annotations>", ("line 1", "DTD")),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><annotations/>", ("DTD",)),
        ("<annotations>&x;</annotations>", ("invalid XML", "undefined entity")),
        ("<annotations>\n<image", ("line 2 column",)),
        ("", ("no element",)),
        ("<html/>", ("'html' instead of",)),
        ("<?xml version='1.0' encoding='big5'?><annotations/>", ("encoding",)),
        ("<annotations>" + "<a>" * 99, ("nested too deeply",)),
        ("<annotations><track/></annotations>", ("video",)),
        ("<annotations/>", ("no images",)),
        ("<annotations><image name='../x.png' width='3' height='3'/></annotations>", ("leads out",)),
        ("<annotations><image name='x.png' width='3' height='3'/></annotations>", ("1 image not found", "x.png")),
        ("<annotations><image name='a.png' width='3' height='-3'/></annotations>", ("'height' is -3",)),
        ("<annotations><image name='a.png' width='3'/></annotations>", ("'height'",)),
        (f"<annotations>{cvat_image('a.png', '') * 2}</annotations>", ("a.png occurs twice (image 0)",)),
    ],
)  # fmt: skip
def test_cvat_files_that_are_refused(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    write(cvat_with(tmp_path, "") / "annotations.xml", content)
    refused(tmp_path, "annotations.xml", *words)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    refused(drawn.labelme(tmp_path, VAL), "one image cannot be split")
