"""What each option of ``fullconv predict`` costs: the same images once for each, the plain way between them.

    python benchmarks/predict.py MODEL IMAGES

Each run is a process of its own; its times are those that the verb itself tells (``--json``). The first row is a loop
that reads, predicts and writes one image after the other, as one would write it. With ``--busy``, one thread, for a
machine that others use. Writes benchmarks/results/predict.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fullconv.hardware import machine
from fullconv.inference.request import PredictRequest, load_model
from fullconv.io.image import write_overlay
from fullconv.io.label_image import write_label

RESULT = Path(__file__).parent / "results" / "predict.json"
WAYS = {
    "masks": [],
    "--overlay": ["--overlay"],
    "--probability": ["--probability"],
    "--entropy": ["--entropy"],
    "--flip": ["--flip"],
    "--scales 0.75,1,1.25": ["--scales", "0.75,1,1.25"],
    "--flip --scales 0.75,1,1.25": ["--flip", "--scales", "0.75,1,1.25"],
}


def one_by_one(model: Path, images: list[Path]) -> float:
    """Images a second of a loop that does one thing at a time: what ``--overlay`` does, with nothing overlapped."""
    predictor = load_model(PredictRequest(model))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for path in images:
            found = predictor(path)
            write_label(Path(folder) / f"{path.stem}.png", found.prediction, found.labels)
            write_overlay(Path(folder) / f"{path.stem}.overlay.jpg", found.image, found.prediction, found.labels)
        return len(images) / (time.perf_counter() - began)


def told(model: Path, images: list[Path], flags: list[str]) -> dict[str, Any]:
    """What the verb says of its time."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["predict", str(model), *map(str, images), "--out", folder, "--json", *flags]
        done = subprocess.run([sys.executable, "-m", "fullconv", *words], check=True, stdout=subprocess.PIPE)
        said = json.loads(done.stdout)
    spent = {what: round(seconds / len(images), 5) for what, seconds in said["seconds"].items()}
    return {"images_per_second": said["images_per_second"], "net_busy": said["net_busy"], "seconds_per_image": spent}


def main() -> None:
    """Measure all ways and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, help="a folder")
    parser.add_argument("--number", type=int, default=40, help="how many images (default: 40)")
    parser.add_argument("--busy", action="store_true", help="one thread, on a machine that others use")
    args = parser.parse_args()
    if args.busy:
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch

        torch.set_num_threads(1)
    images = sorted(path for path in args.images.iterdir() if path.is_file())[: args.number]
    header = load_model(PredictRequest(args.model)).header  # type: ignore[attr-defined]
    ways: list[dict[str, Any]] = [
        {"way": "one by one, --overlay", "images_per_second": round(one_by_one(args.model, images), 3)}
    ]
    for way, flags in WAYS.items():
        ways.append({"way": way, **told(args.model, images, flags)})
        print(json.dumps(ways[-1]), flush=True)
    ways.append({"way": "masks, again", **told(args.model, images, [])})
    net = f"FCN-{header.model.stride}s on {header.model.backbone}"
    found = {"net": net, "images": len(images), "busy": args.busy, "ways": ways, "machine": machine()}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
