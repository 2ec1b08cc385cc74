"""Trunks of the fusion task as values: what turns a picture into features at a quarter of its size.

DlaNet()                 DLA-34 with deformable up-sampling, as CenterNet and CenterFusion have it
DlaNet(up="conv3")       the same with plain convolutions
TimmNet("resnet18")      any of timm's backbones that has maps at strides 4 to 32
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from visloom.tasks.classify.nets import Normalise

if TYPE_CHECKING:
    from torch import nn

Up = Literal["deform", "conv3", "conv1"]


@runtime_checkable
class TrunkSpec(Protocol):
    """A trunk as a value. `trunk()` makes it: (B, 3, H, W) -> (B, trunk.channels, H / 4, W / 4)."""

    def trunk(self) -> nn.Module: ...

    def normalisation(self) -> Normalise:
        """What the trunk's weights expect, RGB in 0-255 units."""
        ...


@dataclass(frozen=True)
class DlaNet:
    """Deep layer aggregation (`visloom/nets/dla.py`).

    channels: of its six levels; halve or quarter them for a narrow one.  levels: depth of each.
    up: how the neck joins maps: deformable convolutions, 3x3 or 1x1 ones.  stem: stride of the first convolution, 1 or
    2; with 2 nothing is computed at full resolution, which is much of the work of a narrow network.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    levels: tuple[int, ...] = (1, 1, 1, 2, 2, 1)
    up: Up = "deform"
    stem: int = 1

    def trunk(self) -> nn.Module:
        from visloom.nets.dla import DlaTrunk

        return DlaTrunk(self.channels, self.levels, self.up, self.stem)

    def normalisation(self) -> Normalise:
        """The originals' mean and deviation, here in RGB order."""
        return Normalise((119.91659, 114.03422, 104.01362), (70.91508, 69.89082, 73.60276))


@dataclass(frozen=True)
class TimmNet:
    """A timm backbone under the same neck.

    width: channels of the neck at stride 4, doubled with each stride.  pretrained: timm's weights, from the hub's cache
    or over the network.  options: further arguments of the model.
    """

    name: str
    width: int = 64
    up: Up = "conv3"
    pretrained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def trunk(self) -> nn.Module:
        from visloom.nets.dla import TimmTrunk

        return TimmTrunk(
            self.name, width=self.width, kind=self.up, pretrained=self.pretrained, options=self.options
        )

    def normalisation(self) -> Normalise:
        from visloom.nets.backbone import expected

        found = expected(self.name)
        return Normalise(found.mean, found.std)
