"""The UNet of the PyTorch-segmentation template, with its parameter names, for any width and depth.

Each level halves the picture (rounding up) and doubles the channels; on the way back a transposed convolution doubles
it, and where the sizes were odd a bilinear resize makes up for the pixel. Source: Ronneberger, Fischer, Brox 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _two(channels: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions, the first to half of the channels that the second one gives."""
    middle = out // 2
    return nn.Sequential(
        nn.Conv2d(channels, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class _Down(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.down_conv = _two(channels, out)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.down_conv(x))
        return pooled


class _Up(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.up_conv = _two(channels, out)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        x = self.up(x)
        if x.shape[2:] != skip.shape[2:]:
            x = functional.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=True)
        joined: Tensor = self.up_conv(torch.cat([skip, x], dim=1))
        return joined


class UNet(nn.Module):
    """(B, channels, H, W) -> logits (B, classes, H, W), for any H and W.

    With width 64 and depth 4 it has the parameters of the template's UNet, under the same names.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.depth = depth
        wide = [width << level for level in range(depth + 1)]
        self.start_conv = _two(channels, wide[0])
        for level in range(depth):
            setattr(self, f"down{level + 1}", _Down(wide[level], wide[level + 1]))
        self.middle_conv = _two(wide[-1], wide[-1])
        for level in range(depth):
            setattr(self, f"up{level + 1}", _Up(wide[depth - level], wide[depth - level - 1]))
        self.final_conv = nn.Conv2d(wide[0], classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.start_conv(x)]
        for level in range(self.depth):
            seen.append(getattr(self, f"down{level + 1}")(seen[-1]))
        x = self.middle_conv(seen.pop())
        for level in range(self.depth):
            x = getattr(self, f"up{level + 1}")(seen.pop(), x)
        logits: Tensor = self.final_conv(x)
        return logits
