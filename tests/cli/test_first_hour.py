"""From a fresh folder to a first net by one command, with no file to write: masks of 0/255, of colours, with gaps."""

import json

import numpy as np
import pytest
from PIL import Image

import fullconv
from fullconv.cli.command import main
from fullconv.labels import voc_colour

NET = ["--backbone", "vgg11", "--stride", "16", "--width", "0.03125", "--native-size", "32", "--steps", "1"]
COLOURS = [(0, 0, 0), (10, 200, 30), (250, 0, 120)]


def call(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def folder(root, coded, images=6):
    """Photographs and masks without splits; `coded` makes the picture of a mask from class indices 0 to 2."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for n in range(images):
        rng = np.random.default_rng(n)
        truth = rng.integers(0, 3, (4, 5)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(root / "images" / f"{n}.jpg")
        Image.fromarray(coded(truth)).save(root / "masks" / f"{n}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "coded, advice, flags, names",
    [
        (lambda t: np.where(t > 0, 255, 0).astype(np.uint8), "--map 255=1", ["--map", "255=1"], ("class0", "class1")),
        (lambda t: np.array([voc_colour(k) for k in range(3)], np.uint8)[t], "--colors voc", ["--colors", "voc"],
         ("class0", "class1", "class2")),
        (lambda t: np.array(COLOURS, np.uint8)[t], "--colors auto", ["--colors", "auto"],
         ("background", "#0ac81e", "#fa0078")),
    ],
)  # fmt: skip
def test_the_error_says_the_flag_and_the_flag_is_enough(tmp_path, capsys, coded, advice, flags, names):
    root = folder(tmp_path / "photos", coded)
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "run", *NET)
    assert code == 2 and advice in err
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "run", *NET, *flags)
    assert code == 0, err
    assert fullconv.load(tmp_path / "run" / "model.safetensors").labels.names == names
    assert (tmp_path / "run" / "split.json").is_file()
    assert call(capsys, "evaluate", tmp_path / "run" / "model.safetensors", root, *flags)[0] == 0


def test_pairs_that_are_none_can_be_left_out(tmp_path, capsys):
    root = folder(tmp_path / "photos", lambda t: t)
    (root / "masks" / "3.png").unlink()
    (root / "images" / "5.jpg").unlink()
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "run", *NET)
    assert code == 2 and "--skip-unpaired" in err and "3.jpg" in err
    assert call(capsys, "train", root, "--out", tmp_path / "run", *NET, "--skip-unpaired")[0] == 0
    for file in root.glob("masks/*"):
        file.unlink()
    assert call(capsys, "train", root, "--out", tmp_path / "no", *NET, "--skip-unpaired")[0] == 2


def test_too_many_colours_are_no_classes(tmp_path, capsys):
    root = folder(
        tmp_path / "photos", lambda t: np.random.default_rng(0).integers(0, 99, (*t.shape, 3), dtype=np.uint8)
    )
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "run", *NET, "--colors", "auto")
    assert code == 2 and "for 2 to 64" in err


@pytest.mark.parametrize("flags, words", [(["--map", "x"], "VALUE=CLASS"), (["--colors", "rgb"], "voc or auto")])
def test_flags_that_say_nothing(tmp_path, capsys, flags, words):
    root = folder(tmp_path / "photos", lambda t: t)
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "run", *NET, *flags)
    assert code == 2 and words in err


def test_flags_for_folders_are_for_folders(tmp_path, capsys):
    code, _, err = call(capsys, "train", "digits", "--out", tmp_path / "run", *NET, "--map", "255=1")
    assert code == 2 and "for folders" in err


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["labelme", "coco", "cvat"])
def test_what_people_drew_is_trained_on_as_it_is(tmp_path, capsys, layout):
    """Polygons of six photographs without a split: a net and masks, nothing converted, no file written there."""
    root = tmp_path / "photos"
    root.mkdir()
    shapes = [("cell", [[2, 2], [30, 4], [16, 28]]), ("wall", [[20, 10], [38, 10], [38, 30], [20, 30]])]
    for n in range(6):
        noise = np.random.default_rng(n).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        folder = root if layout == "labelme" else root / "images"
        folder.mkdir(exist_ok=True)
        Image.fromarray(noise).save(folder / f"{n}.jpg")
    for path, content in _annotations(layout, shapes).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "run", *NET)
    assert code == 0, err
    model = tmp_path / "run" / "model.safetensors"
    assert fullconv.load(model).labels.names == ("background", "cell", "wall")
    assert call(capsys, "evaluate", model, root)[0] == 0
    images = root if layout == "labelme" else root / "images"
    assert call(capsys, "predict", model, images, "--out", tmp_path / "masks", "--overlay")[0] == 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 6
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    code, _, err = call(capsys, "train", root, "--out", tmp_path / "no", *NET, "--map", "255=1")
    assert code == 2 and "polygons" in err


def _annotations(layout, shapes):
    """The files of a layout, by their paths: every image has the same shapes."""
    if layout == "labelme":
        return {
            f"{n}.json": json.dumps(
                {
                    "imagePath": f"{n}.jpg", "imageData": None, "imageHeight": 32, "imageWidth": 40,
                    "shapes": [{"label": k, "points": p, "shape_type": "polygon", "flags": {}} for k, p in shapes],
                }
            )
            for n in range(6)
        }  # fmt: skip
    if layout == "coco":
        names = {"cell": 1, "wall": 2}
        objects = [
            {"id": 10 * n + k, "image_id": n, "category_id": names[name], "iscrowd": 0,
             "segmentation": [[c for xy in points for c in xy]], "area": 1, "bbox": [0, 0, 1, 1]}
            for n in range(6) for k, (name, points) in enumerate(shapes)
        ]  # fmt: skip
        images = [{"id": n, "file_name": f"{n}.jpg", "height": 32, "width": 40} for n in range(6)]
        categories = [{"id": number, "name": name} for name, number in names.items()]
        return {"annotations.json": json.dumps({"images": images, "annotations": objects, "categories": categories})}
    drawn = "".join(
        f'<polygon label="{name}" occluded="0" z_order="0" points="{";".join(f"{x},{y}" for x, y in points)}"/>'
        for name, points in shapes
    )
    images = "".join(f'<image id="{n}" name="{n}.jpg" width="40" height="32">{drawn}</image>' for n in range(6))
    return {"annotations.xml": f"<annotations><version>1.1</version>{images}</annotations>"}
