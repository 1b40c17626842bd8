"""Predict in one call: files, folders, patterns, videos, published sets or arrays, into files or results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv import distributed
from fullconv.errors import UsageError
from fullconv.inference.batch import PredictionResults, Progress, predict_batch
from fullconv.inference.inputs import gather, of_dataset, of_images, of_shard, part_of
from fullconv.inference.large_image.tiling_options import TilingOptions
from fullconv.inference.outputs import OutputWriter
from fullconv.inference.request import PredictRequest, load_with_passes
from fullconv.io.decoding import MAX_PIXELS

if TYPE_CHECKING:
    from fullconv.inference.model import Model


def predict(
    model: str | Path | Model,
    inputs: Any,
    out: str | Path | None = None,
    *,
    overlay: bool = False,
    probability: bool = False,
    entropy: bool = False,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    tile: int | str = "auto",
    halo: int | None = None,
    memory: int | None = None,
    max_pixels: int | None = None,
    format: str | None = None,
    precision: str = "fp32",
    engine: str | None = None,
    split: str | None = None,
    recursive: bool = False,
    every: int = 1,
    skip_existing: bool = False,
    shard: str | None = None,
    ray: str | None = None,
    ray_workers: int | None = None,
    submission: str | None = None,
    progress: Progress | None = None,
    log: Callable[[str], Any] | None = None,
) -> PredictionResults:
    """Segment images, and write what ``fullconv predict`` writes.

    Args:
        model: The path of a checkpoint or of an exported file, or a model that is loaded.
        inputs: A path, a pattern, ``@LIST`` or ``NAME:DIR``, or images in memory as a `Model` takes them; or a sequence
            of either.
        out: The folder of ``NAME.png``. Without it nothing is written, each record holds its segmentation, and images
            go through the model as a whole.
        overlay: Also write ``NAME.overlay.jpg``; for a video ``NAME.overlay.mp4``.
        probability: Also write ``NAME.probability.png``, the probability of the predicted class.
        entropy: Also write ``NAME.entropy.png``.
        flip: Average the probabilities with those of the mirrored image.
        scales: Average the probabilities over these sizes.
        tile: ``auto``, ``none``, or the side of the tiles of an image that is larger than memory allows.
        halo: Pixels around each tile, if fewer than the model needs.
        memory: Bytes that the process may use.
        max_pixels: The largest image that is decoded.
        format: ``png`` or ``tif``.
        precision: ``fp32``, ``bf16`` or ``auto``.
        engine: ``torch`` (the default), ``onnx``, ``openvino``, ``compile``, ``eager``, or ``auto`` for the fastest
            that agrees. An exported file runs in its own.
        split: The split of a published set.
        recursive: Include subfolders.
        every: Use every n-th frame of a video.
        skip_existing: Leave out images whose files exist.
        shard: ``I/N``: only part I of N of the images. Under torchrun each process predicts its own part.
        ray: Address of a Ray cluster, or ``local``.
        ray_workers: How many workers of it.
        submission: ``comp5`` or ``comp6``: also write ``submission.zip`` for the server of PASCAL VOC.
        progress: Called with the number of images done, and of those expected.
        log: Called with lines about engines and large images.

    Returns:
        One record an image, in the order of the inputs; an image that cannot be read has an error, and the others are
        done.

    Raises:
        UsageError: An argument is wrong, or an input does not exist.
        RunError: There is not enough memory, or a file cannot be written.

    """
    progress, log = progress or (lambda done, expected: None), log or (lambda line: None)
    folder = None if out is None else Path(out)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: it is a file; give a folder for the masks")
    side = int(tile) if isinstance(tile, str) and tile.isdecimal() else tile
    options = TilingOptions(side, halo, memory, MAX_PIXELS if max_pixels is None else max_pixels, format)
    for flag, value in (("every", every), ("ray-workers", ray_workers)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: give 1 or more")
    if ray and shard:
        raise UsageError("--ray: it divides the images by itself; leave --shard out")
    if distributed.place()[1] > 1 and (shard or ray):
        raise UsageError("torchrun: it divides the images by itself; leave --shard and --ray out")
    number, count = part_of(shard)
    if count > 1 and submission:
        raise UsageError("--submission: it needs all images; leave --shard and torchrun out")
    words = list(inputs) if isinstance(inputs, list | tuple | Iterator) else [inputs]
    if not any(isinstance(word, str | Path) for word in words):
        found = of_images(words)
    else:
        words = [str(word) for word in words]
        found = of_dataset(words, split, submission) or gather(words, folder, recursive)
    found = of_shard(found, number, count)
    if ray and (folder is None or not isinstance(model, str | Path)):
        raise UsageError("--ray: the workers need files; give the path of the model and --out")
    outputs = None
    if folder is not None:
        outputs = OutputWriter(folder, overlay, probability, entropy)
        outputs.refuse_clashes(found)
        folder.mkdir(parents=True, exist_ok=True)

    source = Path(model) if isinstance(model, str | Path) else model
    request = PredictRequest(source, engine, precision, len(found), tuple(scales), flip, options)
    first = next((given.read for given in found if given.video is None), None)
    # A fault of the model is reported here, once, and an engine is chosen for all.
    loaded = load_with_passes(request, outputs, first, log)
    results = PredictionResults()
    progress(0, len(found))
    if ray:
        from fullconv.inference.ray_cluster import predict_on_cluster

        assert outputs is not None
        predict_on_cluster(ray, ray_workers, request, found, outputs, results, every, skip_existing, progress)
    else:
        predict_batch(loaded, found, outputs, results, every, skip_existing, progress)
    if submission and not results.failed and folder is not None:
        from fullconv.evaluation.submission import submission as write_submission

        results.submission = folder / "submission.zip"
        year = str(words[0]).partition(":")[0].removeprefix("voc")
        sizes = {facts["name"]: (facts["height"], facts["width"]) for facts in results.written}
        write_submission(folder, sizes, year, submission, results.submission)
    return results
