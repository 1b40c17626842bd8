"""What Caffe computes, in float64 NumPy, straight from the definitions of its layers: loops over the taps of a
window, arrays for the rest. For the test phase only.
"""

import math

import numpy as np

from fullconv.weights.caffe.net import LOSSES, SOURCES


def forward(net, blobs_by_layer, data):
    """All blobs of a net by name, computed from those in `data`; the weights of a layer by its name."""
    found = {name: np.asarray(array, np.float64) for name, array in data.items()}
    for layer in net.layers:
        if layer.train_only or layer.type in (*SOURCES, *LOSSES, "SoftmaxWithLoss", "Accuracy", "Silence"):
            continue
        weights = [np.asarray(blob, np.float64) for blob in blobs_by_layer.get(layer.name, ())]
        tops = LAYERS[layer.type](layer.params, weights, *(found[bottom] for bottom in layer.bottoms))
        if not isinstance(tops, tuple):
            tops = (tops,) * len(layer.tops)
        found.update(zip(layer.tops, tops, strict=True))
    return found


def windows(x, kernel, stride, dilation, out):
    """Of every tap, the cells of x (rows, columns last) that the out cells see through it, with its place."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + stride[0] * (out[0] - 1) + 1, stride[0])
            yield (i, j), x[..., rows, left : left + stride[1] * (out[1] - 1) + 1 : stride[1]]


def convolution(p, weights, x):
    kernel, stride, pad, dilation = (p[name] for name in ("kernel_size", "stride", "pad", "dilation"))
    groups, (n, channels, *size) = p["group"], x.shape
    span = [(kernel[a] - 1) * dilation[a] + 1 for a in (0, 1)]
    out = [(size[a] + 2 * pad[a] - span[a]) // stride[a] + 1 for a in (0, 1)]
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    x = x.reshape(n, groups, channels // groups, *x.shape[2:])
    w = weights[0].reshape(groups, p["num_output"] // groups, channels // groups, *kernel)
    y = np.zeros((n, groups, p["num_output"] // groups, *out))
    for (i, j), seen in windows(x, kernel, stride, dilation, out):
        y += np.einsum("ngchw,goc->ngohw", seen, w[..., i, j])
    return biased(p, weights, y.reshape(n, p["num_output"], *out))


def deconvolution(p, weights, x):
    """The transpose of `convolution`: every input cell paints its kernel onto the output."""
    kernel, stride, pad, dilation = (p[name] for name in ("kernel_size", "stride", "pad", "dilation"))
    groups, (n, channels, *size) = p["group"], x.shape
    whole = [stride[a] * (size[a] - 1) + (kernel[a] - 1) * dilation[a] + 1 for a in (0, 1)]
    x = x.reshape(n, groups, channels // groups, *size)
    w = weights[0].reshape(groups, channels // groups, p["num_output"] // groups, *kernel)
    y = np.zeros((n, groups, p["num_output"] // groups, *whole))
    for (i, j), painted in windows(y, kernel, stride, dilation, size):
        painted += np.einsum("ngchw,gco->ngohw", x, w[..., i, j])
    y = y[..., pad[0] : whole[0] - pad[0], pad[1] : whole[1] - pad[1]]
    return biased(p, weights, y.reshape(n, p["num_output"], *y.shape[-2:]))


def biased(p, weights, y):
    return y + weights[1].reshape(-1, 1, 1) if p["bias_term"] else y


def pooling(p, weights, x):
    size, stride, pad = x.shape[-2:], p["stride"], p["pad"]
    kernel = size if p["global_pooling"] else p["kernel_size"]
    rounded = math.ceil if p["round_mode"] == "CEIL" else math.floor
    out = [rounded((size[a] + 2 * pad[a] - kernel[a]) / stride[a]) + 1 for a in (0, 1)]
    if any(pad):  # the last window begins in the image or its first padding
        out = [out[a] - ((out[a] - 1) * stride[a] >= size[a] + pad[a]) for a in (0, 1)]
    behind = [max(0, (out[a] - 1) * stride[a] + kernel[a] - size[a] - pad[a]) for a in (0, 1)]
    around = ((0, 0), (0, 0), (pad[0], behind[0]), (pad[1], behind[1]))
    x = np.pad(x, around, constant_values=-np.inf if p["pool"] == "MAX" else 0)
    seen = [cells for _, cells in windows(x, kernel, stride, (1, 1), out)]
    if p["pool"] == "MAX":
        return np.maximum.reduce(seen)
    assert p["pool"] == "AVE"
    # The mean is over the window, cut at the padding of the far side: zeros of the padding count.
    starts = [np.arange(out[a]) * stride[a] - pad[a] for a in (0, 1)]
    counts = [np.minimum(starts[a] + kernel[a], size[a] + pad[a]) - starts[a] for a in (0, 1)]
    return sum(seen) / np.outer(*counts)


def lrn(p, weights, x):
    assert p["norm_region"] == "ACROSS_CHANNELS"
    half = p["local_size"] // 2
    squares = np.pad(x**2, ((0, 0), (half, half), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + x.shape[1]] for i in range(p["local_size"]))
    return x * (p["k"] + p["alpha"] / p["local_size"] * total) ** -p["beta"]


def inner_product(p, weights, x):
    x = x.reshape(*x.shape[: p["axis"]], -1)
    w = weights[0].reshape(-1, p["num_output"]).T if p["transpose"] else weights[0].reshape(p["num_output"], -1)
    y = x @ w.T
    return y + weights[1].reshape(-1) if p["bias_term"] else y


def softmax(p, weights, x):
    e = np.exp(x - x.max(p["axis"], keepdims=True))
    return e / e.sum(p["axis"], keepdims=True)


def crop(p, weights, x, reference):
    axis = p["axis"] % x.ndim
    offsets = p["offset"] or (0,)
    offsets = offsets * (x.ndim - axis) if len(offsets) == 1 else offsets
    sizes = reference.shape[axis:]
    assert all(o + s <= n for o, s, n in zip(offsets, sizes, x.shape[axis:], strict=True))
    return x[(..., *(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True)))]


def eltwise(p, weights, *inputs):
    if p["operation"] == "PROD":
        return np.multiply.reduce(inputs)
    if p["operation"] == "MAX":
        return np.maximum.reduce(inputs)
    return sum(c * x for c, x in zip(p["coeff"] or (1,) * len(inputs), inputs, strict=True))


def scale(p, weights, x, *factor):
    axis = p["axis"] % x.ndim
    factor, *bias = [*factor, *weights]

    def spread(a):
        return a.reshape(*(1,) * axis, *a.shape, *(1,) * (x.ndim - axis - a.ndim))

    return x * spread(factor) + (spread(bias[0]) if p["bias_term"] else 0)


def batch_norm(p, weights, x):
    mean, variance, count = weights
    by = 0 if count.item() == 0 else 1 / count.item()
    mean, variance = (a.reshape(-1, 1, 1) * by for a in (mean, variance))
    return (x - mean) / np.sqrt(variance + p["eps"])


LAYERS = {
    "BatchNorm": batch_norm,
    "Concat": lambda p, weights, *inputs: np.concatenate(inputs, p["axis"]),
    "Convolution": convolution,
    "Crop": crop,
    "Deconvolution": deconvolution,
    "Dropout": lambda p, weights, x: x,
    "Eltwise": eltwise,
    "InnerProduct": inner_product,
    "LRN": lrn,
    "Pooling": pooling,
    "ReLU": lambda p, weights, x: np.maximum(x, 0) + p["negative_slope"] * np.minimum(x, 0),
    "Scale": scale,
    "Softmax": softmax,
    "Split": lambda p, weights, x: x,
}
