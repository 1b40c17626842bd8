"""Inputs through a model to pictures, with reading, net and writing at the same time; frames of a video one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.errors import UsageError, shown
from fullconv.inference.inputs import Input
from fullconv.inference.outputs import OutputWriter, Written
from fullconv.inference.pipeline import Clock, Throughput, run_pipeline
from fullconv.io.decoding import open_file

if TYPE_CHECKING:
    from fullconv.cli.loading import LoadedModel
    from fullconv.data.dataset import Image
    from fullconv.inference.segmentation import Segmentation
    from fullconv.io.video import VideoFile


@dataclass
class Told:
    """What came of all inputs: what was written, one line for each that could not be read, what was there before."""

    written: list[Written] = field(default_factory=list)
    videos: list[Written] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Images that came to an end, good or bad."""
        return len(self.written) + len(self.failed) + self.skipped

    def add(self, other: Told) -> None:
        """What came of other inputs."""
        self.written += other.written
        self.videos += other.videos
        self.failed += other.failed
        self.skipped += other.skipped

    def clear(self) -> None:
        """Nothing is told."""
        self.written, self.videos, self.failed, self.skipped = [], [], [], 0


def segment(
    ready: LoadedModel,
    inputs: list[Input],
    outputs: OutputWriter,
    told: Told,
    every: int = 1,
    skip: bool = False,
    seen: Callable[[Told, int], Any] = lambda told, expected: None,
) -> Throughput:
    """Predict all inputs in their order, into `outputs` and `told`.

    ready: the model, its clock if it tells itself what its time goes for, and who predicts large images. every: of
    videos, each so many-th frame. skip: leave out what is there already. seen: called after each image, with how many
    there will be as far as is known.
    """
    model, timed, clock = ready.model, ready.clock is not None, ready.clock or Clock()
    videos = _Videos(outputs, every, skip, len(inputs))

    def jobs() -> Iterator[_Job]:
        for given in inputs:
            if given.video is not None:
                yield from videos.frames(given)
            else:
                yield _Job(given.name, given.source, partial(given.read, model), file=given.file)

    def read(job: _Job) -> Image | _Large | None:
        if skip and job.video is None and outputs.are_there(job.name):
            job.there = True
            return None
        with clock("reading"):
            if job.file is None:
                return job.read()
            with open_file(job.file) as stream:  # once, for its header and its pixels
                if ready.large.takes(job.file, stream):
                    return _Large(job.file, job.name)
                return model.read(job.file, stream=stream)

    def work(image: Image | _Large) -> Segmentation | _Large:
        if isinstance(image, _Large):
            with clock("large images"):
                outputs.path(image.name, "").parent.mkdir(parents=True, exist_ok=True)
                return replace(image, said=ready.large.predict(image.file, image.name))
        with contextlib.nullcontext() if timed else clock("network"):
            return model(image)

    def write(job: _Job, found: Segmentation | _Large) -> tuple[Written, Any]:
        if isinstance(found, _Large):
            return found.said, None
        where = outputs if job.video is None else videos.outputs
        said = where.write(job.name, job.source, found, clock)
        return said, found.overlay() if job.video is not None and outputs.overlay else None

    def done(job: _Job, outcome: Any) -> None:
        if isinstance(outcome, UsageError):
            told.failed.append(str(outcome))
            if job.video is not None:
                job.video.damaged = True
        elif job.there:
            told.skipped += 1
        elif outcome is not None:
            told.written.append(outcome[0])
            if job.video is not None:
                with clock("writing"):
                    job.video.add(outcome[1])
        elif job.last and job.video is not None:
            job.video.end(told)
        seen(told, max(videos.expected, told.done))

    try:
        return run_pipeline(jobs(), read, work, write, done, _size)
    finally:
        videos.drop()
        told.seconds = clock.seconds


@dataclass
class _Job:
    """One image: where it goes, how it is read (None: there is nothing), whether its pictures are there already, and
    of a frame its video; `last` ends it. file: of an image that is one.
    """

    name: str
    source: str
    read: Callable[[], Any]
    there: bool = False
    video: _Video | None = None
    last: bool = False
    file: Path | None = None


@dataclass(frozen=True)
class _Large:
    """An image that is read, predicted and written row by row; then what there is to say of it."""

    file: Path
    name: str
    said: Written = field(default_factory=dict)
    nbytes: int = 0


def _nothing() -> None:
    return None


class _Videos:
    """The frames of videos as jobs."""

    def __init__(self, outputs: OutputWriter, every: int, skip: bool, expected: int) -> None:
        self.whole, self.every, self.skip, self.expected = outputs, every, skip, expected
        self.outputs = replace(outputs, overlay=False)  # a frame's goes into the video of overlays
        self.open: list[_Video] = []

    def frames(self, given: Input) -> Iterator[_Job]:
        """The frames of a video, and its end. A video that has its overlays already is whole."""
        from fullconv.io.video import Frames, VideoFile

        overlays = self.whole.path(given.name, ".overlay.mp4") if self.whole.overlay else None
        if self.skip and overlays is not None and overlays.is_file():
            yield _Job(given.name, given.source, _nothing, there=True)
            return
        try:
            frames = Frames(Path(given.source), self.every)
        except UsageError as problem:
            yield _Job(given.name, given.source, partial(_refuse, problem))
            return
        video = _Video(given, VideoFile(overlays, frames.rate / self.every) if overlays else None)
        self.open.append(video)
        self.expected += max(0, -(-frames.guess // self.every) - 1)
        number = 0
        while not frames.ended:
            name = f"{given.name}/{number + 1:06d}"
            there = self.skip and overlays is None and self.outputs.are_there(name)
            yield _Job(name, given.source, partial(frames.frame, number, not there), there, video)
            number += self.every
        yield _Job(given.name, given.source, _nothing, video=video, last=True)

    def drop(self) -> None:
        """Leave nothing of what is not whole."""
        for video in self.open:
            video.drop()


def _refuse(problem: UsageError) -> None:
    raise problem


class _Video:
    """What becomes of the frames of one video: how many were written, and the video of their overlays."""

    def __init__(self, given: Input, file: VideoFile | None) -> None:
        self.given, self.file = given, file
        self.frames, self.damaged = 0, False

    def add(self, overlay: Any) -> None:
        """The next frame was written."""
        self.frames += 1
        if self.file is not None:
            self.file.add(overlay)

    def end(self, told: Told) -> None:
        """All frames were written, or those before a damage."""
        said: Written = {"name": self.given.name, "input": self.given.source, "frames": self.frames}
        if self.file is not None and not self.damaged and self.file.finish():
            said["overlay"] = str(self.file.path)
        if not self.frames and not self.damaged:
            told.failed.append(f"{shown(self.given.source)}: no frame in it; take another copy")
        told.videos.append(said)

    def drop(self) -> None:
        """Leave nothing of a video that is not whole."""
        if self.file is not None:
            self.file.drop()


def _size(thing: Any) -> int:
    """The bytes of an image, or of the scores of one, which holds the image too."""
    from fullconv.inference.segmentation import Segmentation

    if isinstance(thing, Segmentation):
        second = thing.geometric.scores.scores.nbytes if thing.geometric else 0
        return int(thing.scores.scores.nbytes + second)
    return int(thing.nbytes)
