"""The nets that were released, layer for layer, at any width, with random weights: for the writers of caffe_files."""

import numpy as np

from fullconv.models.backbones.googlenet import INCEPTIONS
from fullconv.models.backbones.vgg import CHANNELS, CONVOLUTIONS
from fullconv.models.upsample import bilinear_weight

LEARN = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]
DATA = {"name": "data", "type": "Input", "top": "data", "input_param": {"shape": {"dim": [1, 3, 40, 50]}}}


class Writer:
    """Collects layers; each method adds one and gives its top."""

    def __init__(self, seed=0, double=True):
        self.layers, self.random, self.channels = [], np.random.default_rng(seed), {}
        self.kind = np.float64 if double else np.float32

    def numbers(self, *shape, scale=None):
        fan = np.prod(shape[1:]) if len(shape) > 1 else 100
        return (self.random.standard_normal(shape) * (scale or (2 / fan) ** 0.5)).astype(self.kind)

    def add(self, name, kind, bottom, top=None, blobs=(), **params):
        self.layers.append(
            {
                "name": name,
                "type": kind,
                "bottom": bottom,
                "top": top or name,
                **params,
                **({"blobs": blobs} if blobs else {}),
            }
        )
        return top or name

    def conv(self, name, bottom, out, kernel, stride=1, pad=0, group=1, incoming=None, relu=True):
        into = incoming or self.channels[bottom]
        blobs = [self.numbers(out, into // group, kernel, kernel), self.numbers(out)]
        settings = {"num_output": out, "kernel_size": kernel, "stride": stride, "pad": pad, "group": group}
        self.add(name, "Convolution", bottom, blobs=blobs, convolution_param=settings)
        self.channels[name] = out
        return self.add(f"relu_{name}", "ReLU", name, name) if relu else name

    def same(self, name, kind, bottom, top=None, **params):
        self.channels[top or name] = self.channels[bottom]
        return self.add(name, kind, bottom, top, **params)

    def pool(self, name, bottom, kernel=2, stride=2, pad=0, kind="MAX"):
        settings = {"pool": kind, "kernel_size": kernel, "stride": stride, "pad": pad}
        return self.same(name, "Pooling", bottom, pooling_param=settings)

    def norm(self, name, bottom):
        return self.same(name, "LRN", bottom, lrn_param={"local_size": 5, "alpha": 1e-4, "beta": 0.75})

    def dense(self, name, bottom, out, cells):
        blobs = [self.numbers(out, self.channels[bottom] * cells), self.numbers(out)]
        self.channels[name] = out
        return self.add(name, "InnerProduct", bottom, blobs=blobs, inner_product_param={"num_output": out})

    def deconv(self, name, bottom, out, kernel, stride, learned=False, group=1):
        weight = bilinear_weight(out, kernel).double().numpy()
        if group > 1:
            weight = weight[range(out), range(out)][:, None]
        blobs = [(weight + (self.numbers(*weight.shape, scale=0.01) if learned else 0)).astype(self.kind)]
        settings = {"num_output": out, "bias_term": False, "kernel_size": kernel, "stride": stride, "group": group}
        self.channels[name] = out
        return self.add(name, "Deconvolution", bottom, blobs=blobs, convolution_param=settings)

    def crop(self, name, bottom, reference, offset):
        settings = {"crop_param": {"axis": 2, "offset": offset}} if offset is not None else {}
        self.channels[name] = self.channels[bottom]
        return self.add(name, "Crop", [bottom, reference], **settings)

    def scale(self, name, bottom, value):
        blobs = [np.full(self.channels[bottom], value, self.kind)]
        return self.same(name, "Scale", bottom, blobs=blobs, scale_param={"filler": {"value": value}})

    def fuse(self, name, bottoms, operation="SUM", coeff=()):
        self.channels[name] = self.channels[bottoms[0]]
        settings = {"operation": operation, **({"coeff": list(coeff)} if coeff else {})}
        return self.add(name, "Eltwise", bottoms, eltwise_param=settings)


def dropout(w, name, top, ratio=0.5):
    return w.same(name, "Dropout", top, top, dropout_param={"dropout_ratio": ratio})


def vgg_trunk(w, data, depth=16, width=1 / 32, pad=100, end="", first="conv1_1", channels=3):
    """conv1_1 to pool5; the names end in `end`, as those of the late-fusion streams do."""
    w.channels[data] = channels
    top = data
    for block, (convs, filters) in enumerate(zip(CONVOLUTIONS[depth], CHANNELS, strict=True), start=1):
        for number in range(1, convs + 1):
            name = first if (block, number) == (1, 1) else f"conv{block}_{number}"
            top = w.conv(name + end, top, round(filters * width), 3, pad=pad if top == data else 1)
        top = w.pool(f"pool{block}{end}", top)
    return top


def fully_conv(w, top, kernel, width=1 / 32, end=""):
    for name, size in (("fc6", kernel), ("fc7", 1)):
        top = w.conv(name + end, top, round(4096 * width), size)
        top = dropout(w, name.replace("fc", "drop") + end, top)
    return top


def head(
    w, features, skips, classes, data="data", task="", scales=(), offsets=True, fuse="SUM", learned=(), score_fr=None
):
    """score_fr, the skips, upsampling and crop of the VGG nets; `features` is (fc7's top, pool4, pool3)."""
    top = score_fr or w.conv(f"score_fr{task}", features[0], classes, 1, relu=False)
    if not skips:
        top = w.deconv(f"upscore{task}", top, classes, 64, 32, learned="upscore" in learned)
        return w.crop(f"score{task}", top, data, 19 if offsets else None)
    up = "upscore2"
    for skip, offset in zip(skips, (5, 9), strict=False):
        top = w.deconv(f"{up}{task}", top, classes, 4, 2, learned=up in learned)
        feature = features[5 - skip]
        if scales:
            feature = w.scale(f"scale_pool{skip}{task}", feature, scales[4 - skip])
        scored = w.conv(f"score_pool{skip}{task}", feature, classes, 1, relu=False)
        cut = w.crop(f"score_pool{skip}{task}c", scored, top, offset if offsets else None)
        top = w.fuse(f"fuse_pool{skip}{task}", [top, cut], fuse)
        up = f"upscore_pool{skip}"
    stride = 2 ** skips[-1]
    top = w.deconv(f"upscore{stride}{task}", top, classes, 2 * stride, stride, learned=f"upscore{stride}" in learned)
    return w.crop(f"score{task}", top, data, {16: 27, 8: 31}[stride] if offsets else None)


def fcn_vgg(skips=(), classes=21, depth=16, double=True, seed=0, first="conv1_1", channels=3, tasks=None, **more):
    w = Writer(seed, double)
    vgg_trunk(w, "data", depth, first=first, channels=channels)
    top = fully_conv(w, "pool5", 7)
    for task, outputs in (tasks or {"": classes}).items():
        head(w, (top, "pool4", "pool3"), skips, outputs, task=task, **more)
    return w.layers


def late_fusion(coeff=(0.5, 0.5), classes=40, double=True):
    w = Writer(1, double)
    for stream in ("color", "hha"):
        top = fully_conv(w, vgg_trunk(w, stream, end=stream), 7, end=stream)
        w.conv(f"score_fr{stream}", top, classes, 1, relu=False)
    fused = w.fuse("score_fused", ["score_frcolor", "score_frhha"], coeff=coeff)
    head(w, (), (), classes, data="color", score_fr=fused)
    return w.layers


def alexnet_trunk(w, order, width, pad):
    w.channels["data"] = 3
    c = [2 * max(1, round(n * width / 2)) for n in (96, 256, 384, 384, 256)]
    top = w.conv("conv1", "data", c[0], 11, 4, pad)
    for block in (1, 2):
        steps = [lambda t, b=block: w.pool(f"pool{b}", t, 3), lambda t, b=block: w.norm(f"norm{b}", t)]
        for step in steps if order == "caffenet" else reversed(steps):
            top = step(top)
        if block == 1:
            top = w.conv("conv2", top, c[1], 5, pad=2, group=2)
    top = w.conv("conv3", top, c[2], 3, pad=1)
    top = w.conv("conv4", top, c[3], 3, pad=1, group=2)
    return w.pool("pool5", w.conv("conv5", top, c[4], 3, pad=1, group=2), 3)


def fcn_alexnet(order="caffenet", width=1 / 16, classes=21, double=True):
    w = Writer(2, double)
    top = fully_conv(w, alexnet_trunk(w, order, width, 100), 6, width)
    top = w.conv("score_fr", top, classes, 1, relu=False)
    w.crop("score", w.deconv("upscore", top, classes, 63, 32), "data", 18)
    return w.layers


def with_classes(w, top, cells, width, classes):
    for name in ("fc6", "fc7"):
        top = w.dense(name, top, round(4096 * width), cells if name == "fc6" else 1)
        top = dropout(w, name.replace("fc", "drop"), w.same(f"relu_{name}", "ReLU", top, top))
    w.add("prob", "Softmax", w.dense("fc8", top, classes, 1))
    return w.layers


def classifier_alexnet(order, width=1 / 16, classes=10, double=True):
    w = Writer(3, double)
    return with_classes(w, alexnet_trunk(w, order, width, 0), 36, width, classes)


def classifier_vgg(depth, width=1 / 32, classes=10, double=True):
    w = Writer(4, double)
    return with_classes(w, vgg_trunk(w, "data", depth, width, pad=1), 49, width, classes)


def classifier_googlenet(width=1 / 16, classes=10, double=True):
    w = Writer(5, double)

    def n(filters):
        return max(1, round(filters * width))

    w.channels["data"] = 3
    top = w.conv("conv1/7x7_s2", "data", n(64), 7, 2, 3)
    top = w.norm("pool1/norm1", w.pool("pool1/3x3_s2", top, 3))
    top = w.conv("conv2/3x3", w.conv("conv2/3x3_reduce", top, n(64), 1), n(192), 3, pad=1)
    top = w.pool("pool2/3x3_s2", w.norm("conv2/norm2", top), 3)
    for module, (one, reduce3, three, reduce5, five, projection) in INCEPTIONS.items():
        at = f"inception_{module}/"
        ways = [
            w.conv(f"{at}1x1", top, n(one), 1),
            w.conv(f"{at}3x3", w.conv(f"{at}3x3_reduce", top, n(reduce3), 1), n(three), 3, pad=1),
            w.conv(f"{at}5x5", w.conv(f"{at}5x5_reduce", top, n(reduce5), 1), n(five), 5, pad=2),
            w.conv(f"{at}pool_proj", w.pool(f"{at}pool", top, 3, 1, 1), n(projection), 1),
        ]
        w.channels[f"{at}output"] = sum(w.channels[way] for way in ways)
        top = w.add(f"{at}output", "Concat", ways)
        if module in ("3b", "4e"):
            top = w.pool(f"pool{int(module[0])}/3x3_s2", top, 3)
    top = dropout(w, "pool5/drop", w.pool("pool5/7x7_s1", top, 7, 1, kind="AVE"), 0.4)
    w.add("prob", "Softmax", w.dense("loss3/classifier", top, classes, 1))
    return w.layers


RELEASED = {
    "voc-fcn32s": lambda few=None, **o: fcn_vgg(classes=few or 21, **o),
    "voc-fcn16s": lambda few=None, **o: fcn_vgg((4,), classes=few or 21, **o),
    "voc-fcn8s": lambda few=None, **o: fcn_vgg((4, 3), classes=few or 21, **o),
    "voc-fcn8s-atonce": lambda few=None, **o: fcn_vgg((4, 3), classes=few or 21, scales=(0.01, 0.0001), **o),
    "voc-fcn-alexnet": lambda few=None, **o: fcn_alexnet(classes=few or 21, **o),
    "nyud-fcn32s-color": lambda few=None, **o: fcn_vgg(classes=few or 40, **o),
    "nyud-fcn32s-color-d": lambda few=None, **o: fcn_vgg(classes=few or 40, first="conv1_1_bgrd", channels=4, **o),
    "nyud-fcn32s-color-hha": lambda few=None, **o: late_fusion(classes=few or 40, **o),
    "siftflow-fcn32s": lambda few=None, **o: fcn_vgg(tasks={"_sem": few or 33, "_geo": 3}, **o),
    "siftflow-fcn16s": lambda few=None, **o: fcn_vgg((4,), tasks={"_sem": few or 33, "_geo": 3}, **o),
    "siftflow-fcn8s": lambda few=None, **o: fcn_vgg((4, 3), tasks={"_sem": few or 33, "_geo": 3}, **o),
    "pascalcontext-fcn32s": lambda few=None, **o: fcn_vgg(classes=few or 60, **o),
    "pascalcontext-fcn16s": lambda few=None, **o: fcn_vgg((4,), classes=few or 60, **o),
    "pascalcontext-fcn8s": lambda few=None, **o: fcn_vgg((4, 3), classes=few or 60, **o),
    "vgg16": lambda few=None, **o: classifier_vgg(16, **o),
    "vgg19": lambda few=None, **o: classifier_vgg(19, **o),
    "caffenet": lambda few=None, **o: classifier_alexnet("caffenet", **o),
    "alexnet": lambda few=None, **o: classifier_alexnet("alexnet", **o),
    "googlenet": lambda few=None, **o: classifier_googlenet(**o),
}
"""The released FCNs and the classifiers below them, by their names; `double` writes float64 weights, `few` makes the
number of classes small, for speed.
"""
