"""DLA: deep layer aggregation with an up-sampling neck, the trunk of CenterNet, CenterTrack and CenterFusion.

`Dla` is the backbone (Yu et al. 2018, "Deep Layer Aggregation"), `Neck` its iterative up-sampling to a quarter of the
picture (Zhou et al. 2019, "Objects as Points"), whose nodes are deformable convolutions (`torchvision.ops`) or plain
ones. `DlaTrunk` and `TimmTrunk` put the two together. Names of parameters are those of the originals' checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from visloom.errors import ConfigError

Node = Literal["deform", "conv3", "conv1"]
CHANNELS = (16, 32, 64, 128, 256, 512)
LEVELS = (1, 1, 1, 2, 2, 1)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class _Block(nn.Module):
    """Two 3x3 convolutions and a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + residual)


class _Root(nn.Module):
    """Joins the leaves of a tree by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn = _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, leaves: Sequence[Tensor]) -> Tensor:
        return torch.relu(self.bn(self.conv(torch.cat(tuple(leaves), 1))))


class _Tree(nn.Module):
    """A binary tree of blocks; with level_root its own (pooled) input is a leaf of the root too."""

    def __init__(
        self, levels: int, inputs: int, outputs: int, stride: int, *, level_root: bool = False, root: int = 0
    ) -> None:
        super().__init__()
        self.levels, self.level_root = levels, level_root
        root = (root or 2 * outputs) + (inputs if level_root else 0)
        if levels == 1:
            self.tree1: nn.Module = _Block(inputs, outputs, stride)
            self.tree2: nn.Module = _Block(outputs, outputs, 1)
            self.root = _Root(root, outputs)
        else:
            self.tree1 = _Tree(levels - 1, inputs, outputs, stride)
            self.tree2 = _Tree(levels - 1, outputs, outputs, 1, root=root + outputs)
        self.pool = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.project = (
            nn.Sequential(_conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)) if inputs != outputs else None
        )
        if self.project is not None and levels > 1:
            # The originals compute this one and throw the result away: kept for their checkpoints, never run.
            self.project.requires_grad_(False)

    def forward(self, x: Tensor, leaves: Sequence[Tensor] = ()) -> Tensor:
        bottom = self.pool(x)
        if self.level_root:
            leaves = (*leaves, bottom)
        if self.levels > 1:
            first = self.tree1(x)
            return cast(Tensor, self.tree2(first, (*leaves, first)))
        first = self.tree1(x, bottom if self.project is None else self.project(bottom))
        return cast(Tensor, self.root((self.tree2(first, first), first, *leaves)))


class Dla(nn.Module):
    """The backbone: (B, 3, H, W) -> six maps at strides 1, 2, 4, 8, 16, 32.

    channels: of the six maps.  levels: depth of each; the originals' DLA-34 by default.
    stem: stride of the first convolution; after 2 the first two maps both have stride 2, and nothing is computed at
        full resolution.
    """

    def __init__(
        self, channels: Sequence[int] = CHANNELS, levels: Sequence[int] = LEVELS, stem: int = 1
    ) -> None:
        super().__init__()
        if stem not in (1, 2):
            raise ConfigError(
                f"the stride of the first convolution is 1 or 2, got {stem}", path="task.net.stem"
            )
        if len(channels) != 6 or len(levels) != 6:
            raise ConfigError(f"a DLA has six levels, got channels {channels} and levels {levels}")
        self.channels = tuple(channels)
        first = channels[0]
        self.base_layer = nn.Sequential(
            _conv(3, first, 7, stem), nn.BatchNorm2d(first), nn.ReLU(inplace=True)
        )
        self.level0 = self._plain(first, first, levels[0], 1)
        self.level1 = self._plain(first, channels[1], levels[1], 3 - stem)
        for i in range(2, 6):
            tree = _Tree(levels[i], channels[i - 1], channels[i], 2, level_root=i > 2)
            self.add_module(f"level{i}", tree)

    @staticmethod
    def _plain(inputs: int, outputs: int, count: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(count):
            conv = _conv(inputs if i == 0 else outputs, outputs, 3, stride if i == 0 else 1)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.base_layer(x)
        maps = []
        for i in range(6):
            x = self.get_submodule(f"level{i}")(x)
            maps.append(x)
        return maps


# --------------------------------------------------------------------------------------------------- the neck


class _Deform(nn.Module):
    """Modulated deformable 3x3 convolution (Zhu et al. 2019), with the parameter layout of DCNv2.

    The offsets' convolution gives nine (dy, dx) pairs and nine masks, which is torchvision's order too. It starts at
    zero, so that the layer begins as a plain convolution halved by its masks.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.conv_offset_mask = nn.Conv2d(inputs, 27, 3, 1, 1)
        bound = 1.0 / math.sqrt(inputs * 9)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(cast(Tensor, self.conv_offset_mask.bias))

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv_offset_mask(x).float()  # (B, 27, H, W)
        offset, mask = found[:, :18], found[:, 18:].sigmoid()
        # torchvision has no half-precision kernel on every device; offsets in half precision would be coarse anyway
        with torch.autocast(x.device.type, enabled=False):
            moved = deform_conv2d(
                x.float(), offset, self.weight.float(), self.bias.float(), padding=1, mask=mask
            )
        return cast(Tensor, moved.to(x.dtype))


class _DeformNode(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _Deform(inputs, outputs)
        self.actf = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.actf(self.conv(x)))


class _PlainNode(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x))


def _node(kind: Node, inputs: int, outputs: int) -> nn.Module:
    if kind == "deform":
        return _DeformNode(inputs, outputs)
    return _PlainNode(inputs, outputs, 3 if kind == "conv3" else 1)


def _upsample(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Depthwise transposed convolution that starts as bilinear interpolation."""
    up = nn.ConvTranspose2d(channels, channels, 2 * factor, factor, factor // 2, groups=channels, bias=False)
    ramp = 1 - (torch.arange(2 * factor) / factor - (2 * factor - 1) / (2 * factor)).abs()
    up.weight.data.copy_((ramp[:, None] * ramp).expand_as(up.weight))
    return up


class _Ida(nn.Module):
    """Iterative aggregation: each deeper map is projected, up-sampled and joined to the one before it."""

    def __init__(self, outputs: int, inputs: Sequence[int], factors: Sequence[int], kind: Node) -> None:
        super().__init__()
        self.count = len(inputs) - 1
        for i in range(1, len(inputs)):
            self.add_module(f"proj_{i}", _node(kind, inputs[i], outputs))
            self.add_module(f"up_{i}", _upsample(outputs, factors[i]))
            self.add_module(f"node_{i}", _node(kind, outputs, outputs))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        done = [maps[0]]
        for i in range(1, self.count + 1):
            up = self.get_submodule(f"up_{i}")(self.get_submodule(f"proj_{i}")(maps[i]))
            done.append(self.get_submodule(f"node_{i}")(up + done[-1]))
        return done


class _DlaUp(nn.Module):
    """Aggregates maps at strides 4, 8, 16, 32 pairwise, from the deepest on: one map for each of these strides."""

    def __init__(self, channels: Sequence[int], kind: Node) -> None:
        super().__init__()
        inputs, scales = list(channels), [1 << i for i in range(len(channels))]
        self.count = len(channels) - 1
        for i in range(self.count):
            at = len(channels) - i - 2
            factors = [scale // scales[at] for scale in scales[at:]]
            self.add_module(f"ida_{i}", _Ida(channels[at], inputs[at:], factors, kind))
            scales[at + 1 :] = [scales[at]] * (i + 1)
            inputs[at + 1 :] = [channels[at]] * (i + 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        layers = list(maps)
        out = [layers[-1]]
        for i in range(self.count):
            at = len(layers) - i - 2
            layers[at:] = self.get_submodule(f"ida_{i}")(layers[at:])
            out.insert(0, layers[-1])
        return out


class _Trunk(nn.Module):
    """A backbone and its neck: (B, 3, H, W) -> (B, `channels`, H / 4, W / 4). H and W are multiples of 32."""

    base: nn.Module

    def __init__(self, channels: Sequence[int], kind: Node) -> None:
        super().__init__()
        if kind not in ("deform", "conv3", "conv1"):
            raise ConfigError(f"up-sampling is deform, conv3 or conv1, got {kind!r}", path="task.net.up")
        self.channels = channels[0]
        self.dla_up = _DlaUp(channels, kind)
        self.ida_up = _Ida(channels[0], channels[:-1], [1 << i for i in range(len(channels) - 1)], kind)

    def maps(self, image: Tensor) -> list[Tensor]:
        """The backbone's maps at strides 4, 8, 16 and 32."""
        raise TypeError(f"{type(self).__name__} must define maps(image)")

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-1] % 32 or image.shape[-2] % 32:
            raise ConfigError(
                f"the network halves pictures five times: height and width must be multiples of 32, "
                f"got {tuple(image.shape[-2:])}; set the size of the Frame transform"
            )
        return cast(Tensor, self.ida_up(self.dla_up(self.maps(image))[:-1])[-1])


class DlaTrunk(_Trunk):
    """DLA with its neck. The default is the originals' DLA-34 (deformable up-sampling, 64 channels out)."""

    def __init__(
        self,
        channels: Sequence[int] = CHANNELS,
        levels: Sequence[int] = LEVELS,
        kind: Node = "deform",
        stem: int = 1,
    ) -> None:
        super().__init__(channels[2:], kind)
        self.base = Dla(channels, levels, stem)

    def maps(self, image: Tensor) -> list[Tensor]:
        return cast("list[Tensor]", self.base(image)[2:])


class TimmTrunk(_Trunk):
    """Any of timm's backbones that gives maps at strides 4 to 32, with the same neck.

    width: channels at stride 4; they double with each stride. A 1x1 convolution brings the maps there.
    options: further arguments of the model, the file of its weights among them.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int = 64,
        kind: Node = "conv3",
        pretrained: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__([width << i for i in range(4)], kind)
        import timm

        try:
            self.base = timm.create_model(name, pretrained=pretrained, features_only=True, **(options or {}))
        except Exception as error:  # timm raises nearly every type there is
            raise ConfigError(f"timm cannot build {name} as a backbone: {error}", path="task.net") from error
        strides = list(cast(Any, self.base).feature_info.reduction())
        if any(s not in strides for s in (4, 8, 16, 32)):
            raise ConfigError(
                f"{name} has maps at strides {strides}; the neck needs 4, 8, 16 and 32", path="task.net.name"
            )
        self._at = [strides.index(s) for s in (4, 8, 16, 32)]
        found = cast(Any, self.base).feature_info.channels()
        self.bring = nn.ModuleList(nn.Conv2d(found[at], width << i, 1) for i, at in enumerate(self._at))

    def maps(self, image: Tensor) -> list[Tensor]:
        maps = self.base(image)
        return [bring(maps[at]) for bring, at in zip(self.bring, self._at, strict=True)]
