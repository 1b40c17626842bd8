"""Large images in little memory: what the two promises come to, and that strips and tiles are the whole.

    python benchmarks/large.py
    python benchmarks/large.py mobilenet --busy
    python benchmarks/large.py --small

A generated image goes through `fullconv predict`, in a process of its own: its most memory (VmHWM of Linux), and its
seconds per megapixel beside those of an image of 1024x1024 pixels that is read, predicted and written as a whole,
before and after it. Then labels and scores by strips and by tiles are compared with the whole's on 3000x2000 pixels.
On a machine that others use (``--busy``) one thread runs, and seconds of the processor count. ``--small`` tries all of
it on small images and writes nothing down. What is measured takes the place of what benchmarks/results/large.json held.
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
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fullconv.hardware import machine
from fullconv.profiling.process_memory import format_bytes

RESULT = Path(__file__).parent / "results" / "large.json"
CASES = {
    "100 MP, FCN-8s MobileNetV2": ("mobilenet_v2", (10_000, 10_000), {"peak": 1.5e9, "ratio": 1.15}),
    "40 MP panorama, FCN-8s VGG16": ("vgg16", (3_900, 10_300), {"peak": 1.5e9}),
}
EQUAL = "3000x2000, strips and tiles against the whole, fp32"
COMPARED = (2_000, 3_000)
SIDE = 1_024
TIMES = 3

# A process that does what the command does, and then says how much memory it took.
COMMAND = """
import json, sys, time
if sys.argv[2] == "busy":
    time.monotonic = time.process_time
from fullconv.profiling import process_memory as memory
from fullconv.cli.command import main
try:
    main(sys.argv[3:])
finally:
    open(sys.argv[1], "w").write(str(memory.peak()))
"""


def picture(path: Path, height: int, width: int) -> None:
    """Smooth noise with a grid of lines and discs in it, as JPEG."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 64 + 2, width // 64 + 2, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).copy()
    pixels[::97] = 255
    pixels[:, ::131] //= 2
    tile = np.add.outer(np.arange(-32, 32) ** 2, np.arange(-32, 32) ** 2) < 28**2
    for top in range(0, height - 64, 512):
        for left in range(0, width - 64, 512):
            pixels[top : top + 64, left : left + 64][tile] = rng.integers(0, 256, 3, np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def net(path: Path, backbone: str) -> None:
    """A checkpoint with random weights whose scores have the range of its image."""
    import torch

    from fullconv.config import CONVENTIONS, ModelConfig
    from fullconv.labels import LabelSpace
    from fullconv.models.build import build
    from fullconv.weights import checkpoint

    torch.manual_seed(0)
    config = ModelConfig(backbone, stride=8, num_classes=21)
    made = build(config)
    for name, parameter in made.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu" if name.startswith("backbone") else "linear")
    labels = LabelSpace.of([f"class {number}" for number in range(21)])
    checkpoint.save(path, made.state_dict(), checkpoint.Header(config, labels, CONVENTIONS["torchvision"]))


def small_image(model: Path, image: Path, out: Path) -> float:
    """Seconds per megapixel of an image that is read, predicted and written as a whole: the median of some."""
    from fullconv.inference.predictor import load
    from fullconv.io.label_image import write_label

    predictor, spent = load(model), []
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        found = predictor(image).prediction
        write_label(out / "small.png", found, predictor.labels)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[1:]) / found.size * 1e6


def equality(model: Path, image: Path) -> dict[str, Any]:
    """The labels that differ from the whole's, and the largest difference of scores against the largest score."""
    import torch

    from fullconv.inference.large_image.plan import reach
    from fullconv.inference.large_image.streaming import by_strips
    from fullconv.inference.large_image.strips import labels_by_strip, net_of
    from fullconv.inference.large_image.tiles import cut, labels_by_tile, scores_by_tile
    from fullconv.inference.predictor import load
    from fullconv.inference.tensor_input import to_input
    from fullconv.io.windowed import Decoded

    predictor = load(model)
    pixels = predictor.read(image)
    height, width = pixels.shape[:2]
    whole, source = predictor.coarse(pixels)["semantic"], Decoded(pixels)
    labels, most = whole.prediction(), float(np.abs(whole.scores).max())
    far = reach(predictor)
    assert far is not None
    found: dict[str, Any] = {"classes_seen": len(np.unique(labels)), "largest_score": most}
    columns = [(0, width, 0, width)]
    by_strip = np.concatenate([rows["semantic"] for rows in labels_by_strip(predictor, source, 96, columns)])
    with torch.inference_mode():
        strips = to_input(torch.from_numpy(pixels[None]), predictor.header.input).split(96, 2)
        scores = torch.cat([rows["semantic"] for rows in by_strips(net_of(predictor), strips, height, width)], 2)
    worst = float(np.abs(scores[0].numpy() - whole.scores).max())
    found["strips"] = {"labels": int((by_strip != labels).sum()), "scores": worst / most}
    tiles = cut(height, width, 512, far)
    by_tile = np.concatenate([rows["semantic"] for rows in labels_by_tile(source, tiles, predictor.coarse)])
    parts = (whole.part(slice(t.box[0], t.box[2]), slice(t.box[1], t.box[3])) for t in tiles)
    worst = max(
        float(np.abs(of_tile["semantic"].logits() - part.logits()).max())
        for (_, of_tile), part in zip(scores_by_tile(source, tiles, predictor.coarse), parts, strict=True)
    )
    found["tiles"] = {"labels": int((by_tile != labels).sum()), "scores": worst / most, "of": len(tiles)}
    return found


def apart(what: str, *words: object, busy: bool) -> Any:
    """One of the functions above in a process of its own, which leaves no memory behind."""
    command = [sys.executable, __file__, "--one", what, *map(str, words), *(["--busy"] if busy else [])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout or "null")


def predict(model: Path, image: Path, out: Path, busy: bool) -> dict[str, Any]:
    """What `fullconv predict` says of an image, with the most memory of its process."""
    peak = out / "peak"
    said = subprocess.run(
        [sys.executable, "-c", COMMAND, str(peak), "busy" if busy else "quiet", "predict", str(model), str(image),
         "--out", str(out), "--json"],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **({"OMP_NUM_THREADS": "1"} if busy else {})},
    )  # fmt: skip
    return {**json.loads(said.stdout)["written"][0], "peak": int(peak.read_text())}


def case(name: str, folder: Path, scale: int, busy: bool) -> dict[str, Any]:
    """One large image."""
    backbone, size, goals = CASES[name]
    height, width = (side // scale for side in size)
    model, large, small = folder / f"{backbone}.safetensors", folder / "large.jpg", folder / "small.jpg"
    apart("net", model, backbone, busy=busy)
    apart("picture", large, height, width, busy=busy)
    apart("picture", small, SIDE, SIDE, busy=busy)
    before = apart("small_image", model, small, folder, busy=busy)
    said = predict(model, large, folder, busy)
    beside = statistics.mean([before, apart("small_image", model, small, folder, busy=busy)])
    spent = said["seconds"] / (height * width) * 1e6
    found = {
        "height": height, "width": width, "way": said["way"], "tile": said.get("tile"),
        "planned_bytes": said.get("planned_bytes"), "peak_bytes": said["peak"], "seconds": said["seconds"],
        "seconds_per_megapixel": round(spent, 4), "small_seconds_per_megapixel": round(beside, 4),
        "ratio": round(spent / beside, 3), "goals": goals,
        "clock": "of the processor, one thread" if busy else "of the wall",
    }  # fmt: skip
    print(f"{name}: {found['way']} {found['tile']}, peak {format_bytes(found['peak_bytes'])}, {spent:.2f} s/MP, "
          f"{found['ratio']:.2f} of a small image's", flush=True)  # fmt: skip
    return found


def keep(name: str, found: dict[str, Any]) -> None:
    """Put one result into the file."""
    held = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else {}
    held[name] = found
    rows = {case: held[case] for case in (*CASES, EQUAL) if case in held}
    RESULT.write_text(json.dumps({"cases": rows, "machine": machine()}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="words of the names of the cases (default: all)")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.busy:
        import torch

        torch.set_num_threads(1)
        time.perf_counter = time.process_time
    if args.one in ("net", "picture"):
        path, *rest = args.cases
        net(Path(path), rest[0]) if args.one == "net" else picture(Path(path), int(rest[0]), int(rest[1]))
        return
    if args.one:
        print(json.dumps({"small_image": small_image, "equality": equality}[args.one](*map(Path, args.cases))))
        return
    scale = 4 if args.small else 1
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        for name in (*CASES, EQUAL):
            if args.cases and not any(word.lower() in name.lower() for word in args.cases):
                continue
            if name == EQUAL:
                apart("net", folder / "equal.safetensors", "mobilenet_v2", busy=args.busy)
                apart(
                    "picture",
                    folder / "equal.jpg",
                    *(side // scale for side in COMPARED),
                    busy=args.busy,
                )
                found = apart("equality", folder / "equal.safetensors", folder / "equal.jpg", busy=args.busy)
                print(f"{name}: {found}", flush=True)
            else:
                found = case(name, folder, scale, args.busy)
            if not args.small:
                keep(name, found)


if __name__ == "__main__":
    main()
