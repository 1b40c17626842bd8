"""A run in a folder: `model.safetensors` (the best), `last/` (training state), `log.jsonl` (the records), and
`split.json` where the split was made here.

What is here only consumes the records of `fit`: it writes them down, saves the state, keeps the best net.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fullconv import __version__, weights
from fullconv.atomic import write_atomically
from fullconv.config import CONVENTIONS, InputConvention, ModelConfig, TrainConfig, to_mapping
from fullconv.data import CHANNELS, Dataset, modalities_of, tasks_of
from fullconv.errors import UsageError
from fullconv.evaluation import evaluate
from fullconv.inference import Predictor
from fullconv.metrics import Scores
from fullconv.models import build
from fullconv.training import Record, State, chosen_precision, fit, kept
from fullconv.training.checkpoint import newest_state, restore, save_state
from fullconv.training.guards import doubt_of_input, refuse_dead_layers, refuse_lost_norms
from fullconv.weights import Header
from fullconv.weights.transplant import Transplant, transplant


@dataclass(frozen=True)
class Run:
    """A run that is ready to start or to go on.

    facts: what must be the same when the run is resumed: settings, data, starting weights.
    transplant: what was taken from the starting weights; None when they are random. doubts: what does not look right, a
    sentence each.
    """

    folder: Path
    state: State
    header: Header
    config: TrainConfig
    dataset: Dataset
    validation: Dataset | None
    facts: dict[str, Any]
    best: float | None
    transplant: Transplant | None
    doubts: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of steps of the whole run."""
        return self.config.total_steps(len(self.dataset))


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the classes and the names of the samples in their order: what resume compares."""
    names = [name for name, *_ in getattr(dataset, "pairs", ())] or [str(len(dataset))]
    return hashlib.sha256(json.dumps([dataset.labels.to_dict(), names]).encode()).hexdigest()


def prepare(
    folder: Path,
    data: str,
    dataset: Dataset,
    validation: Dataset | None,
    model: ModelConfig,
    config: TrainConfig,
    convention: InputConvention,
    start: Path | None = None,
    resume: bool = False,
    command: str | None = None,
) -> Run:
    """Make the net and its optimizer, or take up the newest state in the folder.

    start: weights to begin from. command: what was typed, for the report. Raises `UsageError` when the folder holds
    a run already and `resume` is not asked for, or when it is and the settings differ from those it was begun with.
    """
    if not len(dataset):
        raise UsageError(f"{data}: the training split is empty; add images")
    if validation is not None and len(validation.labels) != len(dataset.labels):
        raise UsageError(
            f"{data}: {len(dataset.labels)} classes in train, {len(validation.labels)} in val; give a classes.yaml"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: it is a file; give a folder for the run")
    _refuse_a_leak(data, dataset, validation)
    model = suited(data, dataset, model)
    convention = input_of(dataset, convention)
    torch.manual_seed(config.seed)
    found = newest_state(folder / "last") if resume else None
    if not resume and (folder / "last").is_dir() and any((folder / "last").iterdir()):
        raise UsageError(f"{folder}: it holds a run already; add --resume to go on with it, or give another --out")

    net = build(model)
    taken, begun_with, doubt = None, None, None
    if start is not None:
        tensors, _ = weights.load(start)
        taken = transplant(net, tensors, str(start))
        begun_with = weights.fingerprint(tensors)
        refuse_dead_layers(net, str(start))
        refuse_lost_norms(net, config, str(start))
        doubt = None if found else doubt_of_input(tensors, model, convention, dataset)
    # What was left to be decided is decided here, so that it is written down and compared on resume.
    config = replace(
        config,
        precision="bf16" if chosen_precision(config.precision) == torch.bfloat16 else "fp32",
        freeze_bn=start is not None if config.freeze_bn is None else config.freeze_bn,
    )
    facts = {
        "data": data_fingerprint(dataset),
        "weights": begun_with,
        "model": to_mapping(model),
        "input": convention.to_dict(),
        # How many processes load, and how often the state is saved, decide nothing of the result.
        "train": {k: v for k, v in to_mapping(config).items() if k not in ("workers", "save_every")},
    }
    state = State.of(net, config)
    best = None
    if found is not None:
        _refuse_changes(folder, found[1], facts)
        restore(state, *found)
        best = found[1].get("best")
    provenance = {
        "fullconv": __version__,
        "torch": torch.__version__,
        "data": data,
        "images": len(dataset),
        "weights": str(start) if start else None,
        "train": facts["train"],
        "command": command,
    }
    geometric = tasks_of(dataset).get("geometric")
    header = Header(model, dataset.labels, convention, provenance=provenance, geometric=geometric)
    return Run(folder, state, header, config, dataset, validation, facts, best, taken, (doubt,) if doubt else ())


def is_finished(run: Run) -> bool:
    """Whether the run has done all its steps, and its net and report are there."""
    return run.state.step >= run.total and all(
        (run.folder / name).is_file() for name in ("model.safetensors", "report.html")
    )


def suited(data: str, dataset: Dataset, model: ModelConfig) -> ModelConfig:
    """The settings of a net with what follows from the data: classes, heads, channels. Colour and HHA are two streams
    whose scores are averaged, as released, unless the settings say otherwise (``channels`` 6: early fusion).

    Raises `UsageError` for settings that ask for what the data has not.
    """
    geometric = tasks_of(dataset).get("geometric")
    heads = None if geometric is None else len(geometric)
    if model.geometric_classes not in (None, heads):
        raise UsageError(f"{data}: it has {heads or 'no'} geometric classes; leave out --geometric-classes")
    modalities = modalities_of(dataset)
    channels = sum(CHANNELS[modality] for modality in modalities)
    two_streams = modalities == ("color", "hha") and model.channels != channels
    if model.channels not in (3, channels) or (model.late_fusion != "none" and not two_streams):
        has = f"{channels} channels ({' and '.join(dict.fromkeys(modalities))})"
        raise UsageError(f"{data}: its images have {has}; leave out --channels and --late-fusion")
    return replace(
        model,
        num_classes=len(dataset.labels),
        geometric_classes=heads,
        channels=3 if two_streams else channels,
        late_fusion=("average" if model.late_fusion == "none" else model.late_fusion) if two_streams else "none",
    )


def input_of(dataset: Dataset, convention: InputConvention) -> InputConvention:
    """The input convention of the weights, with the means of what the images have beyond colour. HHA has its own means
    and is never reversed, and is scaled as colour is, since the same weights read it.
    """
    modalities = modalities_of(dataset)
    if "band" in modalities:
        return _input_of_bands(dataset, convention)
    if len(convention.mean) == sum(CHANNELS[modality] for modality in modalities) and "color" in modalities:
        return convention
    hha = CONVENTIONS["nyud-hha"].mean
    if "color" not in modalities:
        return InputConvention("rgb", hha, convention.std[:3])
    mean, std = convention.mean[:3], convention.std[:3]
    if "hha" in modalities:
        return InputConvention(convention.order, mean + hha, std + std)
    return InputConvention(convention.order, mean + CONVENTIONS["nyud-color-d"].mean[3:], (*std, 1.0))


def _input_of_bands(dataset: Dataset, convention: InputConvention) -> InputConvention:
    """The convention of bands, from the data: each gets the mean and the deviation that photographs have for the
    weights, so that pretrained filters see what they are used to.
    """
    if convention.bands and len(convention.mean) == len(modalities_of(dataset)):
        return convention  # of a net that was trained on such bands
    if not hasattr(dataset, "statistics"):
        raise UsageError("bands: this data set does not say their statistics; give it a method statistics()")
    mean, deviation = dataset.statistics()
    natural = CONVENTIONS["torchvision"].std  # the deviation of photographs, in units of 0 to 255
    scale = [convention.std[min(n, 2)] / natural[min(n, 2)] for n in range(len(mean))]
    if convention.order == "bgr":  # mean and std are in the net's order
        mean, deviation = mean[2::-1] + mean[3:], deviation[2::-1] + deviation[3:]
    std = tuple(d * s for d, s in zip(deviation, scale, strict=True))
    return InputConvention(convention.order, mean, std, bands=True)


def _refuse_a_leak(data: str, dataset: Dataset, validation: Dataset | None) -> None:
    """Training and validation on the same photographs (SBD's training photographs are among those of VOC's val)."""
    collections = [getattr(getattr(split, "about", None), "photographs", "") for split in (dataset, validation)]
    if validation is None or not collections[0] or collections[0] != collections[1]:
        return
    names = [{name for name, *_ in getattr(split, "pairs", ())} for split in (dataset, validation)]
    shared = sorted(names[0] & names[1])
    if shared:
        raise UsageError(
            f"{data}: {len(shared):,} of the {len(names[1]):,} validation images are among those to train on "
            f"({', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}); validate on a split without them "
            "(voc2011's seg11valid, where SBD is trained on)"
        )


def _refuse_changes(folder: Path, saved: dict[str, Any], facts: dict[str, Any]) -> None:
    standards = {"model": to_mapping(ModelConfig()), "train": to_mapping(TrainConfig())}
    for part, now in facts.items():
        before = saved.get(part)
        if isinstance(before, dict):  # a setting that is younger than the run was at its default
            younger = {key: value for key, value in standards.get(part, {}).items() if key in now and key not in before}
            before = {**younger, **before}
        if before == now:
            continue
        if isinstance(now, dict) and isinstance(before, dict):
            changed = next(key for key in sorted({*now, *before}) if now.get(key) != before.get(key))
            raise UsageError(
                f"{folder}: {changed} was {before.get(changed)} when this run began and is {now.get(changed)} now; "
                "give the same settings, or another --out"
            )
        raise UsageError(f"{folder}: the {part} changed since this run began; give the same, or another --out")


def records(run: Run) -> Iterator[Record]:
    """Train to the end, yielding each record after it is written to the log and what it asks for is saved."""
    log = run.folder / "log.jsonl"
    run.folder.mkdir(parents=True, exist_ok=True)
    _cut_log(log, run.state.step)
    write_split(run)
    best = run.best
    predictor = Predictor(run.state.net, run.header, run.config.precision)

    def score(net: torch.nn.Module) -> Scores:
        assert run.validation is not None
        return evaluate(predictor, run.validation)

    with log.open("a", encoding="utf-8") as file:
        scorer = score if run.validation is not None else None
        for record in fit(run.state, run.dataset, run.config, run.header.input, score=scorer):
            file.write(json.dumps(as_json(record, run.header.labels.names)) + "\n")
            file.flush()
            last = record.step == run.total
            reached = record.scores.mean_iu if record.scores is not None else None
            if (reached is not None and (best is None or reached > best)) or (last and best is None):
                best = reached
                save_best(run, record)
            if last or record.step % run.config.save_every == 0:
                save_state(run.folder / "last", run.state, {**run.facts, "best": best})
            yield record


def write_split(run: Run) -> None:
    """Write down which images train and which validate, when the folder did not say and the split was made here."""
    made = getattr(run.dataset, "split_made", None)
    if made is None:
        return
    names = {split: [name for name, *_ in getattr(data, "pairs", ())]
             for split, data in (("train", run.dataset), ("val", run.validation))}  # fmt: skip
    write_atomically(run.folder / "split.json", json.dumps({"how": made, **names}, indent=1).encode())


def save_best(run: Run, record: Record) -> None:
    """Write `model.safetensors` as the net is now, with the scores it reached in its provenance."""
    reached = record.scores.to_dict(run.header.labels.names) if record.scores is not None else None
    provenance = {**run.header.provenance, "step": record.step, "val": reached}
    with kept(run.state) as net:
        weights.save(run.folder / "model.safetensors", net.state_dict(), replace(run.header, provenance=provenance))


def as_json(record: Record, names: tuple[str, ...]) -> dict[str, Any]:
    """A record as a line of the log."""
    plain = {key: value for key, value in asdict(record).items() if key != "scores"}
    return plain if record.scores is None else {**plain, "scores": record.scores.to_dict(names)}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a last line that was cut short by a kill is left out."""
    lines = []
    path = folder / "log.jsonl"
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _cut_log(log: Path, step: int) -> None:
    """Drop the records after `step`: those steps are about to be done again."""
    if log.exists():
        kept = [line for line in read_log(log.parent) if line["step"] <= step]
        write_atomically(log, "".join(json.dumps(line) + "\n" for line in kept).encode())
