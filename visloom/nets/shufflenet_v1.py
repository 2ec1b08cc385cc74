"""ShuffleNet V1, width 1: grouped 1x1 convolutions around a depthwise 3x3, and a shuffle that lets groups talk.

1,865,728 parameters with three groups and 1,000 classes. Parameter names are those of mmclassification's
`ShuffleNetV1` with its head (`conv1.conv`, `layers.0.1.g_conv_1x1_compress.bn`, ..., `fc`).
Source: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
"""Channels of the three stages by number of groups (table 1 of the paper)."""
_BLOCKS = (4, 8, 4)


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm and, if wanted, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.bn(self.conv(x))
        return functional.relu(y, inplace=True) if self.relu else y


class ShuffleUnit(nn.Module):
    """Compress, depthwise, shuffle, expand; added to the input, or joined to its pooled version where it strides.

    The paper shuffles before the depthwise convolution; the published weights are of a network that does so after it.
    The very first unit does not group its compression, because the stem has few channels.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, *, first: bool, joins: bool) -> None:
        super().__init__()
        middle = outputs // 4
        self.groups = groups
        self.joins = joins
        expanded = outputs - inputs if joins else outputs
        stride = 2 if joins else 1
        self.g_conv_1x1_compress = ConvNorm(inputs, middle, 1, groups=1 if first else groups)
        self.depthwise_conv3x3_bn = ConvNorm(middle, middle, 3, stride, groups=middle, relu=False)
        self.g_conv_1x1_expand = ConvNorm(middle, expanded, 1, groups=groups, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), or half of H and W where it joins."""
        y = self.depthwise_conv3x3_bn(self.g_conv_1x1_compress(x))
        y = self.g_conv_1x1_expand(shuffled(y, self.groups))
        if self.joins:
            y = torch.cat((functional.avg_pool2d(x, 3, 2, 1), y), 1)
        else:
            y = y + x
        return functional.relu(y, inplace=True)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of groups: (B, C, H, W) seen as (B, groups, C / groups, H, W), transposed."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ShuffleNetV1(nn.Module):
    """(B, in_chans, H, W) -> logits (B, num_classes), 224x224 by design.

    Initial weights as in the original: the stem normal with deviation 0.01, other convolutions with 1 / inputs per
    group, norms 1 and 0.0001, the head normal with 0.01.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, groups: int = 3) -> None:
        super().__init__()
        if groups not in WIDTHS:
            raise ValueError(f"ShuffleNetV1 has 1, 2, 3, 4 or 8 groups, got {groups}")
        self.conv1 = ConvNorm(in_chans, 24, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, stages = 24, []
        for stage, (width, blocks) in enumerate(zip(WIDTHS[groups], _BLOCKS, strict=True)):
            units = []
            for unit in range(blocks):
                first = stage == 0 and unit == 0
                units.append(ShuffleUnit(inputs, width, groups, first=first, joins=unit == 0))
                inputs = width
            stages.append(nn.Sequential(*units))
        self.layers = nn.ModuleList(stages)
        self.fc = nn.Linear(inputs, num_classes)
        self._init()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of normalised images."""
        x = self.maxpool(self.conv1(image))
        for stage in self.layers:
            x = stage(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits

    def _init(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                deviation = 0.01 if name.startswith("conv1.") else 1.0 / module.weight.shape[1]
                nn.init.normal_(module.weight, std=deviation)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.constant_(module.bias, 1e-4)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
