"""What engines, half precision and 8-bit integers leave of a trained net: labels and mean IU over a whole split.

    python benchmarks/precision.py MODEL DATA

Every way runs over the same images, and its labels are compared pixel by pixel with those of the module itself in fp32.
The int8 files are made by ``fullconv export --int8 DATA``, with ranges from the training split. Half precision of a
processor that does not multiply it is torch's emulation, whose numbers are the same and whose time is not; engines that
have none there are left out. Writes benchmarks/results/precision-BACKBONE.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.hardware import machine, precisions
from fullconv.inference.exported import load_exported
from fullconv.inference.predictor import load
from fullconv.metrics import confusion_matrix, scores
from fullconv.optimize.compiled import PRECISIONS, installed

RESULTS = Path(__file__).parent / "results"


def ways(model: Path, data: str, folder: Path, engines: list[str], int8: list[str]) -> Iterator[tuple[str, Any]]:
    """A name, and what predicts."""
    yield "module, fp32", load(model, engine="eager")
    for engine in engines:
        for precision in PRECISIONS[engine]:
            if precision in precisions() or engine == "torch":
                yield f"{engine}, {precision}", load(model, precision, engine)
    for suffix in int8:
        out = folder / f"m{suffix}"
        words = ["export", str(model), "--out", str(out), "--int8", data, "--data", data, "--json"]
        said = subprocess.run([sys.executable, "-m", "fullconv", *words], stdout=subprocess.PIPE)
        if said.returncode:
            print(f"{suffix}, int8: not kept")
            continue
        exact = json.loads(said.stdout)["first_in_fp32"]
        yield f"{suffix}, int8" + (f", fp32 in the first {exact}" if exact else ""), load_exported(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--split", help="default: the data set's own for this")
    others = [name for name in installed() if name != "compile"]
    parser.add_argument("--engines", nargs="*", default=others, help="default: all that are installed")
    parser.add_argument("--int8", nargs="*", default=[".onnx", ".xml"], help="files to make (default: .onnx .xml)")
    args = parser.parse_args()
    split = args.split or default_splits(args.data)[1]
    dataset = open_dataset(args.data, split)
    space, truth, rows = dataset.labels, [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, predictor in ways(args.model, args.data, Path(folder), args.engines, args.int8):
            counts, same, pixels, first = np.zeros((len(space),) * 2, np.int64), 0, 0, not truth
            for index in range(len(dataset)):
                sample = dataset[index]
                labels = predictor.coarse(sample.image)["semantic"].prediction()
                counts += confusion_matrix(labels, sample.label, len(space), space.ignore_index)
                if first:
                    truth.append(labels)
                same += int((labels == truth[index]).sum())
                pixels += labels.size
            rows.append({"way": name, "mean IU": scores(counts).mean_iu, "labels": same / pixels})
            print(f"{name}: mean IU {100 * rows[-1]['mean IU']:.2f}, labels {100 * rows[-1]['labels']:.3f} %")
    header = load(args.model, engine="eager").header
    found = {
        "net": f"FCN-{header.model.stride}s on {header.model.backbone}, {header.provenance.get('step')} steps",
        "data": f"{args.data.partition(':')[0] if ':' in args.data else Path(args.data).name}, {split}",
        "images": len(dataset),
        "ways": rows,
        "machine": machine(),
    }
    (RESULTS / f"precision-{header.model.backbone}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
