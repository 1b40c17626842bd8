"""Runs side by side on one page: what they reached, in which settings they differ, class by class, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fullconv.io.atomic import write_atomically
from fullconv.reporting import figures
from fullconv.reporting.formatting import clock, counted, plain, with_sign
from fullconv.reporting.page import Figure, Section, Table, percent, render
from fullconv.reporting.run_facts import RunFacts, differences, notes, one_label_space
from fullconv.reporting.run_page import FOUR, NARROW

FAR = 0.05
"""A difference of the IU of a class that is marked."""


def write_compare_page(path: Path, runs: Sequence[RunFacts], said: Sequence[str] = ()) -> Path:
    """Write the page, whole or not at all, and return its path. It asks the network for nothing.

    runs: at least two, the one first that the others are compared to. said: sentences to begin the notes with. Raises
    `RunError` when the file cannot be written.
    """
    sections = [_reached(runs), _settings(runs)]
    if scored := with_classes(runs):
        sections.append(_classes(scored))
    if any(run.log for run in runs):
        sections.append(_curves(runs))
    known = [run for run in runs if run.scores and run.scores["mean_iu"] is not None]
    best = max(known, key=lambda run: run.scores["mean_iu"], default=None)  # type: ignore[index]
    lead = f"{counted(len(runs), 'run')}: {', '.join(run.name for run in runs)}."
    if best is not None and best.scores is not None:
        lead += f" {best.name} reaches the highest mean IU, {with_sign(percent(best.scores['mean_iu']))}."
    text = "\n\n".join([lead, *said, *notes(runs)])
    write_atomically(path, render("Runs compared", text, sections, {}).encode())
    return path


def header_of_runs() -> tuple[str, ...]:
    """The titles of the columns of `row_of_run`."""
    names = ("mean IU", "pixel acc.", "mean acc.", "f.w. IU")  # in the order of FOUR
    return ("run", *names, "best step", "steps", "time", "images/s", "parameters")


def row_of_run(run: RunFacts) -> tuple[str, ...]:
    """What a run reached and took, as texts."""
    rate = run.images_per_second
    return (
        run.name,
        *(percent(run.scores[key]) if run.scores else "-" for key in FOUR),
        f"{run.best_step:,}" if run.best_step and run.scores else "-",
        f"{run.steps:,}",
        clock(run.seconds),
        "-" if rate is None else f"{rate:.3g}",
        f"{run.parameters:,}",
    )


def _reached(runs: Sequence[RunFacts]) -> Section:
    rows = tuple(row_of_run(run) for run in runs)
    marked = set()
    for column, key in enumerate(FOUR, start=1):
        numbers = [run.scores[key] if run.scores else None for run in runs]
        known = [number for number in numbers if number is not None]
        if len(known) > 1:
            marked |= {(row, column) for row, number in enumerate(numbers) if number == max(known)}
    text = (
        "The best net of each run on its validation split, in percent, as noted during training; marked: the highest. "
        "The time (h:m:s) is that of the steps, without evaluation. The colours are those of the curves."
    )
    colours = tuple(figures.run_colour(place) for place in range(len(runs)))
    titles, last = header_of_runs(), 2 + len(FOUR)
    scores = Table(titles[:last], tuple(row[:last] for row in rows), "", colours, frozenset(marked))
    took = Table((titles[0], *titles[last:]), tuple((row[0], *row[last:]) for row in rows), "", colours)
    return Section("What they reached", text, (scores, took))


def _settings(runs: Sequence[RunFacts]) -> Section:
    found = differences(runs)
    if not found:
        return Section("Settings that differ", "None: net, training, input, data and versions are the same.")
    rows = tuple((name, *map(plain, values)) for name, values in found.items())
    marked = frozenset(
        (row, column)
        for row, values in enumerate(found.values())
        for column, value in enumerate(values, start=1)
        if value != values[0]
    )
    table = Table(("setting", *(run.name for run in runs)), rows, "", None, marked)
    text = f"All other settings are the same. Marked: what is not as in {runs[0].name}."
    return Section("Settings that differ", text, (table,))


def with_classes(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The runs whose classes can be compared: those with scores, when there are two or more and all have the same
    classes.
    """
    scored = [run for run in runs if run.scores]
    return scored if len(scored) > 1 and one_label_space(runs) else []


def class_rows(runs: Sequence[RunFacts]) -> tuple[tuple[str, ...], list[tuple[str, ...]], set[tuple[int, int]]]:
    """Titles, rows and the cells that stand out of the table of classes: the IU of the first run, then of each other
    its IU and by how many points it is higher.
    """
    first, *others = runs
    titles = ("class", first.name, *(title for run in others for title in (run.name, "±")))
    rows, marked = [], set()
    for place, name in enumerate(first.labels.names):
        reached = [run.scores["classes"][name]["iu"] if run.scores else None for run in runs]
        cells = [percent(reached[0])]
        for number, iu in enumerate(reached[1:]):
            apart = None if iu is None or reached[0] is None else iu - reached[0]
            cells += [percent(iu), "-" if apart is None else f"{100 * apart:+.1f}"]
            if apart is not None and abs(apart) >= FAR:
                marked.add((place, 3 + 2 * number))
        rows.append((name, *cells))
    return titles, rows, marked


def _classes(runs: Sequence[RunFacts]) -> Section:
    titles, rows, marked = class_rows(runs)
    text = (
        f"The IU of each class in percent, and by how many points it is above that of {runs[0].name}; marked: "
        f"{100 * FAR:.0f} points or more."
    )
    table = Table(titles, tuple(rows), "", runs[0].labels.palette, frozenset(marked))
    return Section("Classes", text, (table,))


def _curves(runs: Sequence[RunFacts]) -> Section:
    logs = {run.name: run.log for run in runs}
    alt = f"Curves of {', '.join(logs)}: loss and mean IU by step, mean IU by time."
    figure = Figure(figures.curves_together(logs), "", alt, figures.curves_together(logs, NARROW))
    last = tuple((run.name, f"{run.log[-1]['loss']:.4g}" if run.log else "-") for run in runs)
    colours = tuple(figures.run_colour(place) for place in range(len(runs)))
    return Section("Curves", "", (Table(("run", "last loss"), last, "", colours), figure))
