"""ResNet for 32x32 images: a 3x3 stride-1 stem and no max-pool, so that the last map is 4x4, then the usual
stages.

Parameter names are torchvision's (conv1, bn1, layer1.0.conv1, ..., fc), hence checkpoints of
mmclassification's `ResNet_CIFAR` load after dropping `backbone.` and `head.`. Parameters with 10 classes, in
millions: 11.174 (18), 21.282 (34), 23.521 (50), 42.513 (101), 58.157 (152).

Source: He et al., "Deep Residual Learning for Image Recognition", 2016; the variant and its initial weights
are those
of mmclassification 0.x (`ResNet_CIFAR`, `LinearClsHead`).
"""

from __future__ import annotations

from torch import Tensor, nn

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (depths 18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out

    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that closes the residual branch."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions beside a shortcut (depths 50 and up)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out

    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that closes the residual branch."""
        return self.bn3


class ResNetCifar(nn.Module):
    """ResNet_CIFAR of depth 18, 34, 50, 101 or 152.

    Initial weights: convolutions Kaiming normal (fan out, ReLU); norms 1 and 0, but 0 for the weight of the
    last norm
    of every block, which then begins as the identity; the head normal with deviation 0.01.
    """

    def __init__(self, depth: int = 18, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"ResNetCifar has the depths {', '.join(map(str, DEPTHS))}, got {depth}")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        one, two, three, four = DEPTHS[depth]
        self.layer1 = _stage(block, 64, 64, one, 1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, two, 2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, three, 2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, four, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes)
        self._init()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, channels, H, W), 32x32 by design and any size of 8
        up."""
        x = self.relu(self.bn1(self.conv1(image)))  # (B, 64, H, W)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, C, H / 8, W / 8)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm().weight)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, n: int, stride: int
) -> nn.Sequential:
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(n - 1)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
