"""Net specs: which network segments, as plain values in a recipe. Nothing here imports torch until `build`.

    Unet(width=64)                              the template's own UNet; narrower ones for small machines
    Compact(width=32)                           learns from scratch in minutes on a CPU
    Pspnet("resnet50")                          the template's own PSPNet on a dilated ResNet, with its auxiliary head
    Fcn8s(), Segnet(), Enet()                   three older networks that the template had too
    Smp("unetplusplus", "tu-convnext_tiny")     every architecture of segmentation-models-pytorch, every timm encoder
    Custom(Call("my_file:make_net", {...}))     a callable of one's own

A network maps (B, channels, H, W) normalised images of any size to logits (B, classes, H, W), or to a list of such
with the main one first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from visloom.tasks.classify.nets import Custom, Normalise

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Compact",
    "Custom",
    "Enet",
    "Fcn8s",
    "NetSpec",
    "Normalise",
    "Pspnet",
    "Segnet",
    "Smp",
    "Unet",
]

IMAGENET = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and deviation of ImageNet's pixels: what nearly all pretrained encoders expect."""


@runtime_checkable
class NetSpec(Protocol):
    """A network as a value."""

    def build(self, classes: int, channels: int) -> nn.Module:
        """Make the network."""
        ...

    def normalisation(self) -> Normalise | None:
        """What the network's weights expect, or None if nothing is known."""
        ...


@dataclass(frozen=True)
class Unet:
    """The template's UNet. width: channels at full resolution, 64 there; they double `depth` times."""

    width: int = 64
    depth: int = 4

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2 or self.depth < 1:
            raise ValueError(
                f"width is even, from 2 on, and depth 1 or more; got {self.width} and {self.depth}"
            )

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.unet import UNet

        return UNet(classes, channels, self.width, self.depth)

    def normalisation(self) -> Normalise | None:
        return None


@dataclass(frozen=True)
class Compact:
    """A small network for learning from scratch on a CPU (`visloom/nets/compact.py`).

    width: channels at a quarter of the sides.  blocks: residual blocks per level, each half as large as the one before.
    """

    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2 or not self.blocks or min(self.blocks) < 1:
            raise ValueError(
                f"width is even, from 2 on, and blocks 1 or more each; got {self.width}, {self.blocks}"
            )

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.compact import Compact as Net

        return Net(classes, channels, self.width, self.blocks, self.dropout)

    def normalisation(self) -> Normalise | None:
        return None


@dataclass(frozen=True)
class Pspnet:
    """The template's PSPNet on a dilated ResNet of stride 8.

    backbone: resnet18, 34, 50, 101 or 152; from 50 on with the deep stem of three 3x3 convolutions.
    aux: train the auxiliary head on the third stage. Its parameters are there in any case, as in the template.
    """

    backbone: str = "resnet50"
    aux: bool = True

    def __post_init__(self) -> None:
        if self.backbone not in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
            raise ValueError(
                f"backbone is resnet18, resnet34, resnet50, resnet101 or resnet152, got {self.backbone!r}"
            )

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.psp import PSPNet

        return PSPNet(classes, channels, self.backbone, self.aux)

    def normalisation(self) -> Normalise | None:
        return IMAGENET


@dataclass(frozen=True)
class Fcn8s:
    """FCN-8s on a timm network (`visloom/nets/fcn.py`). hidden: channels before the coarsest score, 4096 in VGG-16."""

    body: str = "vgg16_bn"
    hidden: int = 4096
    pretrained: bool = False

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.fcn import FCN8s
        from visloom.nets.smp import AnySize

        return AnySize(FCN8s(classes, channels, self.body, self.hidden, self.pretrained), stride=32)

    def normalisation(self) -> Normalise | None:
        from visloom.nets.backbone import expected

        found = expected(self.body)
        return Normalise(found.mean, found.std)


@dataclass(frozen=True)
class Segnet:
    """SegNet: VGG-16 with batch norm and its mirror image (`visloom/nets/segnet.py`). width: 64 in VGG-16."""

    width: int = 64
    pretrained: bool = False

    def __post_init__(self) -> None:
        if self.width < 1 or (self.pretrained and self.width != 64):
            raise ValueError(f"width is 1 or more, and 64 for pretrained weights; got {self.width}")

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.segnet import SegNet
        from visloom.nets.smp import AnySize

        return AnySize(SegNet(classes, channels, self.width, self.pretrained), stride=32)

    def normalisation(self) -> Normalise | None:
        return IMAGENET


@dataclass(frozen=True)
class Enet:
    """ENet: a third of a million parameters (`visloom/nets/enet.py`)."""

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.enet import ENet
        from visloom.nets.smp import AnySize

        return AnySize(ENet(classes, channels), stride=8)

    def normalisation(self) -> Normalise | None:
        return None


@dataclass(frozen=True)
class Smp:
    """A network of segmentation-models-pytorch, for pictures of any size.

    arch: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer, dpt.
    encoder: one of the library's, or any timm model with "tu-" in front.
    pretrained: the encoder's weights, over the network or from the hub's cache.
    options: further arguments of the architecture (`decoder_channels`, `encoder_depth`, ...).
    """

    arch: str = "unet"
    encoder: str = "resnet34"
    pretrained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.smp import create

        return create(
            self.arch, self.encoder, classes, channels, pretrained=self.pretrained, options=self.options
        )

    def normalisation(self) -> Normalise | None:
        from visloom.nets.smp import expected

        mean, std = expected(self.encoder)
        return Normalise(mean, std)
