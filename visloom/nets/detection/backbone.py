"""Backbones of detectors: a single map (C4), or a feature pyramid (Lin et al., FPN, 2017) over any body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from visloom.errors import ConfigError
from visloom.nets.backbone import feature_maps
from visloom.nets.detection.resnet import ResNet


class TimmBody(nn.Module):
    """The feature maps of a timm model at certain strides."""

    def __init__(
        self, name: str, strides: tuple[int, ...], channels: int, pretrained: bool, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.net, there, self.last = feature_maps(name, channels, pretrained=pretrained, options=options)
        reductions = [reduction for reduction, _ in there]
        lacking = [stride for stride in strides if stride not in reductions]
        if lacking:
            raise ConfigError(
                f"timm's {name} has maps of stride {', '.join(map(str, reductions))}, none of "
                f"{', '.join(map(str, lacking))}: set the strides of the net to some of these",
                path="task.net.strides",
            )
        self.kept = tuple(reductions.index(stride) for stride in strides)
        self.channels = tuple(there[i][1] for i in self.kept)
        self.reductions = strides

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> one map per stride; maps with channels last are turned (B, C, H, W)."""
        maps = self.net(x)
        found = [maps[i] for i in self.kept]
        return [m.permute(0, 3, 1, 2) for m in found] if self.last else found


class Pyramid(nn.Module):
    """A body, its maps brought to one width from coarse to fine, and coarser levels on top.

    top: "pool" adds one by subsampling (Faster R-CNN); "p6p7" two by convolutions from the body's last map, or from
        the pyramid's with `from_pyramid` (RetinaNet, FCOS); "none".
    """

    def __init__(
        self,
        body: ResNet | TimmBody,
        width: int = 256,
        top: Literal["none", "pool", "p6p7"] = "pool",
        *,
        from_pyramid: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        extra: Any = None
        strides = list(body.reductions)
        if top == "pool":
            extra, strides = LastLevelMaxPool(), [*strides, 2 * strides[-1]]
        elif top == "p6p7":
            extra = LastLevelP6P7(width if from_pyramid else body.channels[-1], width)
            extra.use_P5 = from_pyramid  # torchvision guesses it from the widths, which may be equal
            strides = [*strides, 2 * strides[-1], 4 * strides[-1]]
        self.fpn = FeaturePyramidNetwork(list(body.channels), width, extra)
        self.width, self.strides, self.pooled = width, tuple(strides), tuple(body.reductions)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> maps (B, width, H / s, W / s), finest first."""
        named = {str(i): seen for i, seen in enumerate(self.body(x))}
        return list(self.fpn(named).values())


class Single(nn.Module):
    """The last map of a body alone: C4, where the ResNet's last stage is the box head."""

    def __init__(self, body: ResNet | TimmBody) -> None:
        super().__init__()
        self.body = body
        self.width, self.strides = body.channels[-1], body.reductions[-1:]
        self.pooled = self.strides

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> one map."""
        return [self.body(x)[-1]]
