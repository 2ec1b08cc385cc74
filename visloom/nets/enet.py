"""ENet: 0.36 M parameters, most of its work at an eighth of the picture's sides (Paszke et al. 2016).

Each block adds to its input what a narrow way of three convolutions finds: plain, dilated, or a 5x1 behind a 1x5.
Where a block halves the picture it remembers where the maxima were, and the one that doubles it puts them back there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.nets.unpool import pool, unpool


def _normed(*layers: nn.Module, channels: int) -> list[nn.Module]:
    return [*layers, nn.BatchNorm2d(channels), nn.PReLU(channels)]


def _way(channels: int, out: int, middle: list[nn.Module], inner: int, first: int = 1) -> list[nn.Module]:
    """A narrow way: `first` x `first` convolution to `inner` channels, the middle, and 1x1 back."""
    layers = _normed(nn.Conv2d(channels, inner, first, first, bias=False), channels=inner)
    layers += _normed(*middle, channels=inner)
    return [*layers, nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)]


class _Block(nn.Module):
    """A block that keeps size and channels."""

    def __init__(self, channels: int, dropout: float, dilation: int = 1, asymmetric: bool = False) -> None:
        super().__init__()
        inner = channels // 4
        middle: list[nn.Module] = [nn.Conv2d(inner, inner, 3, 1, dilation, dilation, bias=False)]
        if asymmetric:
            middle = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            ]
        self.way = nn.Sequential(*_way(channels, channels, middle, inner), nn.Dropout2d(dropout))
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.act(x + self.way(x))
        return joined


class _Down(nn.Module):
    """A block that halves the picture; returns the places of the maxima too."""

    def __init__(self, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        inner = channels // 4
        middle: list[nn.Module] = [nn.Conv2d(inner, inner, 3, 1, 1, bias=False)]
        self.way = nn.Sequential(*_way(channels, out, middle, inner, first=2), nn.Dropout2d(dropout))
        self.act = nn.PReLU(out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.way(x)
        pooled, places = pool(x)
        grown = functional.pad(
            pooled, (0, 0, 0, 0, 0, found.shape[1] - pooled.shape[1])
        )  # zeros, on its device
        return self.act(found + grown), places


class _Up(nn.Module):
    """A block that doubles the picture, with the maxima where they were."""

    def __init__(self, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        inner = channels // 4
        middle: list[nn.Module] = [nn.ConvTranspose2d(inner, inner, 2, 2, bias=False)]
        self.past = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
        self.way = nn.Sequential(*_way(channels, out, middle, inner), nn.Dropout2d(dropout))
        self.act = nn.PReLU(out)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        joined: Tensor = self.act(unpool(self.past(x), places) + self.way(x))
        return joined


class ENet(nn.Module):
    """(B, channels, H, W) -> logits (B, classes, H, W), for H and W that are multiples of 8."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.start = nn.Conv2d(channels, 16 - channels, 3, 2, 1, bias=False)
        self.start_norm = nn.Sequential(*_normed(channels=16))
        self.down1, self.down2 = _Down(16, 64, 0.01), _Down(64, 128, 0.1)
        self.stage1 = nn.Sequential(*(_Block(64, 0.01) for _ in range(4)))
        deep: list[nn.Module] = []
        for _ in range(2):
            for dilation in (2, 4, 8, 16):
                odd = dilation in (4, 16)
                deep += [_Block(128, 0.1, asymmetric=odd), _Block(128, 0.1, dilation)]
        self.stage2 = nn.Sequential(*deep)
        self.up1, self.up2 = _Up(128, 64, 0.1), _Up(64, 16, 0.1)
        self.stage4 = nn.Sequential(_Block(64, 0.1), _Block(64, 0.1))
        self.stage5 = _Block(16, 0.1)
        self.last = nn.ConvTranspose2d(16, classes, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start_norm(torch.cat([self.start(x), functional.max_pool2d(x, 2)], 1))
        x, first = self.down1(x)
        x, second = self.down2(self.stage1(x))
        x = self.stage4(self.up1(self.stage2(x), second))
        logits: Tensor = self.last(self.stage5(self.up2(x, first)))
        return logits
