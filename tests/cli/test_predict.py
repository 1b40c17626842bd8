"""Predict: which inputs become which outputs, what is left out, what is written beside the masks, what it cost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.support.predicting import checkpoint, image, names, predict, refused

import fullconv
from fullconv.errors import UsageError
from fullconv.inference.inputs import Input, gather, of_shard


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def photos(tmp_path):
    """Images in a folder and its subfolders, two of one stem, and a file that is none."""
    root = tmp_path / "photos"
    for seed, name in enumerate(("b.png", "a.jpg", "sub/a.png", "sub/deep/c.png", "twice.png", "twice.jpg")):
        image(root / name, seed=seed)
    (root / "note.txt").write_text("no image")
    return root


def masks(folder):
    return [name for name in names(folder) if name.endswith(".png")]


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_its_images_and_subfolders_only_when_asked(model, photos, tmp_path, capsys):
    predict(capsys, model, photos, "--out", tmp_path / "o")
    assert names(tmp_path / "o") == ["a.png", "b.png", "twice.jpg.png", "twice.png.png"]
    out = photos / "masks"  # inside what is searched: never an input
    for _ in range(2):
        said = predict(capsys, model, photos, "--out", out, "--recursive", "--overlay")
        assert masks(out) == ["a.png", "b.png", "sub/a.png", "sub/deep/c.png", "twice.jpg.png", "twice.png.png"]
        assert [row["name"] for row in said["written"]][-2:] == ["sub/a", "sub/deep/c"]
    assert (out / "sub" / "a.overlay.jpg").exists()


def test_patterns_are_those_of_a_shell(model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    predict(capsys, model, "*", "--out", tmp_path / "one")
    assert names(tmp_path / "one") == ["a.png", "b.png", "twice.jpg.png", "twice.png.png"]
    predict(capsys, model, "sub/**/c.png", "[b].*", "--out", tmp_path / "two")
    assert names(tmp_path / "two") == ["b.png", "c.png"]
    image(photos / "[b].png")  # a file of that name comes before the pattern
    assert [given.source for given in gather(["[b].png"], tmp_path / "o")] == ["[b].png"]
    assert "*.gif: no image or video fits this pattern" in refused(capsys, model, "*.gif", "--out", tmp_path / "o")


def test_a_list_is_read_as_people_write_it(photos, tmp_path):
    listed = photos / "some.txt"
    listed.write_bytes(b"\xef\xbb\xbfb.png\r\n\r\n  \nsub/a.png\r\nb.png\ntwice.jpg")
    found = gather([f"@{listed}"], tmp_path / "o")
    assert [given.name for given in found] == ["b", "a", "twice"]
    assert [Path(given.source) for given in found] == [photos / "b.png", photos / "sub/a.png", photos / "twice.jpg"]
    listed.write_text(f"\n{photos / 'b.png'}\nmissing\n")
    with pytest.raises(UsageError, match=r"some\.txt: line 3: missing: there is no such file; paths are from"):
        gather([f"@{listed}"], tmp_path / "o")
    listed.write_text("\n\n")
    with pytest.raises(UsageError, match=r"some\.txt: the list is empty"):
        gather([f"@{listed}"], tmp_path / "o")
    with pytest.raises(UsageError, match=r"none\.txt: no such file"):
        gather([f"@{tmp_path / 'none.txt'}"], tmp_path / "o")
    odd = image(photos / "\udce9.png")  # bytes that are no UTF-8
    listed.write_bytes(b"\xe9.png\n")
    assert [given.source for given in gather([f"@{listed}"], tmp_path / "o")] == [str(odd)]


def test_outputs_that_would_be_one_file_are_refused(model, photos, tmp_path, capsys):
    image(photos / "deep" / "a.jpg")
    line = refused(capsys, model, photos / "a.jpg", photos / "deep" / "a.jpg", "--out", tmp_path / "o")
    assert line.startswith("'a.jpg': two inputs have this name")
    image(photos / "b.probability.png")
    words = [model, photos / "b.png", photos / "b.probability.png", "--out", tmp_path / "o"]
    assert "its mask and another picture of 'b' would be one file" in refused(capsys, *words, "--probability")
    predict(capsys, *words)


def test_an_image_is_never_written_over(model, photos, capsys):
    before = (photos / "b.png").read_bytes()
    assert "b.png: the mask would take the place of the image" in refused(capsys, model, photos, "--out", photos)
    assert (photos / "b.png").read_bytes() == before


@pytest.mark.parametrize(
    "words, said",
    [
        ("--shard 0/2", "--shard 0/2: give which part of how many"),
        ("--shard 3/2", "--shard 3/2: give which part"),
        ("--shard two", "--shard two: give which part"),
        ("--scales 1,big", "--scales 1,big: give numbers with commas"),
        ("--scales 0,1", "scales 0.0: give sizes from 0.1 to 10"),
        ("--scales nan", "scales nan: give sizes"),
        ("--every 0", "--every 0: give 1 or more"),
        ("--shard 1/2 --ray local", "--ray: it divides the images by itself"),
        ("--submission comp6 --shard 1/2", "--submission: it needs all images"),
        ("--split val", "--split belongs to a published set"),
    ],
)
def test_wrong_flags_are_one_line(model, photos, tmp_path, capsys, words, said):
    assert said in refused(capsys, model, photos, "--out", tmp_path / "o", *words.split())


# -- parts -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text("abc", max_size=4), unique=True, max_size=30), st.integers(1, 9), st.randoms())
def test_the_parts_are_the_whole_and_share_nothing(stems, count, rng):
    inputs = [Input(stem, stem, lambda model: None) for stem in stems]
    shuffled = list(inputs)
    rng.shuffle(shuffled)
    parts = [of_shard(inputs, number, count) for number in range(1, count + 1)]
    assert sorted(given.name for part in parts for given in part) == sorted(stems)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for number, part in enumerate(parts, start=1):
        assert {given.name for given in of_shard(shuffled, number, count)} == {given.name for given in part}
        assert part == [given for given in inputs if given in part], "the order was changed"


def test_the_shards_write_what_one_run_writes(model, photos, tmp_path, capsys):
    whole = predict(capsys, model, photos, "--out", tmp_path / "whole", "--recursive")
    found = []
    for number in range(1, 4):
        said = predict(capsys, model, photos, "--out", tmp_path / "parts", "--recursive", "--shard", f"{number}/3")
        found += [row["name"] for row in said["written"]]
    assert sorted(found) == sorted(row["name"] for row in whole["written"])
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


# -- going on ----------------------------------------------------------------------------------------------------------


def test_only_what_is_whole_is_left_out(model, photos, tmp_path, capsys):
    out, flags = tmp_path / "o", ["--overlay", "--skip-existing"]
    predict(capsys, model, photos, "--out", out)
    again = predict(capsys, model, photos, "--out", out, "--skip-existing")
    assert (len(again["written"]), again["skipped"]) == (0, 4)
    assert len(predict(capsys, model, photos, "--out", out, *flags)["written"]) == 4  # the overlays were not there
    good = {name: (out / name).read_bytes() for name in names(out)}
    (out / "a.png").write_bytes(good["a.png"][:-9])
    (out / "b.overlay.jpg").write_bytes(bytes(len(good["b.overlay.jpg"])))
    (out / "twice.jpg.png").write_bytes(b"")
    again = predict(capsys, model, photos, "--out", out, *flags)
    assert ([row["name"] for row in again["written"]], again["skipped"]) == (["a", "b", "twice.jpg"], 1)
    assert {name: (out / name).read_bytes() for name in names(out)} == good


def test_one_that_cannot_be_written_ends_the_run(model, photos, tmp_path, capsys):
    (tmp_path / "o" / "b.png" / "in the way").mkdir(parents=True)
    assert "b.png: cannot be written" in refused(capsys, model, photos, "--out", tmp_path / "o", code=1)
    assert not [name for name in names(tmp_path / "o") if name.endswith(".tmp")]


# -- confidence --------------------------------------------------------------------------------------------------------


def test_probability_and_entropy_are_those_of_the_library(model, photos, tmp_path, capsys):
    said = predict(capsys, model, photos, "--out", tmp_path / "o", "--probability", "--entropy")
    predictor = fullconv.load(model)
    for row in said["written"]:
        found = predictor(row["input"])
        for kind in ("probability", "entropy"):
            picture = np.asarray(Image.open(row[kind]))
            assert picture.dtype == np.uint8 and picture.shape == found.prediction.shape
            assert np.abs(picture / 255 - getattr(found, kind)).max() <= 0.5 / 255 + 1e-6


def test_the_mean_of_several_passes_is_that_of_the_library(model, photos, tmp_path, capsys):
    from fullconv.inference.tta import Augmented

    said = predict(capsys, model, photos / "a.jpg", "--out", tmp_path / "o", "--flip", "--scales", "0.5,1", "--entropy")
    found = Augmented(fullconv.load(model), (0.5, 1), flip=True)(photos / "a.jpg")
    assert (np.asarray(Image.open(said["written"][0]["output"])) == found.prediction).all()
    kinds = {"reading", "network", "flip", "scales", "labels", "entropy", "writing"}
    assert set(said["seconds"]) == kinds and all(spent > 0 for spent in said["seconds"].values())
    plain = predict(capsys, model, photos / "a.jpg", "--out", tmp_path / "o2")
    assert set(plain["seconds"]) == {"reading", "network", "labels", "writing"}
    assert 0 < plain["net_busy"] <= 1 and plain["images_per_second"] > 0


def test_what_it_cost_is_said_at_the_end(model, photos, tmp_path, capsys):
    from tests.support.predicting import call

    code, _, err = call(capsys, "predict", model, photos, "--out", tmp_path / "o", "--probability")
    assert code == 0
    assert "4 of 4 written to" in err and "images/s; the net was at work" in err
    for what in ("reading", "network", "probability", "writing"):
        assert f"{what} 0." in err


# -- what it needs -----------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import subprocess
import sys
import numpy as np
from types import SimpleNamespace
from fullconv.cli.command import main
from fullconv.inference import request
from fullconv.config import InputConvention
from fullconv.io.image import read_image
from fullconv.inference.exported import ExportedPredictor as Exported
from fullconv.labels import LabelSpace
from fullconv.inference.coarse_scores import CoarseScores; from fullconv.inference.segmentation import Segmentation

class Light(Exported):
    def __init__(self):
        pass

    labels = LabelSpace.of(["dark", "light"])
    header = SimpleNamespace(input=InputConvention())
    read = staticmethod(read_image)

    def __call__(self, image):
        light = image.mean(2, dtype=np.float32)
        return Segmentation(image, CoarseScores.of_logits(np.stack([255 - light, light]) / 99), self.labels)

request.load_model = lambda *words: Light()
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert not left.code
assert "torch" not in sys.modules
"""


def test_a_model_that_needs_no_torch_is_predicted_without_it(photos, tmp_path):
    words = [
        "predict",
        "model.onnx",
        photos,
        "--out",
        tmp_path / "o",
        "--overlay",
        "--probability",
        "--entropy",
        "--flip",
    ]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, words)], check=True)
    assert len(names(tmp_path / "o")) == 4 * 4
