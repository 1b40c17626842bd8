"""Images of any size in the memory of the plan: labels as of the whole, files as written at once."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.large_images import CLASSES, photo, predictor_of
from torch import nn

from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.errors import RunError, UsageError
from fullconv.inference.large_image.plan import fits_easily, memory_of_whole, plan, reach
from fullconv.inference.large_image.predict_file import described, is_ordinary, labels_of, predict_file
from fullconv.inference.large_image.strips import labels_by_strip, memory_of_strip
from fullconv.inference.large_image.tiles import along
from fullconv.inference.large_image.tiling_options import TilingOptions
from fullconv.inference.predictor import Predictor
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label_values
from fullconv.io.windowed import Decoded, open_source
from fullconv.labels import LabelSpace
from fullconv.profiling import process_memory
from fullconv.weights import checkpoint
from fullconv.weights.checkpoint import Header


def gathered(found, task="semantic"):
    return np.concatenate([rows[task] for rows in found])


def assert_labels(found, scores):
    """Equal where the best score is the best by more than rounding."""
    top = np.sort(scores.logits(), 0)[-2:]
    sure = top[1] - top[0] > 1e-4 * np.abs(top).max()
    assert sure.mean() > 0.9
    assert (found == scores.prediction())[sure].all()


@pytest.mark.parametrize("backbone, stride, more", [
    ("vgg11", 8, {}), ("vgg11", 32, {"padding": "paper"}), ("vgg11", 16, {"geometric_classes": 2}),
    ("alexnet", 8, {}), pytest.param("mobilenet_v2", 8, {"width": 0.25}, marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("rows, columns", [(32, 1), (100, 2), (300, 3)])
def test_labels_by_strips_are_those_of_the_whole(backbone, stride, more, rows, columns):
    predictor = predictor_of(backbone, stride, **more)
    image = photo(150, 1100)
    places = along(1100, -(-1100 // columns), reach(predictor))
    assert columns == 1 or len(places) > 1 or backbone == "mobilenet_v2"
    whole = predictor.coarse(image)
    found = list(labels_by_strip(predictor, Decoded(image), rows, places))
    for task, scores in whole.items():
        assert_labels(gathered(found, task), scores)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5)])
@pytest.mark.parametrize("tile", ["auto", pytest.param(64, marks=pytest.mark.slow)])
def test_slivers(tmp_path, size, tile):
    predictor, image = predictor_of(), photo(*size)
    Image.fromarray(image).save(tmp_path / "a.png")
    facts = predict_file(predictor, tmp_path / "a.png", tmp_path, "out", TilingOptions(tile=tile), overlay=True)
    assert_labels(read_label_values(tmp_path / "out.png"), predictor.coarse(image)["semantic"])
    assert (facts.plan.height, facts.plan.width) == size
    for rows in (1, 64):
        found = labels_by_strip(predictor, Decoded(image), rows, along(size[1], 64, reach(predictor)))
        assert_labels(gathered(found), predictor.coarse(image)["semantic"])


def test_in_half_precision_too():
    predictor, image = predictor_of(precision="bf16"), photo(200, 120)
    found = gathered(labels_by_strip(predictor, Decoded(image), 64, along(120, 120, reach(predictor))))
    assert (found == predictor.coarse(image)["semantic"].prediction()).mean() > 0.99


@pytest.mark.slow
def test_auto_takes_what_memory_allows():
    predictor = predictor_of("mobilenet_v2", width=1)
    assert plan(predictor, 100, 100, budget=10**9).way == "whole"
    found = plan(predictor, 10_000, 10_000, budget=10**9)
    assert found.way == "strips" and found.bytes <= 10**9 and len(found.tiles) == 1 and found.seen == 1
    assert "exactly the whole" in str(found) and str(found).endswith("at most")
    wide = plan(predictor, 10_000, 50_000, budget=10**9)
    assert wide.way == "strips" and wide.bytes <= 10**9 and len(wide.tiles) > 1 and 1 < wide.seen < 1.5
    assert "side by side" in str(wide) and "more pixels than the image" in str(wide)


@pytest.mark.parametrize("tile", ["auto", 64, 1000])
@pytest.mark.parametrize("budget", [150, 300, 1000])
def test_plans_keep_to_their_budget_and_more_memory_makes_larger_ones(tile, budget):
    predictor = predictor_of(upsample="learn-all")  # which strips do not run
    if tile == "auto":
        found = plan(predictor, 3000, 3000, tile, budget=budget * 10**6)
        assert found.way in ("tiles", "whole") and found.bytes <= budget * 10**6 and not found.uncertain
        assert found.seen >= plan(predictor, 3000, 3000, tile, budget=2 * budget * 10**6).seen
    else:
        found = plan(predictor, 3000, 3000, tile, budget=budget * 10**6)
        assert found.way == "tiles" and found.rows >= tile


@pytest.mark.slow
def test_too_little_memory_is_one_line_before_anything_is_done(tmp_path, monkeypatch):
    predictor = predictor_of("mobilenet_v2", width=1)
    with pytest.raises(RunError, match=r"image of 10000x10000: \d+ MB at least are needed, and there are 40 MB for it; "
                                       r"free memory or raise --memory, or take a smaller net"):  # fmt: skip
        plan(predictor, 10_000, 10_000, budget=40 * 10**6)
    Image.fromarray(photo(300, 300)).save(tmp_path / "a.png")
    with pytest.raises(RunError, match=r"--memory: 1 byte.* less than the \d.* that the process has with its net"):
        predict_file(predictor, tmp_path / "a.png", tmp_path, "out", TilingOptions(memory=1))
    most = process_memory.resident() + 100_000
    with pytest.raises(RunError, match=r"a.png: 630 kB are needed to decode 300x300 pixels, and there are \d+"):
        monkeypatch.setattr(process_memory, "resident", lambda: most - 100_000)
        predict_file(predictor, tmp_path / "a.png", tmp_path, "out", TilingOptions(memory=most))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    Image.fromarray(photo(300, 300)).save(tmp_path / "a.png")
    with pytest.raises(RunError, match=r"out.png: cannot be written \(No such file or directory\); check the folder"):
        predict_file(predictor_of(), tmp_path / "a.png", tmp_path / "missing", "out", TilingOptions(tile=64))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_two_heads_and_overlays_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("fullconv.inference.large_image.predict_file.OVERLAY", 10_000)
    predictor, image = predictor_of(geometric_classes=2), photo(700, 90)
    Image.fromarray(image).save(tmp_path / "a.png")
    seen = []
    facts = predict_file(predictor, tmp_path / "a.png", tmp_path, "out", TilingOptions(tile=64), overlay=True,
                         progress=lambda done, rows: seen.append((done, rows)))  # fmt: skip
    for task, ending in (("semantic", ""), ("geometric", ".geometric")):
        assert_labels(read_label_values(tmp_path / f"out{ending}.png"), predictor.coarse(image)[task])
        assert read_image(tmp_path / f"out{ending}.overlay.jpg").shape == (234, 30, 3)
    assert facts.reduced == 3
    assert len(seen) > 1 and seen[-1] == (700, 700)
    said = json.loads(json.dumps(described(facts)))
    assert said["way"] == "tiles" and said["overlay_reduced"] == 3 and said["output.geometric"].endswith(".png")
    assert set(said["classes"]) == {
        predictor.labels.names[k] for k in np.unique(read_label_values(tmp_path / "out.png"))
    }


def test_a_small_halo_says_what_may_differ_and_what_does(tmp_path):
    predictor, image = predictor_of(), photo(700, 700)
    Image.fromarray(image).save(tmp_path / "a.png")
    facts = predict_file(predictor, tmp_path / "a.png", tmp_path, "out", TilingOptions(tile=160, halo=64))
    differ, compared = facts.differ
    assert 0 < differ < compared == 2 * 64 * 64
    whole, found = predictor.coarse(image)["semantic"].prediction(), read_label_values(tmp_path / "out.png")
    assert 0 < (whole != found).mean() <= facts.plan.uncertain < 1
    assert "64 of them around each, where its scores look as far as" in str(facts.plan)
    exact = predict_file(predictor, tmp_path / "a.png", tmp_path, "out", TilingOptions(tile=160, halo=10**6))
    assert not exact.plan.uncertain and exact.differ is None
    assert_labels(read_label_values(tmp_path / "out.png"), predictor.coarse(image)["semantic"])


class Endless(nn.Module):
    """Every pixel is compared with the mean of all."""

    def forward(self, x):
        y = x - x.mean((2, 3), keepdim=True)
        return torch.cat([y, -y], 1)


def test_a_net_without_bounds_says_so_and_is_blended(tmp_path):
    labels = LabelSpace.of([str(n) for n in range(CLASSES)])
    predictor = Predictor(Endless(), Header(ModelConfig("vgg11"), labels, CONVENTIONS["torchvision"]))
    assert reach(predictor) is None and memory_of_whole(predictor, 10, 10) is None
    image = photo(1300, 900)
    chosen = plan(predictor, 1300, 900)
    assert chosen.way == "blended" and "the net sees without bounds, so no tile can be exactly the whole" in str(chosen)
    found = gathered(labels_of(predictor, Decoded(image), chosen))
    assert (found == predictor.coarse(image)["semantic"].prediction()).mean() > 0.8
    assert plan(predictor, 200, 200).way == "whole"
    assert plan(predictor, 200, 200, tile="none").way == "whole"


@pytest.mark.parametrize("tile", ["auto", 64])
def test_a_geotiff_becomes_one_in_its_place(tmp_path, tile):
    rasterio = pytest.importorskip("rasterio")
    array = (photo(300, 210).transpose(2, 0, 1)[[0, 1, 2, 0]].astype(np.uint16)) * 8
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        height=300,
        width=210,
        count=4,
        dtype="uint16",
        tiled=True,
        blockxsize=64,
        blockysize=64,
        photometric="minisblack",
        **place,
    ) as file:
        file.write(array)
    predictor = predictor_of(channels=4)
    whole = predictor.coarse(predictor.read(tmp_path / "a.tif"))["semantic"]
    assert not is_ordinary(predictor, tmp_path / "a.tif", TilingOptions())
    assert is_ordinary(predictor, tmp_path / "a.tif", TilingOptions(format="png"))
    predict_file(predictor, tmp_path / "a.tif", tmp_path, "out", TilingOptions(tile=tile), overlay=True)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs.to_string() == "EPSG:32633" and file.transform == place["transform"]
        assert_labels(file.read(1), whole)
    predict_file(predictor, tmp_path / "a.tif", tmp_path, "out", TilingOptions(tile=tile, format="png"))
    assert_labels(read_label_values(tmp_path / "out.png"), whole)
    with open_source(tmp_path / "a.tif", True, 4) as source:
        assert source.bytes == 0


def test_more_pixels_than_the_limit_are_read_by_windows_only(tmp_path):
    Image.fromarray(photo(100, 100)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a.png: .*10,000 pixels, above the limit of 9,000; raise --max-pixels"):
        is_ordinary(predictor_of(), tmp_path / "a.png", TilingOptions(max_pixels=9000))


MEASURE = """
import sys, torch
from pathlib import Path
from fullconv.profiling import process_memory as memory
from fullconv.inference.predictor import load
from fullconv.inference.large_image.tiling_options import TilingOptions as Settings
from fullconv.inference.large_image.predict_file import predict_file

torch.set_num_threads(1)
predictor = load(Path(sys.argv[1]))
budget = int(sys.argv[3]) + memory.resident()
facts = predict_file(predictor, Path(sys.argv[2]), Path(sys.argv[4]), "out", Settings(memory=budget))
print(facts.plan.way, budget, memory.peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backbone, width", [("mobilenet_v2", 1), ("vgg11", 1 / 4)])
def test_the_plan_is_never_exceeded(tmp_path, backbone, width):
    predictor = predictor_of(backbone, width=width)
    checkpoint.save(tmp_path / "net.safetensors", predictor.net.state_dict(), predictor.header)
    Image.fromarray(photo(1000, 2000)).save(tmp_path / "a.png")
    room = memory_of_strip(predictor.net, 160, 2000) + 2000 * 1000 * 7
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, (tmp_path / "net.safetensors", tmp_path / "a.png", room, tmp_path))],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    way, budget, peak = said.stdout.split()
    assert way == "strips"
    assert int(peak) <= int(budget), (process_memory.format_bytes(int(peak)), process_memory.format_bytes(int(budget)))
    assert int(budget) < int(peak) + memory_of_whole(predictor, 1000, 2000)  # and the whole would have exceeded it


@pytest.mark.parametrize("height, width", [(1, 1), (64, 300), (256, 256), (257, 511), (700, 900)])
def test_an_image_that_fits_easily_fits(height, width, monkeypatch):
    """The bound that spares a dry run of each size is a bound: with twice its memory the plan is the whole image."""
    predictor = predictor_of(stride=16, classes=3, width=1 / 32)
    needed = memory_of_whole(predictor, height, width)
    for room in (needed // 2, needed, 2 * needed, 8 * needed, 64 * needed):
        monkeypatch.setattr(process_memory, "available", lambda room=room: room)
        assert not fits_easily(predictor, height, width) or plan(predictor, height, width).way == "whole"
    monkeypatch.setattr(process_memory, "available", lambda: 1 << 40)
    assert fits_easily(predictor, height, width)
