"""Trains and evaluates FCN-8s on CamVid with the command itself, and writes down what came out.

    python benchmarks/camvid.py DATA WEIGHTS --net mobilenet_v2 --steps 2400
    python benchmarks/camvid.py DATA WEIGHTS --net mobilenet_v2 --steps 2400 --random

DATA has train/ and val/ with images/ and labels/ (SegNet's split, 11 classes); WEIGHTS is the folder of the
classifiers. The net is scored once, after the last step, so the validation split chose no checkpoint; batch size and
learning rates were chosen by short runs that it scored. The result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from fullconv.hardware import machine

RESULTS = Path(__file__).parent / "results"
START = {
    "mobilenet_v2": ("mobilenet_v2_quant_dequantized.safetensors", "rgb128"),
    "squeezenet1_0": ("squeezenet1_0_deepcompression.safetensors", "bgr:104,117,123"),
}
# SqueezeNet has neither batch norm nor small inputs (0 to 255): with the rate that suits MobileNetV2 it diverges.
RATE = {"mobilenet_v2": ["--lr", "0.004"], "squeezenet1_0": ["--lr", "0.001", "--warmup", "100"]}
NAMES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def seconds_of_training(log: Path) -> float:
    """What the steps took, without start-up and evaluation."""
    return sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--net", choices=sorted(START), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--random", action="store_true", help="the same run from random weights")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()

    file, convention = START[args.net]
    name = f"camvid-{args.net}-{'random' if args.random else 'pretrained'}"
    run = args.out / name
    train = ["train", str(args.data), "--out", str(run), "--recipe", "laptop", "--backbone", args.net]
    train += ["--steps", str(args.steps), "--eval-every", str(args.steps)]
    train += [*RATE[args.net], "--input", convention]
    train += [] if args.random else ["--weights", str(args.weights / file)]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fullconv", *train], check=True)
    wall = time.perf_counter() - began
    evaluate = ["evaluate", str(run / "model.safetensors"), str(args.data), "--split", "val", "--json"]
    said = subprocess.run([sys.executable, "-m", "fullconv", *evaluate], check=True, stdout=subprocess.PIPE, text=True)
    scores = json.loads(said.stdout)
    classes = dict(zip(NAMES, scores.pop("classes").values(), strict=True))
    for path in ("model", "data"):
        scores.pop(path)
    commands = [shlex.join(["fullconv", *words]).replace(str(args.data), "CAMVID").replace(str(args.weights), "WEIGHTS")
                for words in (train, evaluate)]  # fmt: skip
    result = {
        "what": f"FCN-8s on {args.net}, CamVid 480x360 (SegNet split, 11 classes, 367 to train, 101 to validate)",
        "weights": "random" if args.random else file,
        "commands": commands,
        "seconds_of_training": round(seconds_of_training(run / "log.jsonl"), 1),
        "seconds_of_the_command": round(wall, 1),
        "machine": machine(),
        "settings": json.loads(json.dumps(header(run / "model.safetensors"))),
        "scores": {**scores, "classes": classes},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path}: mean IU {100 * scores['mean_iu']:.1f} after {result['seconds_of_training']:.0f} s of training")


def header(model: Path) -> dict[str, object]:
    """The settings that the checkpoint itself states."""
    from fullconv.weights import checkpoint

    _, found = checkpoint.load(model)
    assert found is not None
    return {"model": found.to_dict()["model"], "input": found.input.to_dict(), "train": found.provenance["train"]}


if __name__ == "__main__":
    main()
