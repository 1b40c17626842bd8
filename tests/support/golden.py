"""Record what the package computes, to show that a refactoring changes no bit of it.

    python tests/support/golden.py --out before.json                # on the commit before
    python tests/support/golden.py --out after.json                 # on the commit after, on the same machine
    python tests/support/golden.py --compare before.json after.json

The comparison prints one line for each difference and exits with 1 if there is one. ``--only logits,cli`` restricts
either to some sections. A record depends on the machine and on the versions of torch and of the engines, so it is not
committed. Only the public names of `fullconv` and its command line are used: the script runs on any layout.

Sections: logits (SHA-256 for every built-in backbone, stride and padding, and for variants of them), training (weights,
state and log after some steps of many settings), files (masks of every engine, checkpoints, exported graphs), cli
(help, ``--json`` output, exit codes and error messages), api (signatures), import (seconds; recorded, not compared).
Only on request: every-logits (all variants of all backbones at all strides, some minutes more), speed (what
``fullconv bench`` measures; recorded, not compared).
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import argparse
import contextlib
import hashlib
import inspect
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

import fullconv
from fullconv.cli.command import main

BACKBONES = [
    "lenet", "caffenet", "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    "googlenet", "resnet18", "resnet34", "resnet50", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2",
]  # fmt: skip
DEEPER = {"vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg19_bn", "resnet34", "squeezenet1_1"}
"""Backbones whose family has another one here: their variants are left to the section `every-logits`."""

STRIDES = [2, 4, 8, 16, 32]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "finest level": {"levels": "finest"},
    "enlarged": {"last_pool": "enlarged"},
    "dilated": {"last_pool": "dilated"},
    "learn-intermediate": {"upsample": "learn-intermediate"},
    "learn-all": {"upsample": "learn-all", "fuse": "max"},
    "scaled skips": {"skip_scale": 0.01},
    "6 channels": {"channels": 6},
    "two heads": {"geometric_classes": 2},
    "late fusion": {"late_fusion": "average"},
    "late fusion, sum": {"late_fusion": "sum", "geometric_classes": 2},
}
SIZES = [(33, 47), (51, 93), (71, 29)]

TRAINING: dict[str, str] = {
    "mean": "--backbone vgg11 --native-size 32 --stride 8",
    "sum": "--backbone vgg11 --native-size 32 --stride 8 --padding paper --loss sum --lr 1e-6 --momentum 0.99",
    "keep": "--backbone vgg11_bn --native-size 32 --stride 16 --keep 0.5 --shift",
    "ema": "--backbone resnet18 --stride 8 --ema 0.9 --eval-every 1",
    "accumulate": "--backbone mobilenet_v2 --stride 8 --accumulate 2 --batch-size 1",
    "adamw": "--backbone googlenet --stride 16 --optimizer adamw --lr 1e-3 --warmup 2",
    "class weights": "--backbone lenet --native-size 28 --stride 2 --class-weights median --upsample learn-all",
    "balance, hard": "--backbone squeezenet1_1 --stride 8 --balance --hard 0.3 --schedule constant",
    "scores": "--backbone caffenet --native-size 67 --stride 8 --learn scores --fuse max --replacement",
    "augmented": "--backbone vgg11_bn --native-size 32 --crop 40x40 --scale 1.5 --flip --jitter 5 --color 0.5 --seed 3",
    "bf16": "--backbone vgg11_bn --native-size 32 --stride 8 --precision bf16",
    "digits": "--backbone lenet --stride 4 --crop 48x64 --seed 2",
    "at-once": "--recipe at-once --backbone vgg11 --native-size 32",
    "heavy-alexnet": "--recipe heavy-alexnet --accumulate 2",
    "laptop": "--recipe laptop --crop 40x56",
    "modern": "--recipe modern --crop 40x56 --epochs 1 --batch-size 2",
    "staged": "--recipe staged --backbone vgg11 --native-size 32",
}

VERBS = [
    "demo", "inspect", "convert", "data", "check", "train", "evaluate", "compare", "predict", "export", "bench",
    "reproduce",
]  # fmt: skip
JSON = {
    "demo": "demo --quick --out demo --json",
    "inspect": "inspect vgg16 --padding paper --layers --json",
    "inspect many": "inspect caffenet googlenet --stride 32 --json",
    "inspect checkpoint": "inspect net/model.safetensors --json",
    "convert": "convert net/model.safetensors --out copy.safetensors --json",
    "convert input": "convert net/model.safetensors --to-input caffe --out caffe.safetensors --json",
    "convert list": "convert --list --json",
    "data list": "data list --json",
    "data about": "data list voc2012 --json",
    "data bounds": "data bounds small --json",
    "check": "check small --html check.html --fix clean --json",
    "train": "train small --out again --backbone lenet --stride 4 --width 0.25 --steps 2 --workers 0 --json",
    "evaluate": "evaluate net/model.safetensors small --trimap 1,3 --json",
    "evaluate bf16": "evaluate net/model.safetensors small --split train --precision bf16 --json",
    "compare": "compare net other --out compare.html --json",
    "predict": "predict net/model.safetensors images --out json-masks --engine torch --json",
    "export": "export net/model.safetensors --out json.onnx --data small --json",
    "reproduce": "reproduce list --json",
    "reproduce upper-bounds": "reproduce upper-bounds small --out studies --json",
}
MISTAKES = [
    "", "trian", "train", "train small", "train small --out net --steps 1", "train small --out x --lr fast",
    "train small --out x --lrr 1", "train nowhere --out x", "train small --out x --recipe modren",
    "train small --out net --resume --lr 1", "predict net images --out y", "predict net/model.safetensors none --out y",
    "predict none images --out y", "predict net/model.safetensors images --out y --engine tensorrt",
    "evaluate net/model.safetensors small --split test", "export net/model.safetensors --out m.tflite",
    "inspect vgg17", "inspect vgg16 --stride 3", "compare nowhere",
    "convert classes.txt --out x.safetensors", "data get nothing", "reproduce table9", "bench nothing", "check nowhere",
]  # fmt: skip
MEASURED = re.compile(
    r"second|memory|busy|time|^rate$|images_per|per_second|^machine|environment|^command$|sha256|^where$"
)
"""Keys of JSON whose values are times, memory, or facts about the machine: only the key is recorded."""


def digest(values: Any) -> str:
    """The SHA-256 of a tensor or array, its type and shape included."""
    tensor = torch.as_tensor(values).detach().contiguous()
    content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + content).hexdigest()


def outputs_digest(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return {k: outputs_digest(v) for k, v in outputs.items()}
    return [outputs_digest(v) for v in outputs] if isinstance(outputs, tuple | list) else digest(outputs)


def unmeasured(value: Any) -> Any:
    """JSON without the values that differ from run to run."""
    if isinstance(value, dict):
        return {k: "(measured)" if MEASURED.search(k) else unmeasured(v) for k, v in value.items()}
    return [unmeasured(one) for one in value] if isinstance(value, list) else value


def file_record(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, by name, and its JSON header."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: digest(file.get_tensor(name)) for name in sorted(file.keys())}
        metadata = file.metadata() or {}
    return {"tensors": tensors, "header": {k: unmeasured(json.loads(v)) for k, v in metadata.items() if v[:1] == "{"}}


def pixels_record(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): digest(np.array(Image.open(path)))
        for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg", ".tif")
    }  # fmt: skip


def call(words: str | list[str]) -> tuple[int, str, str]:
    """Run the command in this process: exit code, standard output, standard error."""
    argv = words.split() if isinstance(words, str) else words
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["fullconv", *argv]  # checkpoints keep the command
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(argv)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        sys.argv = before
    here = str(Path.cwd())  # a temporary folder
    return code, out.getvalue().replace(here, "FOLDER"), err.getvalue().replace(here, "FOLDER")


def succeed(words: str | list[str]) -> str:
    """Run a command that has to succeed; return its standard output."""
    code, out, err = call(words)
    if code:
        raise SystemExit(f"golden: fullconv {words}: exit code {code}: {err[-2000:]}")
    return out


def seed(net: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter and statistic values that depend on its name alone; scores start at zero otherwise."""
    for name, tensor in net.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        else:
            tensor.copy_(noise * (2 / max(1, tensor[0].numel())) ** 0.5 if tensor.ndim > 1 else 0.5 + 0.1 * noise)
    return net.eval()


def noise_image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


def logits(everything: bool = False) -> dict[str, Any]:
    """The plain net of every backbone, stride and padding; the variants of one backbone a family at two strides, or
    `everything`.
    """
    found: dict[str, Any] = {} if everything else {"functions": functions()}
    for backbone in BACKBONES:
        varied = backbone not in DEEPER
        for stride in STRIDES:
            wide = everything or (varied and stride in ((2, 4) if backbone == "lenet" else (8, 16)))
            for padding in ("paper", "tight"):
                for variant, settings in VARIANTS.items() if wide else [("plain", {})]:
                    width = 1 / 8 if backbone == "lenet" else 1 / 32
                    config = fullconv.ModelConfig(
                        backbone, stride, **{"num_classes": 3, "padding": padding, "width": width} | settings
                    )
                    place = found.setdefault(f"{backbone} {stride} {padding}", {})
                    try:
                        net = seed(fullconv.build(config))
                        channels = config.channels * (2 if config.late_fusion != "none" else 1)
                        with torch.inference_mode():
                            place[variant] = [outputs_digest(net(noise_image(1, channels, *size))) for size in SIZES]
                    except fullconv.FullconvError as problem:
                        place[variant] = f"{type(problem).__name__}: {problem}"
    return found


def every_logits() -> dict[str, Any]:
    return logits(everything=True)


def functions() -> dict[str, Any]:
    """The public functions on nets, on small cases."""
    nn, image, found = torch.nn, noise_image(1, 3, 45, 61), {}
    classifier = seed(nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * 5 * 5, 6), nn.ReLU(), nn.Linear(6, 5),
    ))  # fmt: skip
    dense, _ = fullconv.convolutionalize(classifier, 24)
    with torch.inference_mode():
        found["convolutionalize"] = digest(dense(image))
        found["rarefy"] = digest(fullconv.rarefy(dense, 2)(image))
        found["shift_and_stitch"] = digest(fullconv.shift_and_stitch(dense, image))
        for backbone in ("vgg11", "vgg16_bn", "resnet18", "mobilenet_v2", "squeezenet1_0"):
            net = seed(fullconv.build(fullconv.ModelConfig(backbone, 8, 3, "paper", width=1 / 8)))
            for engine in ("torch", "onnx", "openvino"):
                compiled = fullconv.compile(net, engine=engine)
                image = noise_image(1, 3, 45, 61)
                found[f"compile {backbone} {engine}"] = [digest(compiled(image)) for _ in range(3)]
    labels, predictions = np.arange(60).reshape(6, 10) % 4, np.arange(60).reshape(6, 10) % 5 % 4
    matrix = fullconv.confusion_matrix(labels, predictions, 4)
    return found | {"confusion_matrix": digest(matrix), "scores": repr(fullconv.scores(matrix))}


def small_dataset() -> None:
    """Write `small`, a folder of six scenes of digits to train and two to validate, and `images` to predict."""
    if Path("small").exists():
        return
    for split, length in (("train", 6), ("val", 2)):
        scenes = fullconv.open_dataset("digits", split)
        for kind in ("images", "labels"):
            Path("small", split, kind).mkdir(parents=True)
        for n, sample in ((n, scenes[n]) for n in range(length)):
            Image.fromarray(sample.image[60:109, 50:117]).save(f"small/{split}/images/{n}.png")
            Image.fromarray(sample.label[60:109, 50:117]).save(f"small/{split}/labels/{n}.png")
    names = ["background", *map(str, range(10))]
    Path("small/classes.yaml").write_text(f"names: {json.dumps(names)}\n")
    Path("images").mkdir()
    for n, (height, width) in enumerate([(50, 70), (50, 70), (50, 70), (63, 41), (150, 171)]):
        Image.fromarray(scenes[n].image[:height, :width]).save(f"images/{n}.png")


def trained(run: str, flags: str, steps: int = 3) -> dict[str, Any]:
    """Train in the folder `run`, and record its net, its newest state and its log."""
    given = dict(zip(["--precision", "--save-every", "--width"], ["fp32", "1", str(1 / 8)], strict=True))
    more = [word for flag, value in given.items() if flag not in flags for word in (flag, value)]
    more += [] if "--epochs" in flags else ["--steps", str(steps)]
    data = ["digits", "--val", "small"] if run == "digits" else ["small"]
    succeed(["train", *data, "--out", run, *flags.split(), *more, "--workers", "0"])
    found: dict[str, Any] = {}
    for log in sorted(Path(run).rglob("log.jsonl")):
        state = sorted((log.parent / "last").glob("step-*.safetensors"))[-1]
        found[str(log.parent)] = {
            "log": [unmeasured(json.loads(line)) for line in log.read_text().splitlines()],
            "net": file_record(log.parent / "model.safetensors"), state.name: file_record(state),
        }  # fmt: skip
    return found


def training() -> dict[str, Any]:
    small_dataset()
    found: dict[str, Any] = {}
    for name, flags in TRAINING.items():
        if name == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            found[name] = "skipped: this machine has no bf16"
        else:
            found[name] = trained(name.replace(" ", "-").replace(",", ""), flags)
    max((Path("ema") / "last").glob("step-*")).unlink()
    found["resumed"] = trained("ema", TRAINING["ema"] + " --resume")
    found["from weights"] = trained("next", "--weights keep/model.safetensors --stride 8 --upsample learn-intermediate")
    return found


def fixtures() -> None:
    """Write the dataset and two trained runs: `net`, whose masks hold several classes, and `other`."""
    small_dataset()
    if Path("net").exists():
        return
    trained("net", "--backbone vgg11_bn --native-size 32 --stride 8 --optimizer adamw --lr 0.01 --batch-size 2", 40)
    trained("other", "--backbone lenet --stride 2 --upsample learn-all", 5)


def files() -> dict[str, Any]:
    fixtures()
    found: dict[str, Any] = {"net": file_record(Path("net/model.safetensors"))}
    for engine in ("eager", "torch", "onnx", "openvino"):
        more = {
            "": "",
            " extras": " --overlay --probability --entropy",
            " tiles": " --tile 64",
            " halo": " --tile 64 --halo 8",
        }
        more |= {" views": " --flip --scales 0.75,1"} if engine in ("eager", "torch") else {}
        for name, flags in more.items():
            out = f"masks-{engine}{name.replace(' ', '-')}"
            succeed(f"predict net/model.safetensors images --out {out} --engine {engine}{flags}")
            found[f"masks {engine}{name}"] = pixels_record(Path(out))
        predictor = fullconv.load("net/model.safetensors", engine=engine)
        shots = [np.array(Image.open(path)) for path in sorted(Path("images").glob("*.png"))]
        found[f"logits {engine}"] = [digest(predictor.logits(shot)) for shot in shots]
    exports = {"any.onnx": "", "fixed.onnx": " --size 50x70", "int8.onnx": " --size 50x70 --int8 small", "any.xml": ""}
    for file, flags in exports.items():
        code, _, err = call(f"export net/model.safetensors --out {file}{flags}")
        if code:
            found[file] = [code, last_line(err)]
            continue
        images = "images/0.png" if "size" in flags else "images"
        succeed(f"predict {file} {images} --out masks-{file}")
        found[file] = {"masks": pixels_record(Path(f"masks-{file}")), "scores": run_graph(Path(file))}
    return found


def run_graph(path: Path) -> Any:
    """The outputs of an exported graph, run by the program that it is for."""
    image = noise_image(1, 3, 50, 70).numpy()
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        values = session.run(None, {session.get_inputs()[0].name: image})
        return {output.name: digest(v) for output, v in zip(session.get_outputs(), values, strict=True)}
    if path.suffix == ".xml":
        import openvino

        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 1})
        return {port.get_any_name(): digest(v) for port, v in model([image]).items()}
    return outputs_digest(torch.export.load(path).module()(torch.from_numpy(image)))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def cli() -> dict[str, Any]:
    fixtures()
    Path("classes.txt").write_text("none")
    found: dict[str, Any] = {}
    for verb in ["", *VERBS]:
        text = succeed([*verb.split(), "--help"])
        flags = sorted(set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text)))
        found[f"help {verb}"] = {"flags": " ".join(flags), "text": text}
    for name, words in JSON.items():
        out = succeed(words)
        found[f"json {name}"] = [unmeasured(one) for one in json_values(out)]
    for words in MISTAKES:
        code, _, err = call(words)
        found[f"mistake: {words}"] = {"code": code, "message": last_line(err)}
    return found


def json_values(text: str) -> Iterator[Any]:
    """The JSON values in a text, one after the other."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].strip()


def api() -> dict[str, Any]:
    def parameters(thing: Any) -> Any:
        try:
            found = inspect.signature(thing).parameters.values()
        except (TypeError, ValueError):
            return None
        return [f"{p.kind.description}: {p.name}" + ("" if p.default is p.empty else f"={p.default!r}") for p in found]

    found: dict[str, Any] = {}
    for name in sorted(fullconv.__all__):
        thing = getattr(fullconv, name)
        public = [m for m in dir(thing) if not m.startswith("_")] if inspect.isclass(thing) else []
        own = [m for m in public if not hasattr(torch.nn.Module, m)]
        found[name] = {"parameters": parameters(thing)} | {m: parameters(getattr(thing, m)) for m in own}
    return found


def import_seconds() -> dict[str, float]:
    commands = {
        "import fullconv": "import fullconv",
        "fullconv --help": "from fullconv.cli.command import main; main(['-h'])",
    }
    found = {}
    for name, code in commands.items():
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        found[name] = statistics.median(seconds)
    return found


def speed() -> dict[str, Any]:
    small = "--backbone vgg11 --width 0.25 --json"
    return {study: list(json_values(succeed(f"bench {study} {small}{more}")))
            for study, more in (("predict", " --sizes 200x200"), ("train", ""))}  # fmt: skip


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "logits": logits, "training": training, "files": files, "cli": cli, "api": api, "import": import_seconds,
    "every-logits": every_logits, "speed": speed,
}  # fmt: skip
ON_REQUEST = ("every-logits", "speed")
NOT_COMPARED = ("import", "speed")


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a record with its place in it."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{place}/{key}" if place else str(key))
    else:
        yield place, value


def compare(before: dict[str, Any], after: dict[str, Any], only: list[str]) -> int:
    """Print a line for each difference; return their number."""
    compared = [name for name in only if name not in NOT_COMPARED and (name in before or name in after)]
    one, other = (
        {place: v for name in compared for place, v in leaves(r.get(name, {}), name)} for r in (before, after)
    )
    places = [place for place in {**one, **other} if one.get(place, "(missing)") != other.get(place, "(missing)")]
    for place in places:
        print(f"{place}: {str(one.get(place, '(missing)'))[:200]!r} -> {str(other.get(place, '(missing)'))[:200]!r}")
    print(f"{len(places)} differences in {len({**one, **other})} values of {', '.join(compared)}", file=sys.stderr)
    return len(places)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument(
        "--only", metavar="SECTION,...", help=f"of {', '.join(SECTIONS)} (default: all but {', '.join(ON_REQUEST)})"
    )
    args = parser.parse_args()
    only = args.only.split(",") if args.only else [name for name in SECTIONS if name not in ON_REQUEST]
    if unknown := set(only) - SECTIONS.keys():
        parser.error(f"--only: unknown sections: {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    if args.compare:
        return int(compare(*(json.loads(path.read_text()) for path in args.compare), only) > 0)
    if not args.out:
        parser.error("give --out FILE or --compare A B")
    torch.set_num_threads(1)
    out, record = args.out.absolute(), {}
    os.environ["COLUMNS"] = "100"  # the width of help texts
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in only:
            began = time.perf_counter()
            record[name] = SECTIONS[name]()
            out.write_text(json.dumps(record, indent=1))
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run())
