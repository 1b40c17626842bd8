"""The paper's story on the built-in digits, in some minutes and without a download.

A classifier of single digits is made fully convolutional and reads a whole scene (section 3.1; Matan et al. 1992 did it
with LeNet). Its trunk becomes FCN-32s, which becomes FCN-16s, which becomes FCN-8s (section 4.2), each from the weights
of the one before, and each is scored on scenes of handwriting that no training saw (section 5).

`story` is a generator of plain events, like `fit`; whoever consumes it shows them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.data.dataset import Dataset, DatasetView, IndexedDataset, Sample
from fullconv.datasets.published.label_spaces import DIGITS
from fullconv.datasets.synthetic.digits import Digits, single_digits
from fullconv.evaluation.evaluate import evaluate
from fullconv.geometry import IMAGE, bilinear_window
from fullconv.inference.predictor import load_checkpoint
from fullconv.inference.tensor_input import to_input
from fullconv.io.atomic import write_atomically
from fullconv.metrics import Scores
from fullconv.models.build import build_classifier
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.trace import Trace
from fullconv.models.upsample import upsampling_matrix
from fullconv.reporting.figures import curves, heat_map
from fullconv.reporting.page import Figure, Section, Table, percent, render
from fullconv.reporting.pictures import colour_label, side_by_side
from fullconv.training.log import read_log
from fullconv.training.loop import State, fit
from fullconv.training.run import prepare, records
from fullconv.weights import checkpoint

INPUT = CONVENTIONS["rgb128"]


@dataclass(frozen=True)
class Settings:
    """What the demo does; the defaults take some three minutes on two cores.

    stages: (name, stride, training) of each net. crops, scenes: how many different ones to train on. size: (height,
    width) of a scene.
    unseen: validation scenes the nets are scored on. panorama: (height, width) of the scene the classifier reads.
    """

    model: ModelConfig = ModelConfig("vgg11_bn", num_classes=11, width=1 / 8, native_size=96, dropout=0.0)
    classifier: TrainConfig = TrainConfig(steps=550, batch_size=32, lr=0.05, warmup=20)
    stages: tuple[tuple[str, int, TrainConfig], ...] = (
        ("FCN-32s", 32, TrainConfig(steps=120, batch_size=8, lr=0.05, warmup=10, freeze_bn=False)),
        ("FCN-16s", 16, TrainConfig(steps=130, batch_size=8, lr=0.05, warmup=10, freeze_bn=False)),
        ("FCN-8s", 8, TrainConfig(steps=800, batch_size=8, lr=0.05, warmup=10, freeze_bn=False)),
    )
    crops: int = 6000
    scenes: int = 2000
    size: tuple[int, int] = (192, 192)
    unseen: int = 100
    panorama: tuple[int, int] = (320, 480)


QUICK = Settings(
    model=ModelConfig("vgg11_bn", num_classes=11, width=1 / 32, native_size=32, dropout=0.0),
    classifier=TrainConfig(steps=3, batch_size=4, lr=0.01),
    crops=6,
    stages=tuple(
        (f"FCN-{stride}s", stride, TrainConfig(steps=2, batch_size=2, lr=0.01, workers=0)) for stride in (32, 16, 8)
    ),
    scenes=4,
    size=(48, 64),
    unseen=3,
    panorama=(64, 96),
)
"""The same story in a few seconds, for a look at the machinery; its nets have learned nothing."""


@dataclass(frozen=True)
class Event:
    """Something happened: a step of a chapter, or a sentence to say."""

    chapter: str
    step: int = 0
    total: int = 0
    loss: float | None = None
    images: int = 0
    seconds: float = 0.0
    says: str | None = None


@dataclass(frozen=True)
class StoryRow:
    """A line of the table at the end."""

    name: str
    stride: int
    scores: Scores
    seconds: float


@dataclass(frozen=True)
class Ending:
    """What came out: the table, the classifier's accuracy on unseen digits, and the files."""

    rows: tuple[StoryRow, ...]
    accuracy: float
    page: Path
    picture: Path


class SingleDigits(IndexedDataset):
    """Single digits as a data set whose labels have one pixel: what makes the loop of an FCN train a classifier."""

    labels = DIGITS

    def __init__(self, split: str, size: int, length: int) -> None:
        self.split, self.size, self.length = split, size, length

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int) -> Sample:
        """Draw digit number `index`."""
        images, classes = single_digits(self.split, self.size, [index])
        return Sample(images[0], classes.astype(np.uint8).reshape(1, 1), f"digit-{self.split}-{index:05d}")


class Kept(DatasetView):
    """A dataset that keeps the samples it has drawn: drawing a scene takes half as long as learning from it."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.samples: dict[int, Sample] = {}

    def sample(self, index: int) -> Sample:
        """Return a sample, drawn once."""
        if index not in self.samples:
            self.samples[index] = self.dataset[index]
        return self.samples[index]


def story(out: Path, settings: Settings = Settings()) -> Iterator[Event | Ending]:
    """Tell the story, writing runs and report into `out`; the last thing yielded is the `Ending`."""
    for name, _, _ in settings.stages:
        if (folder(out, name) / "log.jsonl").exists():  # an earlier demo, which is told anew
            shutil.rmtree(folder(out, name))
    dense, trace, accuracy = yield from learn_single_digits(out / "classifier.safetensors", settings)
    scene = Digits("val", settings.panorama, length=1)[0]
    yield Event("heat map", says=f"the classifier, fully convolutional, reads a scene of {scene.image.shape[:2]}")
    digit = int(np.bincount(scene.semantic[(scene.semantic > 0) & (scene.semantic < 255)], minlength=11).argmax())
    probability = digit_map(dense, trace, scene.image, digit)

    scenes = Kept(Digits("train", settings.size, settings.scenes))
    rows, start = [], out / "classifier.safetensors"
    for name, stride, config in settings.stages:
        began = time.perf_counter()
        model = replace(settings.model, stride=stride)
        start = yield from learn_to_segment(folder(out, name), start, model, config, scenes)
        rows.append(StoryRow(name, stride, score(start, settings), time.perf_counter() - began))
        yield Event(name, says=f"{name}: mean IU {percent(rows[-1].scores.mean_iu)} on {settings.unseen} unseen scenes")

    comparison = figure_4(out, settings)
    write_atomically(out / "figure4.png", comparison)
    heat = heat_map(scene.image, probability, name=f"P({DIGITS.names[digit]})")
    page = write_page(out, settings, tuple(rows), accuracy, comparison, heat, DIGITS.names[digit])
    yield Ending(tuple(rows), accuracy, page, out / "figure4.png")


def folder(out: Path, name: str) -> Path:
    """The run folder of a stage."""
    return out / name.lower().replace("-", "")


def learn_single_digits(path: Path, settings: Settings) -> Any:
    """Train the classifier in its dense form on its native crop, where its output is one cell; save it.

    Gives the net, its geometry, and its accuracy on the digits of the validation split.
    """
    size = settings.model.native_size or 96
    torch.manual_seed(settings.classifier.seed)
    dense, report = convolutionalize(build_classifier(settings.model, classes=11), size)
    state = State.of(dense, settings.classifier)
    steps = settings.classifier.steps or 1
    digits = Kept(SingleDigits("train", size, settings.crops))
    for record in fit(state, digits, settings.classifier, INPUT):
        yield Event("classifier", record.step, steps, record.loss, record.images, record.seconds)
    tensors = dense.state_dict()
    checkpoint.save(path, tensors, checkpoint.Header(settings.model, DIGITS, INPUT, kind="classifier"))
    images, classes = single_digits("val", size, range(10 * settings.unseen))
    with torch.inference_mode():
        dense.eval()
        found = torch.cat(
            [dense(to_input(torch.from_numpy(part), INPUT)) for part in np.array_split(images, 20) if len(part)]
        )
    accuracy = float((found.argmax(1).flatten().numpy() == classes).mean())
    yield Event("classifier", says=f"classifier: {percent(accuracy)} % of {len(classes)} unseen single digits right")
    return dense, report.trace, accuracy


def digit_map(dense: nn.Module, trace: Trace, image: NDArray[np.uint8], digit: int) -> NDArray[np.float32]:
    """(H, W) probability of one class, from the coarse map of the dense classifier, put where its cells look.

    The border that no cell is centred near has probability 0.
    """
    axis = trace.last.axis
    window = bilinear_window(int(axis.stride), axis, IMAGE)
    offset = axis.then(window).offset_to(IMAGE)
    with torch.inference_mode():
        coarse = dense(to_input(torch.from_numpy(image[None]), INPUT)).softmax(1)[0, digit]
        rows, columns = (
            upsampling_matrix(window, cells, offset, pixels, coarse)
            for cells, pixels in zip(coarse.shape, image.shape[:2], strict=True)
        )
        found: NDArray[np.float32] = (rows @ coarse @ columns.T).numpy()
    return found


def learn_to_segment(out: Path, start: Path, model: ModelConfig, config: TrainConfig, scenes: Dataset) -> Any:
    """A run like any other: from the weights `start`, on scenes; gives its best checkpoint."""
    run = prepare(out, "digits", scenes, None, model, config, INPUT, start)
    for record in records(run):
        yield Event(f"FCN-{model.stride}s", record.step, run.total, record.loss, record.images, record.seconds)
    return out / "model.safetensors"


def score(model: Path, settings: Settings) -> Scores:
    """The four numbers on unseen scenes."""
    return evaluate(load_checkpoint(model), Digits("val", settings.size, settings.unseen))


def figure_4(out: Path, settings: Settings, rows: int = 5) -> bytes:
    """Image, truth, and what each net says, side by side: the paper's figure 4."""
    nets = [(name, load_checkpoint(folder(out, name) / "model.safetensors")) for name, _, _ in settings.stages]
    pictures = []
    scenes = Digits("val", settings.size, rows)
    for sample in (scenes[i] for i in range(rows)):
        said = [colour_label(net(sample.image).prediction, DIGITS) for _, net in nets]
        pictures.append([sample.image, colour_label(sample.semantic, DIGITS), *said])
    return side_by_side(pictures, ("image", "truth", *(name for name, _ in nets)))


def write_page(
    out: Path,
    settings: Settings,
    rows: tuple[StoryRow, ...],
    accuracy: float,
    comparison: bytes,
    heat: bytes,
    digit: str,
) -> Path:
    """The report: the table, the pictures, and how each net learned."""
    best = rows[-1].scores
    table = Table(
        ("net", "stride", "pixel acc.", "mean acc.", "mean IU", "f.w. IU", "seconds"),
        tuple(
            (r.name, str(r.stride), percent(r.scores.pixel_accuracy), percent(r.scores.mean_accuracy),
             percent(r.scores.mean_iu), percent(r.scores.frequency_weighted_iu), f"{r.seconds:.0f}")
            for r in rows
        ),
        f"On {settings.unseen} scenes of handwriting that no training saw, in percent; "
        f"means over {best.averaged} classes.",
    )  # fmt: skip
    classes = Table(
        ("class", "IU", "accuracy"),
        tuple((n, percent(i), percent(a)) for n, i, a in zip(DIGITS.names, best.iu, best.accuracy, strict=True)),
        f"{rows[-1].name}, each class.",
        DIGITS.palette,
    )
    learned = tuple(
        Figure(curves(read_log(folder(out, r.name))), f"{r.name}: the loss of each step.", f"Loss of {r.name}")
        for r in rows
    )
    sections = [
        Section(
            "Coarse to fine",
            "Each net starts from the one before it and adds the scores of a finer layer (section 4.2 of the paper). "
            "FCN-32s knows what; FCN-8s also knows where.",
            (
                Figure(comparison, "Unseen scenes, as in the paper's figure 4.", "Image, truth and three predictions"),
                table,
            ),
        ),
        Section(
            "A classifier reads a scene",
            f"The classifier has seen single digits only, and gets {percent(accuracy)} % of unseen ones right. Its "
            "fully connected layers are convolutions now (section 3.1), so it takes the whole scene at once and says "
            "for each cell of its output grid what it sees there.",
            (Figure(heat, f"The probability of '{digit}', where the cells look.", f"Heat map of the digit {digit}"),),
        ),
        Section("The classes", "", (classes,)),
        Section("How they learned", "", learned),
    ]
    lead = (
        "A small classifier of handwritten digits becomes a fully convolutional network that segments whole scenes. "
        "Everything here was computed by this run, from scikit-learn's digits; the scenes it is scored on show "
        "handwriting that training never saw."
    )
    facts = {f"mean IU {r.name}": f"{percent(r.scores.mean_iu)} %" for r in rows}
    page = out / "report.html"
    write_atomically(page, render("From a classifier to FCN-8s", lead, sections, facts).encode())
    return page
