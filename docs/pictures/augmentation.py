"""Draws docs/augmentation.jpg: scenes of the digits as they are, and as training with every option would show them.

python docs/pictures/augmentation.py [--out FILE]
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

from fullconv.config import InputConvention, TrainConfig
from fullconv.datasets.open_dataset import open_dataset
from fullconv.reporting.augmentation_preview import draw_augmented

CONFIG = TrainConfig(crop=(160, 160), scale=1.5, flip=True, jitter=8, color=0.5)


def main() -> None:
    """Draw the picture and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "augmentation.jpg")
    target = parser.parse_args().out
    drawn = draw_augmented(open_dataset("digits", "train"), CONFIG, InputConvention(), rows=3)
    sheet = Image.open(BytesIO(drawn), formats=["PNG"])
    page = Image.new("RGB", sheet.size, "white")
    page.paste(sheet, mask=sheet)
    page.save(target, quality=80, optimize=True)


if __name__ == "__main__":
    main()
