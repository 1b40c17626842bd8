"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016), with torchvision's key names."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 side by side: (N, C, H, W) -> (N, 2 * expand, H, W)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze, expand both ways, concatenate."""
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """SqueezeNet: (N, 3, H, W) -> (N, num_classes); native size 227 for version 1.0, 224 for 1.1; stride 16.

    Pools are 3x3 of stride 2 in ceil mode; the first convolution has no padding.
    """

    def __init__(self, version: str = "1_0", num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()

        def scaled(n: int) -> int:
            return max(1, round(n * width))

        first, kernel, pools_after = (96, 7, (0, 3, 7)) if version == "1_0" else (64, 3, (0, 2, 4))
        plan = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
        incoming = scaled(first)
        layers: list[nn.Module] = [nn.Conv2d(3, incoming, kernel, stride=2), nn.ReLU(inplace=True)]
        for number, (squeeze, expand) in enumerate(plan):
            if number in pools_after:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(incoming, scaled(squeeze), scaled(expand)))
            incoming = 2 * scaled(expand)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(incoming, num_classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of one crop."""
        return torch.flatten(self.classifier(self.features(x)), 1)
