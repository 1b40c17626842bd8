"""VGG (Simonyan and Zisserman 2015), with the layer names of the released FCNs: conv1_1 ... pool5, fc6, fc7, fc8."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""How many 3x3 convolutions each of the five blocks has, by the depth of the net (configurations A, B, D and E)."""

CHANNELS = (64, 128, 256, 512, 512)


def vgg(
    depth: int, num_classes: int = 1000, width: float = 1.0, native_size: int = 224, norm: bool = False
) -> nn.Sequential:
    """A VGG classifier: (N, 3, native, native) -> (N, num_classes).

    `width` scales every channel count, fc6 and fc7 included; `native_size` (a multiple of 32) decides the kernel of
    fc6, 7x7 at 224. Pools are in ceil mode, as Caffe's are. `norm` puts a batch norm after each 3x3 convolution, as
    torchvision's ``_bn`` nets have it: the paper's nets do without, but then a VGG hardly trains from random weights.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    incoming = 3
    for block, (convolutions, channels) in enumerate(zip(CONVOLUTIONS[depth], CHANNELS, strict=True), start=1):
        outgoing = max(1, round(channels * width))
        for number in range(1, convolutions + 1):
            layers[f"conv{block}_{number}"] = nn.Conv2d(incoming, outgoing, 3, padding=1)
            if norm:
                layers[f"bn{block}_{number}"] = nn.BatchNorm2d(outgoing)
            layers[f"relu{block}_{number}"] = nn.ReLU(inplace=True)
            incoming = outgoing
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
    hidden, side = max(1, round(4096 * width)), -(-native_size // 32)
    layers["flatten"] = nn.Flatten()
    layers["fc6"] = nn.Linear(incoming * side * side, hidden)
    layers["relu6"] = nn.ReLU(inplace=True)
    layers["drop6"] = nn.Dropout(0.5)
    layers["fc7"] = nn.Linear(hidden, hidden)
    layers["relu7"] = nn.ReLU(inplace=True)
    layers["drop7"] = nn.Dropout(0.5)
    layers["fc8"] = nn.Linear(hidden, num_classes)
    net = nn.Sequential(layers)
    for layer in net:
        # PyTorch's default start lets the signal of a plain net this deep fade away; He et al. 2015 keeps its variance.
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(
                layer.weight, mode="fan_in" if isinstance(layer, nn.Linear) else "fan_out", nonlinearity="relu"
            )
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
