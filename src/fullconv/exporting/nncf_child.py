"""The process that runs nncf for `fullconv.exporting.int8`: ``python nncf_child.py FOLDER``.

FOLDER holds fp32.xml, inputs.npz and exact.json (names of the nodes that keep fp32); int8.xml is written into it.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Quantize the model in a folder."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # nobody is told of the use
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    with np.load(folder / "inputs.npz") as arrays:
        images = [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
    model = nncf.quantize(
        openvino.Core().read_model(folder / "fp32.xml"),
        nncf.Dataset(images),
        subset_size=len(images),
        target_device=nncf.TargetDevice.CPU,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=json.loads((folder / "exact.json").read_text())),
    )
    openvino.save_model(model, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
