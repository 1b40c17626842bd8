"""Datasets: folders, annotations, published sets and generated scenes."""
