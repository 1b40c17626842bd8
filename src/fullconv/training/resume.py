"""What is not as it was when a run began, asked when it is to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullconv.config import ModelConfig, TrainConfig, to_mapping
from fullconv.errors import UsageError

NEVER = {"model", "optimizer", "ema"}
"""With a change of these the saved state is one of something else."""


def differences(saved: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, by name: (then, now). A setting that is younger than the run was at its default.

    >>> differences({"data": "a", "train": {"lr": 1.0}}, {"data": "b", "train": {"lr": 2.0}})
    {'data': ('a', 'b'), 'lr': (1.0, 2.0)}
    """
    standards = {"model": to_mapping(ModelConfig()), "train": to_mapping(TrainConfig())}
    found: dict[str, tuple[Any, Any]] = {}
    for part, now in facts.items():
        then = saved.get(part)
        if not isinstance(now, Mapping) or not isinstance(then, Mapping):
            if then != now:
                found[part] = (then, now)
            continue
        then = {**{key: value for key, value in standards.get(part, {}).items() if key in now}, **then}
        names = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        found |= {name: (then.get(name), now.get(name)) for name in names}
        if part in NEVER and names:
            found[part] = (", ".join(names), "another")
    return found


def settle(folder: Path, saved: Mapping[str, Any], facts: Mapping[str, Any], force: bool) -> str | None:
    """The differences as a sentence when `force` lets the run go on in spite of them, None when there are none.

    Raises `UsageError` with all of them where it is not asked for, or where the saved state would not fit.
    """
    changed = differences(saved, facts)
    if not changed:
        return None
    words = []
    for name, (then, now) in changed.items():
        if name in NEVER and isinstance(facts.get(name), Mapping):
            continue
        if name in ("data", "weights"):
            what = "the images, masks or classes" if name == "data" else "the weights to begin with"
            words.append(f"{what} changed since this run began")
        else:
            words.append(f"{name} was {then} when this run began and is {now} now")
    said = "; ".join(words)
    never = sorted(NEVER & changed.keys())
    if never or not force:
        way = "give the same settings, or another --out"
        raise UsageError(f"{folder}: {said}; {way}" + ("" if never else "; --force goes on with what is given now"))
    return f"{said} (--force)"


def surroundings(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A sentence where a run goes on in other surroundings: it is still right, but not the same to the bit."""
    words = [
        f"{name} {then[name]} then and {now[name]} now" for name in now if name in then and then[name] != now[name]
    ]
    return f"the run goes on, but not to the bit as without the stop: {', '.join(words)}" if words else None
