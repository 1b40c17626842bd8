"""LeNet as Caffe's MNIST example has it: the net whose convolutional form read strings of digits (LeCun 1998; Matan
et al. 1992).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet(num_classes: int = 10, width: float = 1.0, native_size: int = 28, channels: int = 3) -> nn.Sequential:
    """Conv 20 @ 5x5, pool, conv 50 @ 5x5, pool, ip1 500, ip2: (N, channels, 28, 28) -> (N, num_classes).

    Caffe's takes one channel; here three by default, since images have them.
    """
    c1, c2, hidden = (max(1, round(n * width)) for n in (20, 50, 500))
    side = ((native_size - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, c1, 5),
            pool1=nn.MaxPool2d(2, 2, ceil_mode=True),
            conv2=nn.Conv2d(c1, c2, 5),
            pool2=nn.MaxPool2d(2, 2, ceil_mode=True),
            flatten=nn.Flatten(),
            ip1=nn.Linear(c2 * side * side, hidden),
            relu1=nn.ReLU(inplace=True),
            ip2=nn.Linear(hidden, num_classes),
        )
    )
