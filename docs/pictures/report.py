"""Draws docs/report.jpg: the top of a run's page, and its label audit after labels of four scenes were spoilt.

fullconv demo --out runs/demo
python docs/pictures/report.py [--run runs/demo/fcn8s] [--browser chromium] [--out FILE]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import fullconv
from fullconv.data.dataset import Sample
from fullconv.datasets.synthetic.digits import Digits
from fullconv.reporting.run_page import write_run_report

WIDTH, HEIGHT = 820, 1130
SPOILT = (7, 21, 47, 61)


class Spoilt(Digits):
    """Scenes of which four have an error in their label: the largest digit has another's name, or none."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if index not in SPOILT:
            return sample
        label = sample.semantic.copy()
        counts = np.bincount(label[(label > 0) & (label < 255)])
        digit = int(counts.argmax())
        label[label == digit] = digit % 10 + 1 if SPOILT.index(index) % 2 else 0
        return replace(sample, label=label)


def shot(browser: str, page: Path, folder: Path, hidden: str = "") -> Image.Image:
    """The top of a page in a browser. hidden: a selector of what is left out of it."""
    target, text = folder / "shot.png", page.read_text("utf-8")
    shown = folder / "shown.html"
    shown.write_text(
        text.replace("</style>", f"{hidden} {{ display: none }}</style>" if hidden else "</style>"), "utf-8"
    )
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={target}",
         f"file://{shown}"],
        check=True, capture_output=True,
    )  # fmt: skip
    with Image.open(target) as picture:
        return picture.convert("RGB")


def main() -> None:
    """Write the page of the run, and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo/fcn8s"))
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "report.jpg")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(args.run / "log.jsonl", folder)
        page = write_run_report(folder, fullconv.load(args.run / "model.safetensors"), Spoilt("val", length=100))
        audit = "header, section:not(:nth-of-type(5))"
        sides = [shot(args.browser, page, folder, hidden) for hidden in ("", audit)]
    sheet = Image.new("RGB", (2 * WIDTH + 20, HEIGHT), (200, 203, 208))
    for place, side in enumerate(sides):
        sheet.paste(side, (place * (WIDTH + 20), 0))
    sheet.resize((sheet.width * 4 // 5, sheet.height * 4 // 5), Image.Resampling.LANCZOS).save(
        args.out, quality=80, optimize=True
    )


if __name__ == "__main__":
    main()
