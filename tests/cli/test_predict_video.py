"""Videos through the whole verb: a mask for each frame, and a video of the overlays."""

import sys

import numpy as np
import pytest
from PIL import Image
from tests.support.predicting import checkpoint, image, names, predict, refused
from tests.support.videos import video

import fullconv
from fullconv.io.video import Frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


def numbers(found):
    return [f"clip/{k:06d}.png" for k in found]


def test_each_frame_has_its_mask_and_the_overlays_are_a_video(model, tmp_path, capsys):
    clip, photo, out = video(tmp_path / "clip.mp4", rate=12), image(tmp_path / "photo.png"), tmp_path / "o"
    said = predict(capsys, model, clip, photo, "--out", out, "--overlay", "--probability")
    masks = numbers(range(1, 13))
    more = [name.replace(".png", ".probability.png") for name in masks]
    assert names(out) == sorted(
        [*masks, *more, "clip.overlay.mp4", "photo.overlay.jpg", "photo.png", "photo.probability.png"]
    )
    assert said["videos"] == [
        {"name": "clip", "input": str(clip), "frames": 12, "overlay": str(out / "clip.overlay.mp4")}
    ]
    assert [row["name"] for row in said["written"]] == [name.removesuffix(".png") for name in masks] + ["photo"]
    assert {row["input"] for row in said["written"][:12]} == {str(clip)}
    frames, drawn, predictor = Frames(clip), Frames(out / "clip.overlay.mp4"), fullconv.load(model)
    assert drawn.rate == 12
    for k, name in enumerate(masks):
        frame = frames.frame(k)
        found = predictor(frame)
        assert (np.asarray(Image.open(out / name)) == found.prediction).all()
        shown = drawn.frame(k)
        assert np.abs(shown.astype(int) - found.overlay()).mean() < 12, "the overlay of another frame"
    assert drawn.frame(12) is None


def test_every_nth_frame_keeps_its_number_and_the_time_its_pace(model, tmp_path, capsys):
    clip = video(tmp_path / "clip.mkv", rate=12)
    predict(capsys, model, clip, "--out", tmp_path / "o", "--every", "5", "--overlay")
    assert names(tmp_path / "o") == sorted([*numbers([1, 6, 11]), "clip.overlay.mp4"])
    assert float(Frames(tmp_path / "o" / "clip.overlay.mp4").rate) == pytest.approx(12 / 5, rel=0.01)


def test_it_goes_on_where_it_was(model, tmp_path, capsys):
    clip, out = video(tmp_path / "clip.mp4"), tmp_path / "o"
    predict(capsys, model, clip, "--out", out)
    (out / "clip" / "000004.png").unlink()
    said = predict(capsys, model, clip, "--out", out, "--skip-existing")
    assert ([row["name"] for row in said["written"]], said["skipped"]) == (["clip/000004"], 11)
    said = predict(capsys, model, clip, "--out", out, "--skip-existing", "--overlay")
    assert len(said["written"]) == 12  # a video of overlays is made of all
    assert predict(capsys, model, clip, "--out", out, "--skip-existing", "--overlay")["skipped"] == 1


def test_a_damaged_video_is_one_line_and_the_others_are_done(model, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"<!doctype html>" * 9)
    good = video(tmp_path / "clip.mp4", frames=3)
    said = predict(capsys, model, broken, good, "--out", tmp_path / "o", "--overlay", code=2)
    assert len(said["failed"]) == 1 and "broken.mp4: the video is damaged" in said["failed"][0]
    assert names(tmp_path / "o") == sorted([*numbers([1, 2, 3]), "clip.overlay.mp4"])


def test_without_the_library_it_is_one_line(model, tmp_path, capsys, monkeypatch):
    clip = video(tmp_path / "clip.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    line = refused(capsys, model, clip, "--out", tmp_path / "o")
    assert line == f"{clip}: videos need PyAV; pip install 'fullconv[video]'"
