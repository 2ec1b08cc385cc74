"""FCN-8s: a classifier's features, scored at an eighth, a sixteenth and a 32nd of the sides and added up.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015. The body is any timm
network with feature maps of these strides (the last ones of each); the publication's is VGG-16, whose two last layers
become convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from visloom.nets.backbone import feature_maps


class FCN8s(nn.Module):
    """(B, channels, H, W) -> logits (B, classes, H, W), for H and W that are multiples of 32.

    Args:
        body: a timm network.  hidden: channels of the two layers before the coarsest score, 4096 in VGG-16.
        pretrained: timm's weights for the body. Raises ConfigError if there is no such body, or no weights.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        body: str = "vgg16_bn",
        hidden: int = 4096,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.body, maps, self.channels_last = feature_maps(body, channels, pretrained=pretrained)
        wide = dict(maps)
        self.places = [[stride for stride, _ in maps].index(stride) for stride in (8, 16, 32)]
        self.deep = nn.Sequential(
            nn.Conv2d(wide[32], hidden, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
        )
        self.scores = nn.ModuleList(nn.Conv2d(w, classes, 1) for w in (wide[8], wide[16], hidden))
        for score in self.scores:  # begin at a uniform answer, as the publication does
            nn.init.zeros_(score.weight)  # type: ignore[arg-type]
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        found = self.body(x)
        maps = [
            found[place].permute(0, 3, 1, 2) if self.channels_last else found[place] for place in self.places
        ]
        maps[2] = self.deep(maps[2])
        total: Tensor | None = None
        for score, seen in zip(reversed(self.scores), reversed(maps), strict=True):
            here = score(seen)
            total = here if total is None else here + _doubled(total, here)
        assert total is not None
        return functional.interpolate(total, size, mode="bilinear")


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="bilinear")
