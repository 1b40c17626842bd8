"""Predict many inputs with one model while files are read and written; videos frame by frame."""

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
    from fullconv.data.dataset import Image
    from fullconv.inference.request import LoadedModel
    from fullconv.inference.segmentation import Segmentation
    from fullconv.io.video import VideoFile

Progress = Callable[[int, int], Any]


@dataclass
class Prediction:
    """The result of one image.

    written: facts and files of what was written. error: one line if it could not be predicted. skipped: its files were
    there already. segmentation: the result itself, if nothing is written.
    """

    name: str
    source: str
    written: Written | None = None
    error: str | None = None
    skipped: bool = False
    segmentation: Segmentation | None = None

    @property
    def files(self) -> dict[str, Path]:
        """The files that were written: ``output`` (the mask), ``overlay``, ``probability``, ``entropy``."""
        kinds = ("output", "overlay", "probability", "entropy")
        return {k: Path(v) for k, v in (self.written or {}).items() if k.partition(".")[0] in kinds}


@dataclass
class PredictionResults:
    """The results of all inputs: one record an image, the videos they belong to, and where the time went.

    seconds: by activity. throughput: images a second, and how busy the model was. submission: the archive for the
    server of PASCAL VOC.
    """

    records: list[Prediction] = field(default_factory=list)
    videos: list[Written] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    throughput: Throughput = field(default_factory=Throughput)
    submission: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Prediction:
        return self.records[index]

    @property
    def written(self) -> list[Written]:
        """Facts and files of each image that was written."""
        return [record.written for record in self.records if record.written is not None]

    @property
    def failed(self) -> list[str]:
        """One line for each image that could not be predicted."""
        return [record.error for record in self.records if record.error is not None]

    @property
    def skipped(self) -> int:
        """Images whose files were there already."""
        return sum(record.skipped for record in self.records)


def predict_batch(
    loaded: LoadedModel,
    inputs: list[Input],
    outputs: OutputWriter | None,
    results: PredictionResults,
    every: int = 1,
    skip: bool = False,
    progress: Progress = lambda done, expected: None,
) -> None:
    """Predict all inputs in their order into `outputs`, and add to `results`.

    outputs: None keeps the segmentations in the results. every: of videos, use each n-th frame. skip: leave out what is
    there already. progress: called after each image with how many are done, and how many are expected so far.
    """
    model, timed, clock = loaded.model, loaded.clock is not None, loaded.clock or Clock()
    videos = _Videos(outputs, every, skip, len(inputs))

    def jobs() -> Iterator[_Job]:
        for given in inputs:
            if given.video is not None:
                yield from videos.frames(given)
            else:
                yield _Job(given.name, given.source, partial(given.read, model), file=given.file)

    def read(job: _Job) -> Image | _Large | None:
        if skip and outputs is not None and job.video is None and outputs.are_there(job.name):
            job.there = True
            return None
        with clock("reading"):
            if job.file is None or loaded.large is None:
                return job.read()
            with open_file(job.file) as stream:  # once, for its header and its pixels
                if loaded.large.accepts(job.file, stream):
                    return _Large(job.file, job.name)
                return model.read(job.file, stream=stream)

    def work(image: Image | _Large) -> Segmentation | _Large:
        if isinstance(image, _Large):
            assert loaded.large is not None and outputs is not None
            with clock("large images"):
                outputs.path(image.name, "").parent.mkdir(parents=True, exist_ok=True)
                return replace(image, written=loaded.large.predict(image.file, image.name))
        with contextlib.nullcontext() if timed else clock("network"):
            return model(image)

    def write(job: _Job, found: Segmentation | _Large) -> tuple[Prediction, Any]:
        record = Prediction(job.name, job.source)
        if isinstance(found, _Large):
            record.written = found.written
        elif outputs is None:
            record.segmentation = found
        else:
            writer = outputs if job.video is None else replace(outputs, overlay=False)  # goes into the video instead
            record.written = writer.write(job.name, job.source, found, clock)
            if job.video is not None and outputs.overlay:
                return record, found.overlay()
        return record, None

    def done(job: _Job, outcome: Any) -> None:
        if isinstance(outcome, UsageError):
            results.records.append(Prediction(job.name, job.source, error=str(outcome)))
            if job.video is not None:
                job.video.damaged = True
        elif job.there:
            results.records.append(Prediction(job.name, job.source, skipped=True))
        elif outcome is not None:
            results.records.append(outcome[0])
            if job.video is not None:
                with clock("writing"):
                    job.video.add(outcome[1])
        elif job.last and job.video is not None:
            job.video.end(results)
        progress(len(results), max(videos.expected, len(results)))

    try:
        results.throughput = run_pipeline(jobs(), read, work, write, done, _size)
    finally:
        videos.drop()
        results.seconds = clock.seconds


@dataclass
class _Job:
    """One image: its output, how it is read (None: there is nothing), whether its files are there already, and the
    video of a frame, which `last` ends. file: of an image that is a file.
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
    """An image that is read, predicted and written row by row, and the facts of what was written."""

    file: Path
    name: str
    written: Written = field(default_factory=dict)
    nbytes: int = 0


def _nothing() -> None:
    return None


class _Videos:
    """The frames of videos as jobs."""

    def __init__(self, outputs: OutputWriter | None, every: int, skip: bool, expected: int) -> None:
        self.outputs, self.every, self.skip, self.expected = outputs, every, skip, expected
        self.open: list[_Video] = []

    def frames(self, given: Input) -> Iterator[_Job]:
        """Yield the frames of a video, and its end. A video whose overlays exist is complete."""
        from fullconv.io.video import Frames, VideoFile

        outputs = self.outputs
        overlays = outputs.path(given.name, ".overlay.mp4") if outputs is not None and outputs.overlay else None
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
            there = self.skip and overlays is None and outputs is not None and outputs.are_there(name)
            yield _Job(name, given.source, partial(frames.frame, number, not there), there, video)
            number += self.every
        yield _Job(given.name, given.source, _nothing, video=video, last=True)

    def drop(self) -> None:
        """Remove what is not complete."""
        for video in self.open:
            video.drop()


def _refuse(problem: UsageError) -> None:
    raise problem


class _Video:
    """The frames of one video: how many were written, and the video of their overlays."""

    def __init__(self, given: Input, file: VideoFile | None) -> None:
        self.given, self.file = given, file
        self.frames, self.damaged = 0, False

    def add(self, overlay: Any) -> None:
        """Count the next frame, and add its overlay."""
        self.frames += 1
        if self.file is not None:
            self.file.add(overlay)

    def end(self, results: PredictionResults) -> None:
        """Close the video after its last frame, or after those before a damaged one."""
        facts: Written = {"name": self.given.name, "input": self.given.source, "frames": self.frames}
        if self.file is not None and not self.damaged and self.file.finish():
            facts["overlay"] = str(self.file.path)
        if not self.frames and not self.damaged:
            error = f"{shown(self.given.source)}: no frame in it; take another copy"
            results.records.append(Prediction(self.given.name, self.given.source, error=error))
        results.videos.append(facts)

    def drop(self) -> None:
        """Remove a video that is not complete."""
        if self.file is not None:
            self.file.drop()


def _size(thing: Any) -> int:
    """Return the bytes of an image, or of its scores."""
    from fullconv.inference.segmentation import Segmentation

    if isinstance(thing, Segmentation):
        second = thing.geometric.scores.scores.nbytes if thing.geometric else 0
        return int(thing.scores.scores.nbytes + second)
    return int(thing.nbytes)
