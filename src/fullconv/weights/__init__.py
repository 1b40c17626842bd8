"""Weights: the checkpoint file, and weights from elsewhere."""
