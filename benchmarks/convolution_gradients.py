"""Weight gradients of every convolution that the built-in nets train, against float64.

    python benchmarks/convolution_gradients.py [BACKBONE ...]

A library may compute a gradient wrongly, or write beyond its memory, for one shape on one processor. Each net trains
for a step in a child process, in fp32 and bf16 with two threads, with the C library's heap checker if it works here.
The layers that stay convolutions (`use_products`) then repeat their backward pass on their own shapes, and the gradient
is compared with a product of unfolded inputs in float64.
Writes benchmarks/results/convolution-gradients-<processor>.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import heap

SIDE = 96
ALLOWED = {"float32": 1e-4, "bfloat16": 2e-2}
"""The largest difference as a share of the largest gradient."""


def off(layer: Any, shape: tuple[int, ...], kind: Any) -> float:
    """The largest error of the weight gradient of a convolution on channels-last input, as a share of the largest."""
    import torch
    import torch.nn.functional as F

    x = torch.randn(shape).to(kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn_like(layer.weight, memory_format=torch.channels_last).to(kind).requires_grad_()
    found = F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    given = torch.randn_like(found)
    found.backward(given)
    columns = F.unfold(x.double(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    columns = columns.unflatten(1, (layer.groups, -1))
    parts = given.double().flatten(2).unflatten(1, (layer.groups, -1))
    wanted = torch.einsum("ngol,ngkl->gok", parts, columns).flatten()
    return float((weight.grad.contiguous().flatten().double() - wanted).abs().max() / wanted.abs().max())


def scan(name: str) -> dict[str, Any]:
    """A training step of a backbone's net, and each convolution in it; in the child."""
    import torch
    from torch import nn

    from fullconv.config import ModelConfig, TrainConfig
    from fullconv.models.build import build
    from fullconv.training.loop import State

    torch.manual_seed(0)
    torch.set_num_threads(2)
    net = State.of(build(ModelConfig(name, 4 if name == "lenet" else 8, 21)), TrainConfig()).net.train()
    shapes: dict[tuple[Any, ...], tuple[nn.Conv2d, tuple[int, ...]]] = {}

    def note(layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        shapes[tuple(given[0].shape), repr(layer)] = layer, tuple(given[0].shape)

    for layer in (layer for layer in net.modules() if type(layer) is nn.Conv2d):
        layer.register_forward_pre_hook(note)
    x = torch.randn(2, net.config.channels, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(x)
        net.zero_grad()
        logits.float().square().mean().backward()
    found: dict[str, Any] = {"shapes": len(shapes)}
    for kind in (torch.float32, torch.bfloat16):
        key = str(kind).removeprefix("torch.")
        each = {f"{tuple(shape)} {layer!r}": off(layer, shape, kind) for layer, shape in shapes.values()}
        found[key] = {"worst": float(f"{max(each.values()):.1e}"),
                      "wrong": {what: error for what, error in each.items() if not error <= ALLOWED[key]}}  # fmt: skip
    return found


def main() -> None:
    """Scan the nets that are named, or all, each in a child."""
    from fullconv.hardware import machine, processor
    from fullconv.models.backbones.registry import BACKBONES

    found: dict[str, Any] = {"machine": machine(), "heap_checker": heap.is_effective(), "side": SIDE, "nets": {}}
    for name in sys.argv[1:] or BACKBONES:
        done = subprocess.run([sys.executable, __file__, "--child", name], env=heap.checked_environment(),
                              capture_output=True, text=True, check=False)  # fmt: skip
        ended = {"ended": done.returncode, "said": done.stderr.strip().splitlines()[-1:]}
        found["nets"][name] = json.loads(done.stdout) if not done.returncode else ended
        print(name, found["nets"][name], flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    path = Path(__file__).parent / "results" / f"convolution-gradients-{slug}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    print(json.dumps(scan(sys.argv[2]))) if sys.argv[1:2] == ["--child"] else main()
