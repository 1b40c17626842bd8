"""Polygons and run lengths as a dataset: LabelMe, COCO, CVAT."""
