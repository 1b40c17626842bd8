"""Inputs through a model to pictures, with reading, net and writing at the same time; frames of a video one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fullconv.cli.inputs import Input
from fullconv.cli.outputs import Outputs, Written
from fullconv.errors import UsageError
from fullconv.many import Clock, Pace, overlapped

if TYPE_CHECKING:
    from fullconv.data import Image
    from fullconv.data.video import Frames, VideoFile
    from fullconv.segmentation import Segmentation
    from fullconv.segmentation.augmented import Model


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


@dataclass(frozen=True)
class _Job:
    """One image: where it goes, how it is read, and of a frame its video. Without `read`, the end of the video."""

    name: str
    source: str
    read: Callable[[], Any] | None
    video: _Video | None = None


def segment(
    model: Model,
    inputs: list[Input],
    outputs: Outputs,
    clock: Clock,
    told: Told,
    every: int = 1,
    skip: bool = False,
    seen: Callable[[Told, int], Any] = lambda told, expected: None,
    timed: bool = False,
) -> Pace:
    """Predict all inputs in their order, into `outputs` and `told`.

    every: of videos, each so many-th frame. skip: leave out what is there already. seen: called after each image, with
    how many there will be as far as is known. timed: whether the model tells `clock` itself what its time goes for.
    """
    expected = [len(inputs)]

    def jobs() -> Iterator[_Job]:
        for given in inputs:
            if given.video is not None:
                yield from _frames(given, outputs, every, skip, expected, told)
            elif skip and outputs.are_there(given.name):
                told.skipped += 1
                seen(told, expected[0])
            else:
                yield _Job(given.name, given.source, partial(given.read, model))

    def read(job: _Job) -> Image | None:
        if job.read is None:
            return None
        with clock("reading"):
            return job.read()  # type: ignore[no-any-return]

    def work(image: Image) -> Segmentation:
        if timed:
            return model(image)
        with clock("network"):
            return model(image)

    def write(job: _Job, found: Segmentation) -> tuple[Written, Any]:
        said = outputs.write(job.name, job.source, found, clock)
        drawn = job.video is not None and job.video.file is not None
        return said, found.overlay() if drawn else None

    def done(job: _Job, outcome: Any) -> None:
        if isinstance(outcome, UsageError):
            told.failed.append(str(outcome))
            if job.video is not None:
                job.video.damaged = True
        elif outcome is not None:
            told.written.append(outcome[0])
            if job.video is not None:
                job.video.count += 1
                if job.video.file is not None:
                    with clock("writing"):
                        job.video.file.add(outcome[1])
        elif job.read is None and job.video is not None:
            job.video.end(told)
        seen(told, max(expected[0], told.done))

    open_videos: list[_Video] = []
    try:
        return overlapped(jobs(), read, work, write, done, _size)
    finally:
        for video in open_videos:
            video.drop()
        told.seconds = clock.seconds


def _size(thing: Any) -> int:
    """The bytes of an image, or of the scores of one, which holds the image too."""
    from fullconv.segmentation import Segmentation

    if isinstance(thing, Segmentation):
        second = thing.geometric.scores.scores.nbytes if thing.geometric else 0
        return int(thing.scores.scores.nbytes + second)
    return int(thing.nbytes)
