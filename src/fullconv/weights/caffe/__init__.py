"""Caffe's files without Caffe: nets as text (.prototxt) and with their weights (.caffemodel).

The FCNs of the paper and the ILSVRC nets below them were released in these two forms. Both are read into the same
records, `Net` and `Layer`; what a layer computes is not known here.
"""

from __future__ import annotations

from fullconv.weights.caffe.caffemodel import read_blobs, read_caffemodel
from fullconv.weights.caffe.net import SETTINGS, Layer, Net
from fullconv.weights.caffe.prototxt import read_prototxt

__all__ = ["SETTINGS", "Layer", "Net", "read_blobs", "read_caffemodel", "read_prototxt"]
