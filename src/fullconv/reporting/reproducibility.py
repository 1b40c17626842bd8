"""The last sections of a run's report: its settings, and what else is needed to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fullconv.config import InputConvention, ModelConfig, TrainConfig, to_mapping
from fullconv.inference.predictor import Predictor
from fullconv.reporting.formatting import plain
from fullconv.reporting.page import Code, Section, Table
from fullconv.training.environment import environment

_ORDER = ("fullconv", "torch", "python", "numpy", "pillow", "processor", "threads", "memory", "system")
_DIGITS = 16


def settings_section(predictor: Predictor) -> Section:
    """Every setting with its value and meaning."""
    header = predictor.header
    tables = (
        ("Model", ModelConfig, to_mapping(header.model)),
        ("Training", TrainConfig, header.provenance.get("train") or {}),
        ("Input: how pixels become the input of the net", InputConvention, header.input.to_dict()),
    )
    text = "Marked: what is not as it is by default."
    return Section("Settings", text, tuple(_setting_table(*table) for table in tables if table[2]))


def _setting_table(caption: str, settings: type, values: Mapping[str, Any]) -> Table:
    meaning = {spec.name: str(spec.metadata.get("help", "")) for spec in fields(settings)}
    order = [*(name for name in meaning if name in values), *(name for name in values if name not in meaning)]
    rows = tuple((name, plain(values[name]), meaning.get(name, "")) for name in order)
    usual = to_mapping(settings()) if settings is not InputConvention else {}
    other = frozenset((i, 1) for i, name in enumerate(order) if name in usual and values[name] != usual[name])
    if not all(row[2] for row in rows):
        return Table(("setting", "value"), tuple(row[:2] for row in rows), caption, None, other)
    return Table(("setting", "value", "meaning"), rows, caption, None, other)


def again_section(predictor: Predictor) -> Section:
    """What else is needed to do it again: data, weights, versions, machine, command."""
    provenance = predictor.header.provenance
    noted = provenance.get("environment")
    versions = {key: str(provenance[key]) for key in ("fullconv", "torch") if provenance.get(key)}
    found = {**environment(), **versions, **(noted if isinstance(noted, Mapping) else {})}
    rows = (
        ("data", plain(provenance.get("data"))),
        *((f"data fingerprint{part}", digits) for part, digits in fingerprints(provenance).items()),
        ("classes", str(len(predictor.labels))),
        ("weights begun with", plain(provenance.get("weights") or "none, random")),
        ("parameters", f"{sum(p.numel() for p in predictor.net.parameters()):,}"),
        *((name, plain(found[name])) for name in (*_ORDER, *sorted(set(found) - set(_ORDER))) if name in found),
    )
    parts: tuple[Table | Code, ...] = (Table(("what", "which"), rows),)
    if provenance.get("command"):
        parts += (Code(str(provenance["command"]), "The command of this run."),)
    text = "Versions and machine are those of the training."
    if not isinstance(noted, Mapping):
        text = (
            "The versions of fullconv and torch are those of the training; the rest is of the machine that wrote this "
            "page."
        )
    if fingerprints(provenance):
        text += " The data fingerprint is the beginning of a SHA-256: with other data it differs."
    return Section("To do it again", text, parts)


def fingerprints(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The noted fingerprint of the data, or those of its splits: what to add to a name -> the first digits.

    >>> fingerprints({"data_fingerprint": {"train": "ab" * 32, "val": None}})
    {', train': 'abababababababab'}
    >>> fingerprints({"data_fingerprint": "cd" * 32}), fingerprints({})
    ({'': 'cdcdcdcdcdcdcdcd'}, {})
    """
    noted = provenance.get("data_fingerprint")
    if isinstance(noted, Mapping):
        return {f", {split}": str(digits)[:_DIGITS] for split, digits in noted.items() if digits}
    return {"": str(noted)[:_DIGITS]} if noted else {}
