"""Evaluation: the paper's four numbers and what else is measured over a split."""
