"""Kills, fills, cuts and flips: what is left of a run, in the counts that are promised (``make faults``).

    python benchmarks/faults.py                 # all, many minutes; writes benchmarks/results/faults.json
    python benchmarks/faults.py flips cost      # some of it, the rest stays as it was

What is done stands in tests/training, where the tests do the same in small counts. Every row says how often something
was tried and how often it went wrong; the command fails when a number is not what is promised. Kills and resumes use
the real disk of the temporary folder (TMPDIR chooses another).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fullconv.hardware import machine
from fullconv.training.loop import State
from fullconv.training.saved_state import save_state

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import damage, interrupted, ranks  # noqa: E402
from tests.support.faulty_disk import Disk, Tape, using  # noqa: E402

Row = dict[str, Any]


def crashing(what: str) -> Row:
    """From `crashing.py`, which forks and so is a process of its own."""
    command = [sys.executable, "-m", "tests.support.crashing", what]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return next(iter(json.loads(done.stdout).values()))


def kills(folder: Path) -> tuple[Row, bool]:
    found = crashing("kills=200")
    return found, found["kills"] == 200 and not found["torn"] + found["lost"] + found["leftovers"]


def operations(folder: Path) -> tuple[Row, bool]:
    found = crashing("operations")
    return found, found["old"] + found["new"] == found["deaths"] and not found["wrong"] + found["leftovers"]


def errors(folder: Path) -> tuple[Row, bool]:
    found = damage.errors_at_every_operation(folder)
    return found, found["old"] + found["new"] == found["faults"] and not found["wrong"] + found["leftovers"]


def power(folder: Path) -> tuple[Row, bool]:
    found = damage.power_losses(folder, Tape(), saves=8, tears=4)
    return found, not found["wrong"]


def full_disk(folder: Path) -> tuple[Row, bool]:
    found = crashing("full_disk=25")
    return found, found["clear"] == found["old"] == found["runs"] and not found["leftovers"]


def flips(folder: Path) -> tuple[Row, bool]:
    found = damage.flipped_bits(folder / "random", 1000)
    found["every_bit"] = damage.every_bit(folder / "every")
    return found, all(row["found"] == row["flips"] for row in (found, found["every_bit"]))


def resumes(folder: Path) -> tuple[Row, bool]:
    job = interrupted.Job(folder, steps=20)
    expected = interrupted.whole(job)
    found = {f"workers_{n}": interrupted.interrupted(job, expected, 25, n) for n in (0, 2)}
    return found, all(row["kills"] == 25 and not row["different"] for row in found.values())


def cost(folder: Path) -> tuple[Row, bool]:
    """A save beside `torch.save` of the same tensors, through a file that is flushed and forced: medians, by turns,
    each into an empty folder. ``into place``: written beside, renamed, and the folder is forced, which is what a save
    needs to outlive a power cut; in a small state these two waits for the disk are all its time. ``unforced``: nothing
    is forced in either.
    """
    found = {name: _cost(folder, channels) for name, channels in (("small", 64), ("large", 1536))}
    return found, found["large"]["ratio_to_torch_save"] <= 2 and found["small"]["ratio_to_torch_save_into_place"] <= 2


def _cost(folder: Path, channels: int, rounds: int = 9) -> Row:
    net = nn.Sequential(nn.Conv2d(channels // 4, channels, 7), nn.Conv2d(channels, channels, 3))
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = State(net, optimizer, 1)
    tensors = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    path, beside = folder / "torch.pt", folder / "torch.tmp"

    def plain(path: Path = path, force: bool = True) -> None:
        with path.open("wb") as file:
            torch.save(tensors, file)
            file.flush()
            if force:
                os.fsync(file.fileno())

    def into_place() -> None:
        plain(beside)
        beside.replace(path)
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def unforced() -> None:
        with using(Disk()):  # a disk that is never asked to force anything
            save_state(folder, state, {})

    ways: dict[str, Callable[[], object]] = {
        "torch_save": plain,
        "torch_save_into_place": into_place,
        "ours": lambda: save_state(folder, state, {}),
        "torch_save_unforced": lambda: plain(force=False),
        "ours_unforced": unforced,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            os.sync()
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
            size = next(folder.iterdir()).stat().st_size
            for old in folder.iterdir():
                old.unlink()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = {
        f"ratio_to_{other}": round(medians[mine] / medians[other], 2)
        for other, mine in (
            ("torch_save", "ours"), ("torch_save_into_place", "ours"), ("torch_save_unforced", "ours_unforced")
        )
    }  # fmt: skip
    return {"bytes": size, "seconds": {name: round(value, 4) for name, value in medians.items()}, **ratio}


def ranks_killed(folder: Path) -> tuple[Row, bool]:
    found = ranks.kills(interrupted.Job(folder / "job", steps=1).data, folder / "runs", 20)
    return found, found["equal"] == 20 and found["slowest_recovery_seconds"] <= 15


def shards(folder: Path) -> tuple[Row, bool]:
    found = ranks.layouts([1, 2, 3, 4])
    return found, found["equal"] == 80


STUDIES: dict[str, tuple[str, Callable[[Path], tuple[Row, bool]]]] = {
    "flips": ("one bit of a state is flipped", flips),
    "errors": ("an operation of a save fails", errors),
    "power": ("the power fails in a save", power),
    "operations": ("killed at each operation of a save", operations),
    "full_disk": ("the disk is full", full_disk),
    "cost": ("a save beside torch.save", cost),
    "kills": ("killed at random times in saves", kills),
    "resumes": ("the command killed and resumed", resumes),
    "ranks": ("one process of two killed", ranks_killed),
    "shards": ("1 to 20 images on 1 to 4 processes", shards),
}


def said(row: Row) -> str:
    """The numbers of a row as words."""
    return "\n".join(
        f"{name}: {said(value)}" if isinstance(value, dict) else f"{name} {value:,}"
        for name, value in ((name, len(value) if isinstance(value, list) else value) for name, value in row.items())
    ).replace("\n", ", ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(STUDIES)} (default: all)")
    names = parser.parse_args().names
    if unknown := set(names) - STUDIES.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; one of {', '.join(STUDIES)}")

    console, results, failed = Console(), {}, []
    table = Table("fault", "found", "", box=None, header_style="bold", pad_edge=False)
    for name in names or STUDIES:
        what, study = STUDIES[name]
        console.print(f"{what} ...", highlight=False)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row, kept = study(Path(folder))
        results[name] = {"what": what, **row, "as_promised": kept, "took": round(time.perf_counter() - begun, 1)}
        failed += [] if kept else [name]
        table.add_row(what, said(row), "as promised" if kept else "NOT AS PROMISED")
    console.print(table, highlight=False)
    path = ROOT / "benchmarks" / "results" / "faults.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    results = {name: results.get(name) or before.get(name) for name in STUDIES if name in {*results, *before}}
    path.write_text(json.dumps({**results, "machine": machine()}, indent=1) + "\n")
    console.print(f"written to {path.relative_to(ROOT)}", highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
