"""A file of any size to a label file: planned first, then row by row, in the memory that the plan says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Image, photograph
from fullconv.errors import RunError, shown
from fullconv.inference.large_image.plan import TilingPlan, fits_easily, plan
from fullconv.inference.large_image.strips import labels_by_strip
from fullconv.inference.large_image.tiles import (
    Labels,
    Rows,
    Tile,
    blended_labels,
    labels_by_tile,
    scores_by_tile,
)
from fullconv.inference.large_image.tiling_options import TilingOptions
from fullconv.inference.model import Model
from fullconv.inference.predictor import Predictor
from fullconv.io.decoding import MAX_PIXELS
from fullconv.io.image import write_overlay
from fullconv.io.row_writer import row_writer
from fullconv.io.windowed import Source, open_source, outline
from fullconv.profiling import process_memory
from fullconv.profiling.process_memory import format_bytes

OVERLAY = 16_000_000
"""Pixels of an overlay at most: that of a larger image is made at a reduced size, to be looked at."""

DECODING = 7
"""Bytes of a pixel while a photograph is decoded: 4 in the decoder, 3 here."""

CORNER = 64
"""The side of the squares at the corners of tiles where a small halo is compared with the exact one."""

COMPARED = 2
"""Tiles at whose corners that is done."""


@dataclass
class Facts:
    """What was done: the plan, what was written by kind, and what can be said of it.

    reduced: one of so many pixels is shown in the overlay, on each axis. differ: of a halo that is too small, the
    labels at the corners of some tiles that are not the exact ones, and how many were compared.
    """

    plan: TilingPlan
    written: dict[str, Path] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    reduced: int = 1
    differ: tuple[int, int] | None = None
    seconds: float = 0.0
    peak: int = 0


def is_ordinary(predictor: Model, path: Path, settings: TilingOptions, stream: BinaryIO | None = None) -> bool:
    """Whether an image is predicted in memory as a whole: it fits, and its file has no coordinates on the earth.

    stream: the file, if it is open already. Raises `UsageError` naming a file that cannot be read.
    """
    found = outline(path, predictor.header.input.bands, settings.max_pixels, stream)
    wants_tif = settings.format == "tif" or (settings.format is None and found.place is not None)
    if wants_tif or settings.memory is not None or settings.tile not in ("auto", "none") or settings.halo is not None:
        return False
    if settings.max_pixels > MAX_PIXELS and found.height * found.width > MAX_PIXELS:
        return False
    if settings.tile == "none" or fits_easily(predictor, found.height, found.width):
        return True
    return plan(predictor, found.height, found.width).way == "whole"


def predict_file(
    predictor: Model,
    path: Path,
    out: Path,
    name: str,
    settings: TilingOptions | None = None,
    overlay: bool = False,
    planned: Callable[[TilingPlan], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Facts:
    """Predict the image in a file of any size into ``out/name.png`` (or ``.tif``), of a net with two heads into
    ``name.geometric`` too; with ``overlay``, ``name.overlay.jpg``.

    planned: called with the plan before anything is computed; progress: with the rows that are done, and all. Every
    file appears whole or not at all. Raises `UsageError` for what cannot be read, `RunError` for too little memory
    and for what cannot be written.
    """
    settings, began = settings or TilingOptions(), time.monotonic()
    found = outline(path, predictor.header.input.bands, settings.max_pixels)
    room = process_memory.available() if settings.memory is None else settings.memory - process_memory.resident()
    if settings.memory is not None and room <= 0:
        raise RunError(
            f"--memory: {format_bytes(settings.memory)} are less than the {format_bytes(process_memory.resident())} "
            "that the process has with its net, before any image; give more"
        )
    decoding = 0 if found.windowed else DECODING * found.height * found.width
    if decoding >= room:
        raise RunError(
            f"{shown(path)}: {format_bytes(decoding)} are needed to decode {found.height}x{found.width} pixels, and "
            f"there are {format_bytes(max(0, room))}; free memory or raise --memory, or save it as a TIFF of tiles, "
            "which is read in windows"
        )
    with open_source(
        path, predictor.header.input.bands, len(predictor.header.input.mean), settings.max_pixels
    ) as image:
        process_memory.trim()  # what decoding took
        budget = None if settings.memory is None else settings.memory - process_memory.resident()
        chosen = plan(predictor, image.height, image.width, settings.tile, settings.halo, budget, image.bytes_of_row)
        chosen = replace(chosen, held=image.bytes)
        facts = Facts(chosen)
        if planned is not None:
            planned(chosen)
        if chosen.uncertain and chosen.reach is not None:
            facts.differ = sample(predictor, image, chosen)
        _write(predictor, image, facts, out, name, settings, overlay, progress)
    facts.seconds, facts.peak = time.monotonic() - began, process_memory.peak()
    return facts


def labels_of(predictor: Model, image: Rows, chosen: TilingPlan) -> Iterator[Labels]:
    """The classes of an image by task, in rows from top to bottom, as planned."""
    if chosen.way == "strips":
        columns = [(tile.box[1], tile.box[3], tile.seen[1], tile.seen[3]) for tile in chosen.tiles]
        assert isinstance(predictor, Predictor)
        return labels_by_strip(predictor, image, chosen.rows, columns, chosen.bytes)
    if chosen.way == "blended":
        return blended_labels(image, (chosen.rows, chosen.columns), chosen.around, predictor.coarse)
    whole = (0, 0, image.height, image.width)
    return labels_by_tile(image, chosen.tiles or (Tile(whole, whole),), predictor.coarse)


def sample(predictor: Model, image: Rows, chosen: TilingPlan) -> tuple[int, int]:
    """Of a halo that is too small: the labels at the lower right corners of some tiles that differ from the exact ones,
    and how many were compared. There, at a crossing of seams, the most is missing.
    """
    assert chosen.reach is not None
    inner = [tile for tile in chosen.tiles if tile.box[2] < image.height or tile.box[3] < image.width]
    differ = compared = 0
    for tile in inner[:: max(1, len(inner) // COMPARED)][:COMPARED]:
        top, left, bottom, right = tile.box
        corner = (max(top, bottom - CORNER), max(left, right - CORNER), bottom, right)
        far, period = chosen.reach, chosen.reach.period
        exact = Tile(corner, (
            max(0, corner[0] - far.before) // period * period, max(0, corner[1] - far.before) // period * period,
            min(image.height, bottom + far.after), min(image.width, right + far.after),
        ))  # fmt: skip
        given, wanted = ({task: scores.prediction() for task, scores in found.items()}
                         for part in (Tile(corner, tile.seen), exact)
                         for _, found in scores_by_tile(image, [part], predictor.coarse))  # fmt: skip
        differ += sum(int((given[task] != wanted[task]).sum()) for task in given)
        compared += sum(labels.size for labels in given.values())
    return differ, compared


def _write(
    predictor: Model, image: Source, facts: Facts, out: Path, name: str, settings: TilingOptions, overlay: bool,
    progress: Callable[[int, int], Any] | None,
) -> None:  # fmt: skip
    """Predict, and write what comes as it comes."""
    suffix = settings.format or ("tif" if image.place is not None else "png")
    spaces = predictor.header.tasks
    endings = {"semantic": "", "geometric": ".geometric"}
    facts.reduced = step = next(n for n in range(1, 1 << 20) if image.height * image.width <= OVERLAY * n * n)
    small: dict[str, list[NDArray[Any]]] = {task: [] for task in spaces}
    shown_rows: list[Image] = []
    present = np.zeros(max(len(space) for space in spaces.values()), bool)
    done = 0
    with ExitStack() as stack:
        writers = {
            task: stack.enter_context(
                row_writer(out / f"{name}{endings[task]}.{suffix}", image.height, image.width, space, image.place)
            )
            for task, space in spaces.items()
        }
        for found in labels_of(predictor, image, facts.plan):
            rows = len(found["semantic"])
            for task, writer in writers.items():
                writer.write(found[task])
            for row in found["semantic"]:
                present |= np.bincount(row, minlength=len(present)) > 0
            if overlay:
                first = -done % step
                for task in spaces:
                    small[task].append(found[task][first::step, ::step].copy())
                shown_rows.append(image.rows(done, done + rows)[first::step, ::step].copy())
            done += rows
            if progress is not None:
                progress(done, image.height)
    for task, space in spaces.items():
        facts.written[f"output{endings[task]}"] = out / f"{name}{endings[task]}.{suffix}"
        if overlay:
            target = out / f"{name}{endings[task]}.overlay.jpg"
            write_overlay(target, photograph(np.concatenate(shown_rows)), np.concatenate(small[task]), space)
            facts.written[f"overlay{endings[task]}"] = target
    facts.classes = sorted(space_name for space_name, is_there in zip(predictor.labels.names, present, strict=False)
                           if is_there)  # fmt: skip


def described(facts: Facts) -> dict[str, Any]:
    """The facts as plain numbers and strings, for JSON."""
    chosen = facts.plan
    return {
        **{what: shown(path) for what, path in facts.written.items()},
        "height": chosen.height,
        "width": chosen.width,
        "classes": facts.classes,
        "way": chosen.way,
        **({} if chosen.way == "whole" else {"tile": [chosen.rows, chosen.columns], "around": chosen.around,
                                             "seen": round(chosen.seen, 4), "uncertain": round(chosen.uncertain, 4)}),
        "planned_bytes": chosen.bytes,
        "image_bytes": chosen.held,
        "peak_bytes": facts.peak,
        "seconds": round(facts.seconds, 3),
        **({} if facts.differ is None else {"differ": facts.differ[0], "compared": facts.differ[1]}),
        **({"overlay_reduced": facts.reduced} if facts.reduced > 1 and "overlay" in facts.written else {}),
    }  # fmt: skip
