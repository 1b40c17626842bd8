"""Fixtures of folders with faults."""

from tests.support.faulty_folders import clean_set, root

__all__ = ["clean_set", "root"]
