"""ResNet bodies of detectors (He et al., 2016), with what old weights need: stride in the first 1x1 convolution of a
block, batch norm that is an affine map without epsilon, narrow versions. Names are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
Norm = Callable[[int], nn.Module]
NormKind = Literal["frozen", "batch", "group"]


def norm_of(kind: NormKind, eps: float) -> Norm:
    """A norm by its kind: batch norm that is a fixed affine map, batch norm that learns, or 32 groups."""
    if kind == "frozen":
        return partial(FrozenBatchNorm2d, eps=eps)
    return nn.BatchNorm2d if kind == "batch" else partial(nn.GroupNorm, 32)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut."""

    def __init__(
        self, before: int, middle: int, after: int, stride: int, groups: int, norm: Norm, first: bool
    ) -> None:
        super().__init__()
        one, three = (stride, 1) if first else (1, stride)
        self.conv1 = nn.Conv2d(before, middle, 1, one, bias=False)
        self.bn1 = norm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, three, 1, groups=groups, bias=False)
        self.bn2 = norm(middle)
        self.conv3 = nn.Conv2d(middle, after, 1, bias=False)
        self.bn3 = norm(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))
            if stride != 1 or before != after
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)."""
        short = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)) + short)
        return out


def stage(
    number: int, depth: int, *, stem: int, out: int, width: int, groups: int, norm: Norm, first: bool
) -> nn.Sequential:
    """Stage 1 to 4 of a ResNet. out: channels after stage 1; width: per group in its middle."""
    factor = 2 ** (number - 1)
    before = stem if number == 1 else out * factor // 2
    blocks = []
    for i in range(BLOCKS[depth][number - 1]):
        stride = 2 if i == 0 and number > 1 else 1
        blocks.append(Bottleneck(before, groups * width * factor, out * factor, stride, groups, norm, first))
        before = out * factor
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Stem and the first stages of a ResNet; returns the maps of all stages asked for.

    Args:
        depth: 50, 101 or 152.  stages: how many are built (3 for C4, 4 for FPN).  returned: which, 1-based.
        frozen: the stem and this many stages minus one have no gradient: 2 freezes the stem and stage 1.
        first: the stride sits in the first 1x1 convolution (MSRA), not in the 3x3 (torchvision).
        eps: of frozen batch norm; 0 in maskrcnn-benchmark.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        stages: int = 4,
        returned: tuple[int, ...] = (1, 2, 3, 4),
        channels: int = 3,
        stem: int = 64,
        out: int = 256,
        width: int = 64,
        groups: int = 1,
        norm: NormKind = "frozen",
        eps: float = 1e-5,
        first: bool = False,
        frozen: int = 2,
    ) -> None:
        super().__init__()
        make = norm_of(norm, eps)
        self.conv1 = nn.Conv2d(channels, stem, 7, 2, 3, bias=False)
        self.bn1 = make(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.returned, self.stages = returned, stages
        for number in range(1, stages + 1):
            built = stage(
                number, depth, stem=stem, out=out, width=width, groups=groups, norm=make, first=first
            )
            self.add_module(f"layer{number}", built)
        self.channels = tuple(out * 2 ** (number - 1) for number in returned)
        self.reductions = tuple(2 ** (number + 1) for number in returned)
        start(self)
        for number in range(frozen):
            for part in (self.conv1, self.bn1) if number == 0 else (self.get_submodule(f"layer{number}"),):
                part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> one map per stage of `returned`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
            if number in self.returned:
                found.append(x)
        return found


def start(module: nn.Module) -> None:
    """Initial weights of convolutions: He et al., fan out, as torchvision's ResNet starts."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
