"""UPerNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018): a pyramid, many heads.

    maps /4, /8, /16, /32  ->  pyramid pooling on the last  ->  feature pyramid  ->  fused map  ->  heads

Parameter names are the original's. Its precise RoI pooling over the whole map (Jiang et al., "Acquisition of
Localization Confidence", 2018) is separable and linear, so here it is two small matrix products instead of a compiled
operation. Heads that are not asked for are not computed, nor is what only they need.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.nets.backbone import feature_maps
from visloom.nets.detection.resnet import stage, start

BINS = (1, 2, 3, 6)
"""Cells along each axis of the four poolings."""

Place = Literal["coarsest", "fused", "finest", "texture"]
Pooling = Literal["precise", "adaptive"]
Order = Literal["upsample", "convolve"]


class HeadShape(NamedTuple):
    """A head: its name, the number of its outputs, and the map that it looks at.

    at: "coarsest", the map behind pyramid pooling, averaged into one answer for the picture; "fused", all levels of the
    pyramid; "finest", its finest level; "texture", the encoder's finest map, into which no gradient flows back.
    width, depth: channels and 3x3 convolutions of a texture head.
    """

    name: str
    outputs: int
    at: Place
    width: int = 128
    depth: int = 4


def pooling_matrix(bins: int, size: int, *, device: torch.device | None = None) -> Tensor:
    """Precise RoI pooling along one axis over a whole map: (bins, size) float32.

    A map is a piecewise linear curve through its pixels, pixel i at coordinate i, and 0 outside. A cell is the mean of
    the curve over its share of [0, size]: the weight of pixel i is the integral of max(0, 1 - |x - i|) there over the
    cell's length. So the first pixel
    counts half, and the last cells, where the curve falls to 0, are smaller than an average.
    """
    edges = torch.arange(bins + 1, dtype=torch.float64, device=device) * size / bins  # (bins + 1,)
    apart = edges[:, None] - torch.arange(size, dtype=torch.float64, device=device)  # (bins + 1, size)
    apart = apart.clamp(-1, 1)
    area = torch.where(apart < 0, (apart + 1) ** 2 / 2, 1 - (1 - apart) ** 2 / 2)  # left of each edge
    return ((area[1:] - area[:-1]) * bins / size).float()


def precise_pool(x: Tensor, bins: int) -> Tensor:
    """Precise RoI pooling of whole maps: (B, C, H, W) -> (B, C, bins, bins)."""
    down, across = (pooling_matrix(bins, n, device=x.device).to(x.dtype) for n in x.shape[2:])
    pooled: Tensor = down @ x @ across.T
    return pooled


def resizing_matrix(before: int, after: int, like: Tensor) -> Tensor:
    """Bilinear resizing along one axis, as `interpolate` does it: (after, before), of a map's type and device."""
    wide = torch.promote_types(like.dtype, torch.float32)
    one = torch.eye(before, device=like.device, dtype=wide)[None]  # (1, before, before)
    return functional.interpolate(one, after, mode="linear")[0].T.to(like.dtype)


def convolve_resized(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """A 3x3 convolution with zero padding of the map that `x` becomes when it is resized, which is never made.

    Resizing mixes pixels and never channels, the taps of a kernel mix channels and shift pixels: so each tap is a 1x1
    convolution of the small map, and resizing comes after it, shifted by the tap's place. Both are matrices along each
    axis. For a map of half the sides that is nearly a quarter of the work.

    x (B, C, h, w), weight (K, C, 3, 3) -> (B, K, *size) in channels-last memory.
    """
    outputs, (height, width) = weight.shape[0], size
    kernel = weight.permute(3, 2, 0, 1).reshape(9 * outputs, -1, 1, 1)  # (dx dy K, C, 1, 1)
    taps = functional.conv2d(x, kernel).permute(0, 2, 3, 1)  # (B, h, w, dx dy K)
    batch, rows, columns = taps.shape[:3]
    across = _shifted(resizing_matrix(columns, width, taps))  # (W, w dx)
    wide = across @ taps.reshape(batch, rows, 3 * columns, 3 * outputs)  # (B, h, W, dy K)
    wide = wide.reshape(batch, rows, width, 3, outputs).transpose(2, 3)
    down = _shifted(resizing_matrix(rows, height, taps))  # (H, h dy)
    found = down @ wide.reshape(batch, 3 * rows, width * outputs)  # (B, H, W K)
    return found.reshape(batch, height, width, outputs).permute(0, 3, 1, 2)


def _shifted(matrix: Tensor) -> Tensor:
    """Rows of a matrix (n, m) shifted by -1, 0 and 1 with zeros beyond the ends, by columns: (n, 3 m)."""
    padded = functional.pad(matrix, (0, 0, 1, 1))  # (n + 2, m)
    count = len(matrix)
    return torch.stack([padded[tap : tap + count] for tap in range(3)], 2).flatten(1)


def _conv(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, tuple(size), mode="bilinear")


# ------------------------------------------------------------------------------------------------------- encoders


class DeepResNet(nn.Module):
    """The original's ResNet: a stem of three 3x3 convolutions with 128 channels, strides in the 3x3 convolutions.

    Args:
        depth: 50 or 101.  groups: 1, or 32 for its ResNeXt, whose blocks have half of the usual expansion.
        base: channels of the stem's first convolution, 64 in the original; narrower ones for small machines.
    """

    def __init__(self, depth: int = 50, channels: int = 3, *, groups: int = 1, base: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, base, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.conv2 = nn.Conv2d(base, base, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(base)
        self.conv3 = nn.Conv2d(base, 2 * base, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        width = base if groups == 1 else 2 * base // groups  # per group in the middle of a block
        for number in range(1, 5):
            built = stage(
                number, depth, stem=2 * base, out=4 * base, width=width, groups=groups, norm=nn.BatchNorm2d,
                first=False,
            )  # fmt: skip
            self.add_module(f"layer{number}", built)
        self.widths = tuple(4 * base * 2**number for number in range(4))
        start(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> maps at a quarter, an eighth, a 16th and a 32nd of the sides."""
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = self.relu(norm(conv(x)))
        x = self.maxpool(x)
        found = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            found.append(x)
        return found


class TimmMaps(nn.Module):
    """The last four feature maps of a timm model. Raises ValueError for a model with fewer."""

    def __init__(self, name: str, channels: int, *, pretrained: bool, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.body, maps, self.last = feature_maps(name, channels, pretrained=pretrained, options=options)
        if len(maps) < 4:
            raise ValueError(f"{name} has {len(maps)} feature maps, and a pyramid needs four")
        self.widths = tuple(width for _, width in maps[-4:])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, C, H, W) -> four maps, the finest first, (B, C_i, H_i, W_i)."""
        maps = list(self.body(x))[-4:]
        return [each.permute(0, 3, 1, 2) for each in maps] if self.last else maps


# -------------------------------------------------------------------------------------------------------- decoder


class Decoder(nn.Module):
    """Pyramid pooling, feature pyramid and heads. Names of parameters are the original's.

    Args:
        widths: channels of the encoder's maps, the finest first.
        heads: what there is to answer.
        width: of the pyramid: 512, or 256 in the light variant.
        pooled: channels of each pooling; 512 in both of the original's variants.
        pooling: "precise", the original's, or "adaptive" averages, as later UPerNets have.
        order: pooled maps are resized and then convolved ("upsample", the original), or convolved at their few cells
            ("convolve", as later UPerNets do; with batch norm and ReLU in between the two differ).
        deep: name of a "fused" head that the third map learns too (deep supervision), or "".
    """

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[HeadShape],
        *,
        width: int = 512,
        pooled: int = 512,
        pooling: Pooling = "precise",
        order: Order = "upsample",
        deep: str = "",
    ) -> None:
        super().__init__()
        self.heads = {head.name: head for head in heads}
        self.pooling, self.order, self.deep = pooling, order, deep
        self.ppm_conv = nn.ModuleList(_conv(widths[-1], pooled, 1) for _ in BINS)
        self.ppm_last_conv = _conv(widths[-1] + pooled * len(BINS), width)
        self.fpn_in = nn.ModuleList(_conv(each, width, 1) for each in widths[:-1])
        self.fpn_out = nn.ModuleList(nn.Sequential(_conv(width, width)) for _ in widths[:-1])
        self.conv_fusion = _conv(len(widths) * width, width)
        for head in heads:
            self.add_module(f"{head.name}_head", _head(head, width, widths[0]))
        if deep:
            middle = width // 2
            last = nn.Conv2d(middle, self.heads[deep].outputs, 1)
            self.deep_head = nn.Sequential(_conv(widths[-2], middle), last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 1e-4)

    def forward(self, maps: Sequence[Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """Logits of the heads asked for: (B, K, H/4, W/4), or (B, K) for the whole picture.

        With deep supervision, in training, "deep" holds what the third map says, (B, K, H/16, W/16).
        """
        asked = [head for head in self.heads.values() if head.name in names]
        places = {head.at for head in asked}
        found: dict[Place, Tensor] = {"texture": maps[0].detach()}
        if places - {"texture"}:
            top = self._pooled(maps[-1])
            found["coarsest"] = top
            if places & {"fused", "finest"}:
                found |= self._pyramid(maps, top, fuse="fused" in places)
        answers = {head.name: self._answer(head, found[head.at]) for head in asked}
        if self.training and self.deep in answers:
            answers["deep"] = self.deep_head(maps[-2])
        return answers

    def _answer(self, head: HeadShape, seen: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(f"{head.name}_head")(seen)
        return logits.flatten(1) if head.at == "coarsest" else logits

    def _pooled(self, last: Tensor) -> Tensor:
        """Pyramid pooling: the last map (B, C, h, w) -> (B, width, h, w)."""
        size, parts = last.shape[2:], [last]
        for cells, conv in zip(BINS, self.ppm_conv, strict=True):
            if self.pooling == "precise":
                pooled = precise_pool(last, cells)
            else:
                pooled = functional.adaptive_avg_pool2d(last, cells)
            if self.order == "upsample":
                parts.append(conv(_resized(pooled, size)))
            else:
                parts.append(_resized(conv(pooled), size))
        joined: Tensor = self.ppm_last_conv(torch.cat(parts, 1))
        return joined

    def _pyramid(self, maps: Sequence[Tensor], top: Tensor, *, fuse: bool) -> dict[Place, Tensor]:
        """From the top down: the finest level, and all levels fused at its size."""
        levels = [top]  # the coarsest first
        down = top
        for number in reversed(range(len(maps) - 1)):
            side = self.fpn_in[number](maps[number])
            down = side + _resized(down, side.shape[2:])
            if fuse or number == 0:  # without fusion only the finest level is looked at
                levels.append(self.fpn_out[number](down))
        finest = levels[-1]
        if not fuse:
            return {"finest": finest}
        return {"finest": finest, "fused": self._fused(levels[::-1])}

    def _fused(self, levels: Sequence[Tensor]) -> Tensor:
        """All levels, the finest first, resized to its size, joined and convolved."""
        convolution, *after = self.conv_fusion
        size, width = levels[0].shape[2:], levels[0].shape[1]
        kernel: Tensor = convolution.weight  # type: ignore[assignment]
        weights = torch.split(kernel, width, 1)  # one for each level
        whole = [i for i, level in enumerate(levels) if level.shape[2:] == size]
        joined = torch.cat([levels[i] for i in whole], 1)
        first = torch.cat([weights[i] for i in whole], 1)
        fused = functional.conv2d(joined, first, padding=1)
        for i, level in enumerate(levels):
            if i not in whole:
                fused = fused + convolve_resized(level, weights[i], size)
        for layer in after:
            fused = layer(fused)
        return fused


def _head(head: HeadShape, width: int, first: int) -> nn.Sequential:
    if head.at == "coarsest":
        return nn.Sequential(_conv(width, width), nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, head.outputs, 1))
    if head.at == "texture":
        steps = [_conv(first if not i else head.width, head.width) for i in range(head.depth)]
        return nn.Sequential(*steps, nn.Conv2d(head.width, head.outputs, 1))
    return nn.Sequential(_conv(width, width), nn.Conv2d(width, head.outputs, 1))


class UPerNet(nn.Module):
    """Encoder and decoder. `forward(image, names)` gives the logits of the heads asked for, by name."""

    def __init__(self, encoder: nn.Module, decoder: Decoder, norm_momentum: float = 0.1) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = norm_momentum

    def forward(self, image: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Normalised images (B, C, H, W) of any size from 32 pixels on -> logits by head, see `Decoder.forward`."""
        places = {self.decoder.heads[name].at for name in names}
        maps = self._resting(image) if self.training and places == {"texture"} else self.encoder(image)
        answers: dict[str, Tensor] = self.decoder(maps, names)
        return answers

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # modules change their mode and back
    def _resting(self, image: Tensor) -> list[Tensor]:
        """Maps for textures alone, of which the encoder learns nothing: no gradients, and no statistics either.

        Pictures of one texture look unlike all others; counted in the encoder's batch norms they would spoil what the
        other heads see in an evaluation. (The paper trains this head after all others are done.)
        """
        learning = [module for module in self.encoder.modules() if module.training]
        self.encoder.eval()
        try:
            with torch.no_grad():
                maps: list[Tensor] = self.encoder(image)
        finally:
            for module in learning:
                module.training = True
        return maps
