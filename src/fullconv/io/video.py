"""Videos: their frames as images, upright, one after the other; and pictures written as a video.

PyAV (FFmpeg) decodes and encodes; it is an extra, ``pip install 'fullconv[video]'``.
"""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import RunError, UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, check_size, one_line, open_file

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv")
"""The suffixes by which a video is told from an image, in lower case."""


def is_video(path: Path) -> bool:
    """Whether a file is a video by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def library(name: str = "a video") -> ModuleType:
    """PyAV, or a `UsageError` that says how to get it."""
    try:
        import av
        import av.error
    except ImportError:
        raise UsageError(f"{name}: videos need PyAV; pip install 'fullconv[video]'") from None
    found: ModuleType = av  # its level of logging is left alone: with one, its threads wait for each other for ever
    return found


class Frames:
    """The frames of a video, `every` so many of them, for threads that ask for them in about their order.

    Frames are decoded in the order of the file; one that another thread will ask for is kept until then. Raises
    `UsageError` naming the file when it is no video; `frame` does so for the first frame that is damaged, and the video
    ends there.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.every, self.name = path, every, shown(path)
        av = library(self.name)
        with open_file(path) as file:
            if not file.read(1):
                raise UsageError(f"{self.name}: empty file; copy or download it again")
        with one_line(self.name, "video"):
            self.container = av.open(str(path), metadata_errors="replace")
        if not self.container.streams.video:
            self.container.close()
            raise UsageError(f"{self.name}: no pictures can be read from it; give a video, or copy it again")
        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        self.rate = Fraction(stream.average_rate or 25)
        seconds = (self.container.duration or 0) / av.time_base
        self.guess = int(stream.frames or seconds * self.rate)
        self.ended = False
        self.damage: str | None = None
        self.lock = threading.Lock()
        self.decoded = 0
        self.kept: dict[int, NDArray[np.uint8]] = {}
        self.source = self.container.decode(stream)

    def frame(self, number: int, wanted: bool = True) -> NDArray[np.uint8] | None:
        """Frame `number`, from 0, as (H, W, 3) uint8 RGB; None behind the last. Not `wanted`: it is passed by."""
        with self.lock:
            while number not in self.kept and self.decoded <= number and not self.ended:
                self._decode()
            found = self.kept.pop(number, None)
            damage, self.damage = (self.damage, None) if found is None else (None, self.damage)
        if damage:
            raise UsageError(damage)
        return found if wanted else None

    def _decode(self) -> None:
        try:
            with one_line(f"{self.name}: frame {self.decoded + 1}", "video"):
                frame = next(self.source, None)
                if frame is None:
                    self.close()
                    return
                if self.decoded % self.every == 0:
                    check_size(frame.height, frame.width, self.name, MAX_PIXELS)
                    pixels = frame.to_ndarray(format="rgb24")
                    self.kept[self.decoded] = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
            self.decoded += 1
        except UsageError as problem:
            self.damage = str(problem)
            self.close()

    def close(self) -> None:
        """Read no further."""
        self.ended = True
        self.container.close()


class VideoFile:
    """A video that is written picture by picture, ``.mp4``; it takes its name when it is whole."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.av = library(shown(path))
        self.temporary = path.parent / f".fullconv-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        self.container: Any = None

    def add(self, picture: NDArray[np.uint8]) -> None:
        """The next picture, (H, W, 3) uint8 RGB; all of one size but for the last odd row and column, which are cut."""
        height, width = (max(2, pixels // 2 * 2) for pixels in picture.shape[:2])
        even = picture[:height, :width]
        if even.shape[:2] != (height, width):
            even = np.resize(even, (height, width, 3))
        try:
            if self.container is None:
                self.container = self.av.open(str(self.temporary), "w", format="mp4")
                codec = "libx264" if "libx264" in self.av.codecs_available else "mpeg4"
                self.stream = self.container.add_stream(codec, rate=self.rate)
                self.stream.height, self.stream.width, self.stream.pix_fmt = height, width, "yuv420p"
            frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            self.container.mux(self.stream.encode(frame))
        except (self.av.error.FFmpegError, OSError) as problem:
            raise self._failed(problem) from None

    def finish(self) -> bool:
        """Write what is left and give it its name; whether there was a picture."""
        if self.container is None:
            return False
        try:
            self.container.mux(self.stream.encode(None))
            self.container.close()
            self.temporary.replace(self.path)
        except (self.av.error.FFmpegError, OSError) as problem:
            raise self._failed(problem) from None
        return True

    def drop(self) -> None:
        """Leave nothing of it."""
        if self.container is not None:
            with suppress(self.av.error.FFmpegError, OSError):
                self.container.close()
        with suppress(OSError):
            self.temporary.unlink()

    def _failed(self, problem: Exception) -> RunError:
        self.drop()
        reason = getattr(problem, "strerror", None) or problem
        return RunError(f"{shown(self.path)}: cannot be written ({reason}); check the folder and the space left")
