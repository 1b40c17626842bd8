"""The paper's story on the built-in digits, in some minutes and without a download."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the paper's story on built-in data, in some minutes"
EXAMPLE = "fullconv demo --out runs/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="the folder of the runs and the report"
    )


def run(args: argparse.Namespace) -> int:
    """Tell the story."""
    return 0
