"""SegNet: VGG-16 with batch norm and its mirror image (Badrinarayanan, Kendall, Cipolla 2015).

The encoder remembers where the maxima of its poolings were; the decoder puts values back there and convolves, stage by
stage in the reverse order, so that edges keep their places.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from visloom.nets.backbone import feature_maps
from visloom.nets.unpool import pool, unpool

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of VGG-16's convolutions, between its poolings."""


def _convolutions(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SegNet(nn.Module):
    """(B, channels, H, W) -> logits (B, classes, H, W), for H and W that are multiples of 32.

    Args:
        width: channels of the first stage, 64 in VGG-16; the others follow in proportion.
        pretrained: timm's VGG-16 (ImageNet) for the encoder, at width 64. Raises ConfigError if it cannot be had.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64, pretrained: bool = False) -> None:
        super().__init__()
        before = channels
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for number, stage in enumerate(STAGES):
            widths = [before, *(w * width // 64 for w in stage)]
            self.encoder.append(_convolutions(widths))
            # the mirror of the first stage stays as wide as it is: the head turns it into classes
            last = widths[0] if number else width
            self.decoder.insert(0, _convolutions([*widths[:0:-1], last]))
            before = widths[-1]
        self.head = nn.Conv2d(width, classes, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if pretrained:
            self._from_vgg(channels)

    def forward(self, x: Tensor) -> Tensor:
        places: list[Tensor] = []
        for stage in self.encoder:
            x, where = pool(stage(x))
            places.append(where)
        for stage in self.decoder:
            x = stage(unpool(x, places.pop()))
        logits: Tensor = self.head(x)
        return logits

    def _from_vgg(self, channels: int) -> None:
        vgg, _, _ = feature_maps("vgg16_bn", channels, pretrained=True)
        theirs = [m for m in vgg.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        ours = [m for m in self.encoder.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        for mine, given in zip(ours, theirs, strict=True):
            mine.load_state_dict(given.state_dict())
