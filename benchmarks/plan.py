"""Plans trainings, runs them, and writes down how far the plans were off: the most memory of the process (VmHWM of
Linux), and the median of the steps.

    python benchmarks/plan.py
    python benchmarks/plan.py vgg --only memory
    python benchmarks/plan.py --only time --busy

Each run is a process of its own that plans and then trains, on images of noise. For the time the plan tries a step, for
the memory it does not. On a machine that others use (``--busy``) one thread runs, and seconds of the processor count.
What is measured takes the place of what benchmarks/results/plan.json held of the same case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.data.dataset import Sample
from fullconv.hardware import machine
from fullconv.labels import LabelSpace
from fullconv.models.build import build
from fullconv.profiling import process_memory
from fullconv.training.loop import State, fit
from fullconv.training.memory_plan import plan

RESULT = Path(__file__).parent / "results" / "plan.json"
STEPS = {"memory": 4, "time": 6}
VGG = {"backbone": "vgg16", "stride": 8, "padding": "paper"}
CASES: dict[str, tuple[dict[str, Any], tuple[int, int], dict[str, Any]]] = {
    "FCN-8s VGG16, 1 of 375x500, fp32": (VGG, (375, 500), {"batch_size": 1}),
    "FCN-8s VGG16, 1 of 375x500, bf16": (VGG, (375, 500), {"batch_size": 1, "precision": "bf16"}),
    "FCN-32s MobileNetV2, 4 of 360x480, fp32": ({"backbone": "mobilenet_v2", "stride": 32}, (360, 480), {}),
    "FCN-32s MobileNetV2, 4 of 360x480, bf16": (
        {"backbone": "mobilenet_v2", "stride": 32}, (360, 480), {"precision": "bf16"}
    ),
    "FCN-16s ResNet-18, 4 of 320x320, fp32": ({"backbone": "resnet18", "stride": 16}, (320, 320), {}),
    "FCN-8s ResNet-18, 2 x 4 of 320x320, bf16": (
        {"backbone": "resnet18", "stride": 8}, (320, 320), {"precision": "bf16", "accumulate": 2}
    ),
    "FCN-8s SqueezeNet, 2 of 360x480, fp32": (
        {"backbone": "squeezenet1_0", "stride": 8}, (360, 480), {"batch_size": 2}
    ),
    "FCN-16s AlexNet, 2 of 375x500, fp32": ({"backbone": "alexnet", "stride": 16}, (375, 500), {"batch_size": 2}),
    "FCN-16s AlexNet, 2 of 375x500, bf16, AdamW": (
        {"backbone": "alexnet", "stride": 16}, (375, 500), {"batch_size": 2, "precision": "bf16", "optimizer": "adamw"}
    ),
    "FCN-8s GoogLeNet, 8 of 256x256, fp32": ({"backbone": "googlenet", "stride": 8}, (256, 256), {"batch_size": 8}),
    "FCN-4s LeNet, 8 of 192x192, fp32": (
        {"backbone": "lenet", "stride": 4, "num_classes": 11}, (192, 192), {"batch_size": 8}
    ),
    "FCN-8s VGG11-bn a quarter as wide, 4 of 288x384 (crop), bf16, AdamW, average": (
        {"backbone": "vgg11_bn", "stride": 8, "width": 0.25}, (360, 480),
        {"crop": (288, 384), "precision": "bf16", "optimizer": "adamw", "ema": 0.99},
    ),
}  # fmt: skip


class Noise:
    """Images of noise, made once."""

    def __init__(self, size: tuple[int, int], classes: int) -> None:
        rng = np.random.default_rng(0)
        self.labels = LabelSpace.of([f"class {number}" for number in range(classes)])
        self.samples = [
            Sample(
                rng.integers(0, 256, (*size, 3), dtype=np.uint8),
                rng.integers(0, classes, size).astype(np.uint8),
                str(i),
            )
            for i in range(8)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def run(name: str, what: str) -> dict[str, Any]:
    """Plan and train one case in this process: what was planned beside what it was, in bytes or seconds."""
    model, size, settings = CASES[name]
    config = TrainConfig(**{"steps": STEPS[what], "workers": 0, "lr": 1e-6, "precision": "fp32", **settings})
    torch.manual_seed(0)
    net = build(ModelConfig(**model))
    for layer, parameter in net.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu" if layer.startswith("backbone") else "linear")
    state, dataset = State.of(net, config), Noise(size, net.num_classes)
    began = time.perf_counter()
    found = plan(state, dataset, config, CONVENTIONS["torchvision"], timed=what == "time")
    planning = time.perf_counter() - began
    records = list(fit(state, dataset, config, CONVENTIONS["torchvision"]))
    if what == "memory":
        real, planned = process_memory.peak(), found.peak
    else:  # the first step allocates the momentum
        real, planned = statistics.median(record.seconds for record in records[1:]), found.seconds_per_step
    return {"planned": planned, "real": real, "off": round(planned / real - 1, 3), "planning": round(planning, 2)}


def keep(name: str, what: str, found: dict[str, Any], busy: bool) -> None:
    """Put one result into the file."""
    held = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else {}
    clock = {"clock": "of the processor, one thread" if busy else "of the wall"} if what == "time" else {}
    rows = {case: dict(held.get(case, {})) for case in CASES}
    rows[name][what] = {**found, **clock}
    RESULT.write_text(json.dumps({"steps": STEPS, "cases": rows, "machine": machine()}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="words of the names of the cases (default: all)")
    parser.add_argument("--only", choices=sorted(STEPS))
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.busy:  # the clock of the plan and of the steps alike
        torch.set_num_threads(1)
        time.perf_counter = time.process_time
    if args.one:
        print(json.dumps(run(args.one, args.only)))
        return
    for name in CASES:
        if args.cases and not any(word.lower() in name.lower() for word in args.cases):
            continue
        for what in [args.only] if args.only else ["memory", "time"]:
            command = [sys.executable, __file__, "--one", name, "--only", what, *(["--busy"] if args.busy else [])]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(said.stdout)
            words = process_memory.format_bytes if what == "memory" else "{:.2f} s".format
            print(f"{name}: {what} planned {words(found['planned'])}, was {words(found['real'])} "
                  f"({found['off']:+.0%}); planned in {found['planning']:.1f} s", flush=True)  # fmt: skip
            keep(name, what, found, args.busy)


if __name__ == "__main__":
    main()
