"""Published weights by name: where each file is, how it is verified, on which terms, and what input it wants.

Every fact was read where `KnownWeights.source` says; what nobody publishes is None. The names are architecture, dot,
and who released the weights or what they were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

from fullconv.io.download.checksum import Checksum


@dataclass(frozen=True)
class KnownWeights:
    """One published file of weights.

    name: what it is called here.
    url: where its publishers keep it.
    backbone: the built-in backbone whose classifier it is; None for a whole FCN.
    checksum: None where none is published.
    licence: the terms, in the words of the source.
    input: the input convention, as ``InputConvention.named`` takes it; None for two inputs (colour and HHA).
    mebibytes: the size, as published; None where it is not.
    source: where these facts are published.
    """

    name: str
    url: str
    backbone: str | None
    checksum: Checksum | None
    licence: str
    input: str | None
    mebibytes: float | None
    source: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


# ImageNet classifiers of torchvision: the first weights of each net (IMAGENET1K_V1), which were trained by the plain
# recipe. The first 8 digits of the SHA-256 are part of the file name, the sizes are its `_file_size`
# (pytorch/vision, torchvision/models/{vgg,resnet,squeezenet,mobilenetv2}.py, release 0.28). The README: the models
# "may have their own licenses or terms and conditions derived from the dataset used for training".
_TORCHVISION = {
    "vgg11": ("8a719046", 506.84),
    "vgg13": ("19584684", 507.545),
    "vgg16": ("397923af", 527.796),
    "vgg19": ("dcbb9e9d", 548.051),
    "vgg11_bn": ("6002323d", 506.881),
    "vgg13_bn": ("abd245e5", 507.59),
    "vgg16_bn": ("6c64b313", 527.866),
    "vgg19_bn": ("c79401a0", 548.143),
    "resnet18": ("f37072fd", 44.661),
    "resnet34": ("b627a593", 83.275),
    "resnet50": ("0676ba61", 97.781),
    "squeezenet1_0": ("b66bff10", 4.778),
    "squeezenet1_1": ("b8a52dc0", 4.729),
    "mobilenet_v2": ("b0353104", 13.555),
}


def _torchvision(backbone: str, digits: str, mebibytes: float) -> KnownWeights:
    return KnownWeights(
        name=f"{backbone}.torchvision",
        url=f"https://download.pytorch.org/models/{backbone}-{digits}.pth",
        backbone=backbone,
        checksum=Checksum("sha256-prefix", digits),
        licence="not stated for the weights (torchvision itself: BSD-3-Clause)",
        input="torchvision",
        mebibytes=mebibytes,
        source="pytorch/vision, torchvision/models",
    )


_BERKELEY = "http://dl.caffe.berkeleyvision.org/"
_OXFORD = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/"

# ImageNet classifiers for Caffe: backbone, publisher, address, SHA-1, input.
# BVLC (BVLC/caffe, models/*/readme.md): address, SHA-1, "license: unrestricted" (pull request 1650). The means are
# those of data/ilsvrc12 for CaffeNet and AlexNet, and of models/bvlc_googlenet/train_val.prototxt for GoogLeNet.
# Oxford (gists 211839e770f7b538e2d8 and 3785162f95cd2d5fee77 of ksimonyan): address and mean; the project page,
# www.robots.ox.ac.uk/~vgg/research/very_deep: "released under Creative Commons Attribution License". The SHA-1 are
# those of apache/mxnet (tools/caffe_converter/convert_caffe_modelzoo.py); older versions of OpenCV's test data
# (opencv_extra, testdata/dnn/download_models.py) have the same one for VGG16.
_CAFFE = (
    ("caffenet", "bvlc", f"{_BERKELEY}bvlc_reference_caffenet.caffemodel",
     "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46", "caffe"),
    ("alexnet", "bvlc", f"{_BERKELEY}bvlc_alexnet.caffemodel",
     "9116a64c0fbe4459d18f4bb6b56d647b63920377", "caffe"),
    ("googlenet", "bvlc", f"{_BERKELEY}bvlc_googlenet.caffemodel",
     "405fc5acd08a3bb12de8ee5e23a96bec22f08204", "bgr:104,117,123"),
    ("vgg16", "oxford", f"{_OXFORD}VGG_ILSVRC_16_layers.caffemodel",
     "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24", "bgr:103.939,116.779,123.68"),
    ("vgg19", "oxford", f"{_OXFORD}VGG_ILSVRC_19_layers.caffemodel",
     "239785e7862442717d831f682bb824055e51e9ba", "bgr:103.939,116.779,123.68"),
)  # fmt: skip


def _caffe(backbone: str, publisher: str, url: str, sha1: str, convention: str) -> KnownWeights:
    bvlc = publisher == "bvlc"
    return KnownWeights(
        name=f"{backbone}.{publisher}",
        url=url,
        backbone=backbone,
        checksum=Checksum("sha1", sha1),
        licence="unrestricted" if bvlc else "Creative Commons Attribution",
        input=convention,
        mebibytes=None,
        source="BVLC/caffe, models/*/readme.md" if bvlc else "gist.github.com/ksimonyan and apache/mxnet",
    )


# The authors' own FCNs (shelhamer/fcn.berkeleyvision.org): addresses from */caffemodel-url, terms from README.md,
# means from infer.py and {nyud,siftflow,pascalcontext}_layers.py (HHA is not reversed: its order is that of the file).
# The SHA-1 of FCN-8s and, in older versions, of FCN-32s are in OpenCV's test data (opencv_extra,
# testdata/dnn/download_models.py); for the others none was found.
_VOC, _NYUD = "caffe", "bgr:116.190,97.203,92.318"
_SIFT_FLOW, _CONTEXT = "bgr:114.578,115.294,108.353", "bgr:104.007,116.669,122.679"
_FCNS: tuple[tuple[str, str, str | None], ...] = (
    ("fcn32s-vgg16.voc2011-sbd", "fcn32s-heavy-pascal", _VOC),
    ("fcn16s-vgg16.voc2011-sbd", "fcn16s-heavy-pascal", _VOC),
    ("fcn8s-vgg16.voc2011-sbd", "fcn8s-heavy-pascal", _VOC),
    ("fcn8s-vgg16-atonce.voc2011-sbd", "fcn8s-atonce-pascal", _VOC),
    ("fcn32s-caffenet.voc2011-sbd", "fcn-alexnet-pascal", _VOC),
    ("fcn32s-vgg16-color.nyudv2", "nyud-fcn32s-color-heavy", _NYUD),
    ("fcn32s-vgg16-hha.nyudv2", "nyud-fcn32s-hha-heavy", "rgb:132.431,94.076,118.477"),
    ("fcn32s-vgg16-color-hha.nyudv2", "nyud-fcn32s-color-hha-heavy", None),
    ("fcn32s-vgg16.siftflow", "siftflow-fcn32s-heavy", _SIFT_FLOW),
    ("fcn16s-vgg16.siftflow", "siftflow-fcn16s-heavy", _SIFT_FLOW),
    ("fcn8s-vgg16.siftflow", "siftflow-fcn8s-heavy", _SIFT_FLOW),
    ("fcn32s-vgg16.pascal-context", "pascalcontext-fcn32s-heavy", _CONTEXT),
    ("fcn16s-vgg16.pascal-context", "pascalcontext-fcn16s-heavy", _CONTEXT),
    ("fcn8s-vgg16.pascal-context", "pascalcontext-fcn8s-heavy", _CONTEXT),
)
_FCN_SHA1 = {
    "fcn32s-heavy-pascal": "05eb922d7829c39448f57e5ab9d8cd75d6c0be6d",
    "fcn8s-heavy-pascal": "c449ea74dd7d83751d1357d6a8c323fcf4038962",
}


def _fcn(name: str, released: str, convention: str | None) -> KnownWeights:
    sha1 = _FCN_SHA1.get(released)
    return KnownWeights(
        name=name,
        url=f"{_BERKELEY}{released}.caffemodel",
        backbone=None,
        checksum=Checksum("sha1", sha1) if sha1 is not None else None,
        licence="unrestricted (as the models of Caffe)",
        input=convention,
        mebibytes=None,
        source="shelhamer/fcn.berkeleyvision.org",
    )


KNOWN: dict[str, KnownWeights] = {
    entry.name: entry
    for entry in (
        *(_torchvision(backbone, *facts) for backbone, facts in _TORCHVISION.items()),
        *(_caffe(*facts) for facts in _CAFFE),
        *(_fcn(*facts) for facts in _FCNS),
    )
}
"""All published weights by name."""
