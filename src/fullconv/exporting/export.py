"""Export: a net as a file for other programs, which is kept only if it says what the net says.

The file is made beside its place, run by the engine that it is for on images of several sizes, and compared with the
net; what fails is thrown away, with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.backends.metadata import ExportMetadata
from fullconv.config import Size, to_mapping
from fullconv.data.dataset import Dataset, Image, Subset
from fullconv.datasets.folder.classes_file import MaskOptions
from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.errors import RunError, UsageError, shown
from fullconv.evaluation.evaluate import evaluate
from fullconv.exporting.gate import Agreement, compare, odd_sizes, photographs, to_size
from fullconv.inference.exported import SUFFIXES, ExportedPredictor, load_exported
from fullconv.inference.large_image.halo import reach
from fullconv.inference.model import Model
from fullconv.inference.predictor import Predictor, load_checkpoint
from fullconv.inference.preprocess import to_input
from fullconv.io.atomic import folder_beside, move_into_place
from fullconv.models.fcn import FCN
from fullconv.optimize.size_specialization import specialize_for_size

if TYPE_CHECKING:
    from onnx import ModelProto

FORMATS = (*SUFFIXES, ".pt2")
"""Suffixes of the files that `export` writes."""

LIMITS = {"fp32": (1e-4, 0.9999), "int8": (None, 0.99)}
"""What an exported file must keep, by its precision: the largest difference of the scores as a part of their range, and
the part of the pixels whose label is the same.
"""

MEAN_IU = 0.005
"""How much less than the net's its mean IU may be."""

EXACT = (0, 2, 4, 8)
"""How many of the first convolutions stay in fp32 in 8-bit files, tried one after the other until the labels are those
of the net: their channels may have ranges that differ a hundredfold.
"""

Measure = Callable[[Model], float | None]
"""The mean IU of a net, or of an exported file."""


COMPARED = 20
"""Images of a dataset on which scores and labels are compared; the mean IU is over all of the split."""


@dataclass(frozen=True)
class Checked:
    """An exported file and its agreement with the network.

    mean_iu: of the network and of the file, if measured. exact: how many of the first convolutions stayed in fp32 in a
    file of 8-bit integers. size: of the file's images; None for any, from `least` pixels on.
    """

    path: Path
    precision: str
    exact: int
    size: Size | None
    least: int
    bytes: int
    agreement: Agreement
    mean_iu: tuple[float, float] | None = None

    @property
    def failure(self) -> str | None:
        """What is wrong with it, or None."""
        most, least = LIMITS[self.precision]
        if most is not None and not self.agreement.relative <= most:
            return f"its scores differ by {self.agreement.relative:.2g} of their range, and {most:.2g} is allowed"
        if not self.agreement.labels >= least:
            same = 100 * self.agreement.labels
            return f"{same:.2f} % of its labels are those of the net, and {100 * least:g} % are needed"
        if self.mean_iu is not None and not self.mean_iu[1] >= self.mean_iu[0] - MEAN_IU:
            before, after = (100 * mean for mean in self.mean_iu)
            return f"its mean IU is {after:.2f} and that of the net {before:.2f}; {100 * MEAN_IU:g} less is allowed"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        found = self.agreement
        return {
            "file": str(self.path),
            "bytes": self.bytes,
            "precision": self.precision,
            "first_in_fp32": self.exact,
            "size": list(self.size) if self.size else "dynamic",
            "least": self.least,
            "images": found.images,
            "sizes": [list(size) for size in found.sizes],
            "largest_difference": found.difference,
            "of_the_range": found.relative,
            "equal_labels": found.labels,
            **({"mean_iu": dict(zip(("before", "after"), self.mean_iu, strict=True))} if self.mean_iu else {}),
        }


def card_of(predictor: Predictor, size: Size | None, precision: str = "fp32") -> ExportMetadata:
    """What the exported file of a net is to say of itself."""
    net, header = _fcn(predictor), predictor.header
    far, join = reach(net), net.joins[-1]
    return ExportMetadata(
        labels=header.labels,
        input=header.input,
        size=size,
        stride=net.stride,
        reach=(far.before, far.after, far.period),
        window=None if net.learned_end else join.window,
        offset=0 if net.learned_end else join.crop_scores,
        geometric=header.geometric,
        precision=precision,
        model=to_mapping(header.model),
        provenance=header.provenance,
    )


def export(
    model: str | Path | Predictor,
    path: str | Path,
    size: Size | None = None,
    images: Sequence[Image] = (),
    calibration: Sequence[Image] = (),
    measure: Measure | None = None,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    int8: str | Path | None = None,
    int8_images: int = 100,
    masks: MaskOptions | None = None,
) -> Checked:
    """Write an exported file, run it, and keep it if it agrees with the network.

    Args:
        model: The path of a checkpoint, or a predictor.
        path: The file: ``.onnx``, ``.xml`` (with its ``.bin``) or ``.pt2``.
        size: Height and width of its images; None for any.
        images: Images to compare on; without them those of `data`, or synthetic ones that look like photographs.
        calibration: Images to find the ranges of 8-bit integers by; fp32 without them.
        measure: Gives the mean IU of the network and of the file.
        data: A dataset to compare on, and to measure the mean IU on before and after.
        split: Its split (default: ``val``, or the dataset's own for validation).
        limit: Use no more than its first images.
        int8: A dataset whose training split gives the images for `calibration`.
        int8_images: How many of them.
        masks: How the masks of a folder are read.

    Raises:
        UsageError: The suffix is unknown, a tool is not installed, or the arguments do not fit.
        RunError: The file does not agree with the network; what stood under `path` is untouched.

    """
    if not isinstance(path, str | Path):
        raise UsageError(f"export: path is a {type(path).__name__}; give the path of a file such as m.onnx")
    path = Path(path)
    refuse(path, bool(calibration) or int8 is not None)
    for flag, value in (("calibration", int8_images), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} is {value}; give at least 1")
    predictor = load_checkpoint(model) if isinstance(model, str | Path) else model
    if int8 is not None:
        train_split, val_split = default_splits(str(int8))
        calibrating = open_dataset(int8, train_split, masks)
        calibration = _spread(calibrating, int8_images)
        if data is None:  # labels are compared on images that no range is from, if there are any
            images = _spread(open_dataset(int8, val_split, masks) if val_split else calibrating, COMPARED)
    if data is not None:
        opened = open_dataset(data, split or default_splits(data)[1] or "val", masks)
        dataset = Subset(opened, range(min(len(opened), limit or len(opened))))
        images = _spread(dataset, COMPARED)
        other = next((image.shape[:2] for image in images if size not in (None, image.shape[:2])), None)
        if other is not None:
            assert size is not None
            raise UsageError(
                f"--size {size[0]}x{size[1]}: an image of {shown(data)} is {other[0]}x{other[1]}; export with --size "
                "dynamic, or without --data"
            )
        measure = lambda model: evaluate(model, dataset).mean_iu  # noqa: E731
    measure = measure and cache(measure)  # type: ignore[assignment]  # that of the network is the same at every try
    net, card = _fcn(predictor), card_of(predictor, size, "int8" if calibration else "fp32")
    if size is not None:
        net = specialize_for_size(net.eval(), *size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(path) as folder:
        made = folder / path.name
        if path.suffix == ".pt2":
            from fullconv.backends import torch_export

            content, run, card = torch_export.to_pt2(net, size, card)
            made.write_bytes(content)
            return keep(predictor, made, path, images, measure, ExportedPredictor(run, card, path.name))
        from fullconv.backends.onnx import to_onnx

        inputs = [to_input(to_size(image, size), card.input) for image in calibration]
        graph = to_onnx(net, size)
        for exact in EXACT if inputs else (0,):
            write(graph, replace(card, exact=exact), made, inputs)
            try:
                return keep(predictor, made, path, images, measure)
            except RunError:
                if not inputs or exact == EXACT[-1]:
                    raise
    raise AssertionError


def spread(length: int, wanted: int) -> list[int]:
    """Return numbers of images spread over a whole dataset.

    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(length, wanted)
    return [number * length // count for number in range(count)]


def _spread(dataset: Dataset, wanted: int) -> list[Image]:
    return [dataset[index].image for index in spread(len(dataset), wanted)]


def write(graph: ModelProto, card: ExportMetadata, path: Path, inputs: Sequence[NDArray[np.float32]] = ()) -> None:
    """Write the graph of a net as .onnx or .xml; with inputs to calibrate by, in 8-bit integers."""
    from fullconv.backends import onnx, openvino
    from fullconv.exporting import int8 as quantize

    if path.suffix == ".onnx":
        graph = quantize.onnx_in_int8(graph, inputs, card.exact, path.parent) if inputs else graph
        onnx.write_card(graph, card)
        path.write_bytes(graph.SerializeToString())
        return
    model = openvino.of_onnx(graph)
    if inputs:
        model = quantize.openvino_in_int8(model, inputs, quantize.in_fp32(graph, card.exact))
    openvino.write_card(model, card)
    openvino.save(model, path)


def keep(
    predictor: Predictor, made: Path, path: Path, images: Sequence[Image] = (), measure: Measure | None = None,
    loaded: ExportedPredictor | None = None,
) -> Checked:  # fmt: skip
    """Run the file that was made, and move it to its place if it agrees with the net. loaded: what is in it, if it is
    not to be read.
    """
    exported = loaded or load_exported(made)
    size, precision = exported.header.size, exported.header.precision
    least = exported.header.least
    sizes = odd_sizes(size, least)
    shots = list(images) or photographs(len(exported.header.input.mean), exported.header.input, sizes)
    if images and size is None:
        shots += [to_size(image, odd) for image, odd in zip(images, sizes, strict=False)]
    whole = loaded or load_exported(made, whole=True)
    agreement = compare(predictor, exported, whole, [to_size(shot, size) for shot in shots])
    parts = [made, made.with_suffix(".bin")] if made.suffix == ".xml" else [made]
    length = sum(part.stat().st_size for part in parts)
    checked = Checked(path, precision, exported.header.exact, size, least, length, agreement)
    if checked.failure is None and measure is not None:
        before, after = measure(predictor), measure(exported)
        checked = replace(checked, mean_iu=(before, after) if before is not None and after is not None else None)
    if checked.failure is not None:
        cure = (
            "choose another format" if precision == "fp32" else "give more images by --calibration, or export in fp32"
        )
        raise RunError(f"{shown(path)}: not written, since {checked.failure}; {cure}")
    for part in reversed(parts):  # the weights before the file that names them
        move_into_place(part, path.with_suffix(part.suffix))
    return checked


def refuse(path: Path, int8: bool) -> None:
    """Refuse, before any work, a path that no file can be exported to, and one whose tools are not installed."""
    if path.suffix not in FORMATS:
        raise UsageError(f"{shown(path)}: its suffix says no format; give one of: {', '.join(FORMATS)}")
    if path.is_dir():
        raise UsageError(f"{shown(path)}: it is a folder; give a file such as {shown(path / 'm.onnx')}")
    if int8 and path.suffix == ".pt2":
        raise UsageError(f"{shown(path)}: a .pt2 is written in fp32 alone; give .onnx or .xml for --int8")
    if path.suffix != ".pt2":
        from fullconv.backends import onnx, openvino
        from fullconv.exporting import int8 as quantize

        onnx.present("onnx", "onnxscript", *(["onnxruntime"] if path.suffix == ".onnx" else []))
        if path.suffix == ".xml":
            openvino.present()
        if path.suffix == ".xml" and int8:
            quantize.require_nncf()


def _fcn(predictor: Predictor) -> FCN:
    if not isinstance(predictor, Predictor):
        raise UsageError(f"export: predictor is a {type(predictor).__name__}; give a Predictor, as fullconv.load does")
    if not isinstance(predictor.net, FCN):
        raise UsageError(f"export: {type(predictor.net).__name__} is no FCN; give the checkpoint of one")
    return predictor.net
