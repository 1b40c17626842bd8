"""Prediction: from an image of any size to its segmentation."""
