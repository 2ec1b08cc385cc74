"""Compact: a small residual encoder with a pyramid decoder, for learning from scratch in minutes on a CPU.

Most of the work is done at a quarter of the picture's sides and less, where convolutions are wide enough to be
efficient; the decoder adds its levels up (Lin et al., "Feature Pyramid Networks", 2017), and every pixel hears the
mean over the whole picture (Liu et al., "ParseNet", 2015).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


def _conv(channels: int, out: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions and a way past them; the last norm begins at 0, so that a block begins as nothing."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(channels, out, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]
        self.past: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            layers: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)]
            layers += [nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)]
            self.past = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x)) + self.past(x))


class Compact(nn.Module):
    """(B, channels, H, W) -> logits (B, classes, H, W), for any H and W.

    Args:
        width: channels at a quarter of the sides; each further level has twice as many, up to eight times.
        blocks: residual blocks at a quarter, an eighth, a sixteenth and a 32nd of the sides.
        dropout: share of the decoder's channels that are left out in training.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 32,
        blocks: tuple[int, ...] = (1, 2, 2, 2),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        wide = [width << level for level in range(len(blocks))]
        self.stem = _conv(channels, width // 2, 3, 2)
        self.stages = nn.ModuleList()
        for (before, out), count in zip(pairwise([width // 2, *wide]), blocks, strict=True):
            layers = [_Residual(before, out, 2), *(_Residual(out, out, 1) for _ in range(count - 1))]
            self.stages.append(nn.Sequential(*layers))
        inner = 2 * width
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide[-1], inner, 1))
        self.laterals = nn.ModuleList(nn.Conv2d(out, inner, 1, bias=False) for out in wide)
        self.mixes = nn.ModuleList(_conv(inner, inner) for _ in wide)
        self.dropout = nn.Dropout2d(dropout)
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)
        self.fine = nn.Conv2d(width // 2, width, 1, bias=False)
        self.last = _conv(width, width)
        self.head = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)  # begin near a uniform answer

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        half = self.stem(x)
        seen = []
        y = half
        for stage in self.stages:
            y = stage(y)
            seen.append(y)
        y = self.context(seen[-1])
        for level in reversed(range(len(seen))):
            lateral = self.laterals[level](seen[level])
            y = self.mixes[level](lateral + _resized(y, lateral))
        fine = self.fine(half)
        y = self.last(functional.relu(fine + _resized(self.narrow(self.dropout(y)), fine)))
        logits: Tensor = functional.interpolate(self.head(y), size, mode="bilinear")
        return logits


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize to the height and width of another tensor; a single pixel is spread."""
    if x.shape[2:] == like.shape[2:] or x.shape[2:] == (1, 1):
        return x
    return functional.interpolate(x, like.shape[2:], mode="bilinear")
