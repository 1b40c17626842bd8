"""Measurements that stand side by side in one run."""
