"""Net specs of parsing, as plain values in a recipe. Nothing here imports torch until `build`.

Uper()                                        ResNet-50 with the original's deep stem
Uper("resnet101", width=256)                  the light variant
Uper("timm:convnext_tiny", pretrained=True)   any timm encoder with feature maps
Uper(pooling="precise", order="upsample")     as the original's weights were trained
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from visloom.tasks.classify.nets import Normalise
from visloom.tasks.parse.heads import Head, Texture

if TYPE_CHECKING:
    from visloom.nets.upernet import UPerNet

CAFFE = Normalise((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")
"""What the original's weights expect: colours turned round, means subtracted, no division."""

_OWN = {"resnet50": (50, 1), "resnet101": (101, 1), "resnext101": (101, 32)}


@dataclass(frozen=True)
class Uper:
    """UPerNet.

    encoder: resnet50, resnet101 or resnext101 with the original's deep stem, or "timm:" and the name of a timm model.
    width: of the pyramid, 512, or 256 in the light variant.  pooled: channels of each pyramid pooling.
    pooling, order: "precise" and "upsample" are the original's, and old weights need them; "adaptive" and "convolve"
        those of later UPerNets, a little faster. See `visloom/nets/upernet.py`.
    base: channels at the beginning of a deep-stem encoder; 64 is the published width.
    pretrained, options: of a timm encoder.
    norm_momentum: of all batch norms. The original has 0.001, which needs thousands of steps to warm up.
    deep: name of a head of pixels that the third map learns too (deep supervision), or "".
    """

    encoder: str = "resnet50"
    width: int = 512
    pooled: int = 512
    pooling: Literal["precise", "adaptive"] = "precise"
    order: Literal["upsample", "convolve"] = "upsample"
    base: int = 64
    pretrained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    norm_momentum: float = 0.1
    deep: str = ""

    def __post_init__(self) -> None:
        if not self.encoder.startswith("timm:") and self.encoder not in _OWN:
            raise ValueError(
                f'encoder is {", ".join(_OWN)} or "timm:" with the name of a timm model, got {self.encoder!r}'
            )
        if self.pretrained and not self.encoder.startswith("timm:"):
            raise ValueError(
                f"{self.encoder} with the deep stem has no published weights to load by name: "
                "set init.net.encoder to a file, or take a timm encoder"
            )
        if min(self.width, self.pooled) < 1 or self.base < 2 or self.base % 2:
            raise ValueError("width and pooled are at least 1, base is even and at least 2")
        if self.encoder == "resnext101" and self.base % 16:
            raise ValueError(f"resnext101 has 32 groups, so base is a multiple of 16, got {self.base}")
        if not 0 < self.norm_momentum <= 1:
            raise ValueError(f"norm_momentum lies in (0, 1], got {self.norm_momentum}")

    def build(self, heads: Sequence[Head], channels: int) -> UPerNet:
        """Make the network, its weights drawn from torch's generator. Raises ConfigError if it cannot be built."""
        from visloom.errors import ConfigError
        from visloom.nets.upernet import Decoder, DeepResNet, HeadShape, TimmMaps, UPerNet

        encoder: DeepResNet | TimmMaps
        if self.encoder in _OWN:
            depth, groups = _OWN[self.encoder]
            encoder = DeepResNet(depth, channels, groups=groups, base=self.base)
        else:
            name = self.encoder.removeprefix("timm:")
            try:
                encoder = TimmMaps(name, channels, pretrained=self.pretrained, options=self.options)
            except ValueError as error:
                raise ConfigError(str(error), path="task.net.encoder") from error
        shapes = [
            HeadShape(head.name, len(head.labels), head.at, head.width, head.depth)
            if isinstance(head, Texture)
            else HeadShape(head.name, len(head.labels), head.at)  # type: ignore[attr-defined]
            for head in heads
        ]
        if self.deep and self.deep not in [head.name for head in heads if head.kind == "pixels"]:
            raise ConfigError(
                f"deep supervision of {self.deep!r}, which is no head of pixels", path="task.net.deep"
            )
        decoder = Decoder(
            encoder.widths, shapes, width=self.width, pooled=self.pooled, pooling=self.pooling, order=self.order,
            deep=self.deep,
        )  # fmt: skip
        return UPerNet(encoder, decoder, self.norm_momentum)

    def normalisation(self) -> Normalise:
        """What the encoder's weights expect."""
        if self.encoder in _OWN:
            return CAFFE
        from visloom.nets.backbone import expected

        found = expected(self.encoder.removeprefix("timm:"))
        return Normalise(found.mean, found.std)
