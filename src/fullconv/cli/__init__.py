"""The command ``fullconv``: one module for each verb."""

from fullconv.cli.command import main

__all__ = ["main"]
