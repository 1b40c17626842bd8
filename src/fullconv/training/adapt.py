"""What the data asks of a net and of a run: classes, heads, channels, the input convention; and what may not go
together.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullconv.config import CONVENTIONS, InputConvention, ModelConfig
from fullconv.data.dataset import CHANNELS, Dataset, facts_of
from fullconv.errors import UsageError
from fullconv.models.fcn import FCN


def suited(data: str, dataset: Dataset, model: ModelConfig) -> ModelConfig:
    """The settings of a net with what follows from the data: classes, heads, channels. Colour and HHA are two streams
    whose scores are averaged, as released, unless the settings say otherwise (``channels`` 6: early fusion).

    Raises `UsageError` for settings that ask for what the data has not.
    """
    geometric = facts_of(dataset).tasks.get("geometric")
    heads = None if geometric is None else len(geometric)
    if model.geometric_classes not in (None, heads):
        raise UsageError(f"{data}: it has {heads or 'no'} geometric classes; leave out --geometric-classes")
    modalities = facts_of(dataset).modalities
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


def refuse_unsuited(net: FCN, dataset: Dataset, convention: InputConvention) -> None:
    """Raise `UsageError` if the classes or the channels of net, dataset and input convention differ."""
    has, wanted = len(dataset.labels), net.num_classes
    if has != wanted:
        raise UsageError(f"fit: the net has {wanted} classes and the dataset {has}; build it with num_classes={has}")
    facts = facts_of(dataset)
    if facts.tasks.keys() != net.tasks.keys():
        heads = [" and ".join(tasks) for tasks in (net.tasks, facts.tasks)]
        raise UsageError(
            f"fit: the net has heads for {heads[0]}, the dataset labels for {heads[1]}; set geometric_classes"
        )
    images, takes = sum(CHANNELS[modality] for modality in facts.modalities), net.config.channels * len(net.streams)
    if not images == takes == len(convention.mean):
        raise UsageError(
            f"fit: images of {images} channels, an input convention for {len(convention.mean)} and a net for {takes}; "
            "give all the same"
        )


def input_of(dataset: Dataset, convention: InputConvention) -> InputConvention:
    """The input convention of the weights, with the means of what the images have beyond colour. HHA has its own means
    and is never reversed, and is scaled as colour is, since the same weights read it.
    """
    modalities = facts_of(dataset).modalities
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
    if convention.bands and len(convention.mean) == len(facts_of(dataset).modalities):
        return convention  # of a net that was trained on such bands
    statistics = facts_of(dataset).statistics
    if statistics is None:
        raise UsageError("bands: this data set does not say their statistics; give it a method statistics()")
    mean, deviation = statistics()
    natural = CONVENTIONS["torchvision"].std  # the deviation of photographs, in units of 0 to 255
    scale = [convention.std[min(n, 2)] / natural[min(n, 2)] for n in range(len(mean))]
    if convention.order == "bgr":  # mean and std are in the net's order
        mean, deviation = mean[2::-1] + mean[3:], deviation[2::-1] + deviation[3:]
    std = tuple(d * s for d, s in zip(deviation, scale, strict=True))
    return InputConvention(convention.order, mean, std, bands=True)


def refuse_a_leak(data: str, dataset: Dataset, validation: Dataset | None) -> None:
    """Training and validation on the same photographs (SBD's training photographs are among those of VOC's val)."""
    if validation is None:
        return
    facts = [facts_of(split) for split in (dataset, validation)]
    if not facts[0].photographs or facts[0].photographs != facts[1].photographs:
        return
    names = [{name for name, *_ in one.pairs} for one in facts]
    shared = sorted(names[0] & names[1])
    if shared:
        raise UsageError(
            f"{data}: {len(shared):,} of the {len(names[1]):,} validation images are among those to train on "
            f"({', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}); validate on a split without them "
            "(voc2011's seg11valid, where SBD is trained on)"
        )


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the classes, and the names and file sizes of the samples in their order: what resume compares."""
    samples: list[Any] = []
    for name, *files in facts_of(dataset).pairs:
        sizes = [file.stat().st_size for file in files if isinstance(file, Path) and file.is_file()]
        samples.append([name, *sizes])
    return hashlib.sha256(json.dumps([dataset.labels.to_dict(), samples or len(dataset)]).encode()).hexdigest()
