"""Videos: every frame once and in order, whoever asks for it; what is damaged is one line."""

import random
import struct
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
from tests.support.videos import av, video

from fullconv.errors import RunError, UsageError
from fullconv.io.video import Frames, VideoFile, is_video, library


def grey(frame):
    """Which frame it is."""
    return round(float(frame[-8:, -8:].mean()) / 20)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_the_frames_come_in_order_and_end(tmp_path, suffix):
    path = video(tmp_path / f"clip{suffix}")
    assert is_video(path)
    frames = Frames(path)
    found = [frames.frame(k) for k in range(14)]
    assert [grey(frame) for frame in found[:12]] == list(range(12)) and found[12] is found[13] is None
    assert found[0].shape == (48, 64, 3) and found[0].dtype == np.uint8
    assert frames.rate == 10 and frames.ended and frames.guess in (11, 12)


def test_every_third_frame_is_the_third(tmp_path):
    frames = Frames(video(tmp_path / "clip.mp4"), every=3)
    assert [grey(frames.frame(k)) for k in (0, 3, 6, 9)] == [0, 3, 6, 9]
    assert frames.frame(12) is None and not frames.kept


def test_threads_that_ask_out_of_order_get_their_own(tmp_path):
    frames, found = Frames(video(tmp_path / "clip.mp4")), {}
    numbers = list(range(12))
    random.Random(1).shuffle(numbers)

    def ask(number):
        found[number] = grey(frames.frame(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: k for k in range(12)} and not frames.kept


def test_a_frame_that_nobody_wants_is_passed_by(tmp_path):
    frames = Frames(video(tmp_path / "clip.mp4"))
    assert frames.frame(0, wanted=False) is None and not frames.ended
    assert grey(frames.frame(1)) == 1 and not frames.kept


def test_a_portrait_video_of_a_phone_stands_upright(tmp_path):
    """The matrix in the header says that the frames are to be shown turned by 90 degrees to the right."""
    path = video(tmp_path / "clip.mp4")
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 1 << 30)
    data = path.read_bytes()
    place = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:place] + turned + data[place + len(plain) :])
    frame = Frames(path).frame(0)
    assert frame.shape == (64, 48, 3)
    assert frame[:12, -8:].mean() > 200 and frame[:12, :8].mean() < 50, "top left goes to top right"


@pytest.mark.parametrize(
    "content, line",
    [
        (b"", "clip.mp4: empty file"),
        (b"<!doctype html>" * 50, "clip.mp4: the video is damaged"),
        ("half", "clip.mp4: no pictures can be read|clip.mp4: the video is"),
        (None, "clip.mp4: no such file"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path, content, line):
    path = tmp_path / "clip.mp4"
    if content == "half":
        video(path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=line) as told:
        Frames(path)
    assert "\n" not in str(told.value)


def test_a_sound_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UsageError, match="no pictures can be read from it"):
        Frames(path)


def test_a_damage_in_the_middle_is_told_once_and_the_frames_before_it_are_there(tmp_path):
    """The last third of the pictures is overwritten."""
    path = video(tmp_path / "clip.mp4", frames=200)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat")
    header = data[data.index(b"moov") :]
    size = len(data) - len(header)
    cut = begin + (size - begin) * 2 // 3
    data[cut:size] = b"\xff" * (size - cut)
    path.write_bytes(data)
    frames, good, told = Frames(path), 0, []
    for k in range(200):
        try:
            good += frames.frame(k) is not None
        except UsageError as problem:
            told.append(str(problem))
    assert len(told) <= 1 and 50 < good < 200
    if told:
        assert f"clip.mp4: frame {good + 1}: the video is damaged" in told[0]


def test_what_is_written_is_read_back(tmp_path):
    file = VideoFile(tmp_path / "out.mp4", Fraction(30000, 1001))
    for k in range(8):
        file.add(np.full((49, 65, 3), 20 * k, np.uint8))
        assert not file.path.exists(), "not before it is whole"
    assert file.finish()
    frames = Frames(file.path)
    assert [grey(frames.frame(k)) for k in range(8)] == list(range(8)) and frames.frame(8) is None
    assert frames.rate == Fraction(30000, 1001)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_of_nothing_no_file_is_written_and_one_pixel_will_do(tmp_path):
    assert not VideoFile(tmp_path / "none.mp4", Fraction(5)).finish()
    dot = VideoFile(tmp_path / "dot.mp4", Fraction(5))
    dot.add(np.zeros((1, 1, 3), np.uint8))
    assert dot.finish()
    dropped = VideoFile(tmp_path / "dropped.mp4", Fraction(5))
    dropped.add(np.zeros((16, 16, 3), np.uint8))
    dropped.drop()
    assert [p.name for p in tmp_path.iterdir()] == ["dot.mp4"]
    nowhere = VideoFile(tmp_path / "gone" / "x.mp4", Fraction(5))
    with pytest.raises(RunError, match=r"gone.*cannot be written"):
        nowhere.add(np.zeros((16, 16, 3), np.uint8)) or nowhere.finish()


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"clip\.mp4: videos need PyAV; pip install 'fullconv\[video\]'"):
        library("clip.mp4")
