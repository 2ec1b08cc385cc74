"""The PSPNet of the PyTorch-segmentation template: a dilated ResNet of stride 8, pyramid pooling, an auxiliary head.

Parameter names are the template's. Sources: Zhao et al., "Pyramid Scene Parsing Network", 2017; the ResNet is that of
PyTorch-Encoding (Zhang), whose stem from depth 50 on is three 3x3 convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

BINS = (1, 2, 3, 6)
"""Cells along each axis of the four poolings."""


class _Depth(NamedTuple):
    bottleneck: bool
    blocks: tuple[int, int, int, int]


DEPTHS = {
    "resnet18": _Depth(False, (2, 2, 2, 2)),
    "resnet34": _Depth(False, (3, 4, 6, 3)),
    "resnet50": _Depth(True, (3, 4, 6, 3)),
    "resnet101": _Depth(True, (3, 4, 23, 3)),
    "resnet152": _Depth(True, (3, 8, 36, 3)),
}


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels."""

    def __init__(
        self, channels: int, planes: int, stride: int, dilation: int, before: int, bottleneck: bool
    ) -> None:
        super().__init__()
        out = planes * 4 if bottleneck else planes
        if bottleneck:
            self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(channels, planes, 3, stride, dilation, dilation, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, before, before, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
        self.bottleneck = bottleneck
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        joined: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return joined


def _stage(
    channels: int, planes: int, blocks: int, stride: int, dilation: int, bottleneck: bool
) -> nn.Sequential:
    """A stage; its first block has half of the stage's dilation, as in PyTorch-Encoding."""
    out = planes * 4 if bottleneck else planes
    layers = [_Block(channels, planes, stride, max(1, dilation // 2), dilation, bottleneck)]
    layers += [_Block(out, planes, 1, dilation, dilation, bottleneck) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def _stem(channels: int, deep: bool) -> tuple[nn.Module, int]:
    if not deep:
        return nn.Conv2d(channels, 64, 7, 2, 3, bias=False), 64
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 64, 3, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
    ]
    layers += [nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(64, 128, 3, 1, 1, bias=False)), 128


class _Pyramid(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        out = channels // len(BINS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(cells),
                nn.Conv2d(channels, out, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            )
            for cells in BINS
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(channels + out * len(BINS), out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        parts = [functional.interpolate(s(x), size, mode="bilinear", align_corners=True) for s in self.stages]
        joined: Tensor = self.bottleneck(torch.cat([x, *parts], dim=1))
        return joined


class PSPNet(nn.Module):
    """(B, channels, H, W) -> logits (B, classes, H, W); in training a list with those of the auxiliary head too.

    Args:
        aux: use the auxiliary head. Its parameters exist in any case, so that checkpoints fit.
    """

    def __init__(self, classes: int, channels: int = 3, backbone: str = "resnet50", aux: bool = True) -> None:
        super().__init__()
        bottleneck, blocks = DEPTHS[backbone]
        self.aux = aux
        stem, wide = _stem(channels, deep=bottleneck)
        self.initial = nn.Sequential(
            stem, nn.BatchNorm2d(wide), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        )
        grow = 4 if bottleneck else 1
        self.layer1 = _stage(wide, 64, blocks[0], 1, 1, bottleneck)
        self.layer2 = _stage(64 * grow, 128, blocks[1], 2, 1, bottleneck)
        self.layer3 = _stage(128 * grow, 256, blocks[2], 1, 2, bottleneck)
        self.layer4 = _stage(256 * grow, 512, blocks[3], 1, 4, bottleneck)
        out = 512 * grow
        self.master_branch = nn.Sequential(_Pyramid(out), nn.Conv2d(out // 4, classes, 1))
        self.auxiliary_branch = nn.Sequential(
            nn.Conv2d(out // 2, out // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(out // 4),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(out // 4, classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        third = self.layer3(self.layer2(self.layer1(self.initial(x))))
        main = functional.interpolate(self.master_branch(self.layer4(third)), size, mode="bilinear")
        if not (self.training and self.aux):
            return main
        return [main, functional.interpolate(self.auxiliary_branch(third), size, mode="bilinear")]
