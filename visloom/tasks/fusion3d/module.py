"""The torch side of fusion: primary heads see the picture, secondary heads also the radar that was associated with it.

Both are dicts with the same keys: where a secondary head has the name of a primary one ("depth",
"rotation"), it refines
it. Training associates radar with annotated boxes, evaluation and prediction with predicted ones. Without
radar there are
no secondary heads, and this is CenterNet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.dist import normaliser
from visloom.memory import like_weights, standardised
from visloom.module import TaskModule
from visloom.task import Losses
from visloom.tasks.fusion3d.batch import FusionBatch
from visloom.tasks.fusion3d.decode import (
    Found,
    cell_of,
    decode,
    observation_angle,
    peaks,
    unproject,
)
from visloom.tasks.fusion3d.frustum import associate, half_extent
from visloom.tasks.fusion3d.losses import losses, metric_depth, picked

if TYPE_CHECKING:
    from visloom.task import Batch
    from visloom.tasks.fusion3d.spec import Fusion3d

Heads = dict[str, Tensor]


def _head(inputs: int, hidden: int, outputs: int, convs: int) -> nn.Sequential:
    """A 3x3 convolution, convs - 1 of 1x1, and the answer.

    Weights begin as He et al. 2015 draw them for ReLU. The originals leave torch's default, which more than halves what
    passes in each layer: after three of them little is left of the radar features for many steps.
    """
    layers: list[nn.Module] = []
    for number in range(convs):
        conv = nn.Conv2d(hidden if number else inputs, hidden, 1 if number else 3, padding=0 if number else 1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(cast(Tensor, conv.bias))
        layers += [conv, nn.ReLU(inplace=True)]
    answer = nn.Conv2d(hidden, outputs, 1)
    nn.init.zeros_(cast(Tensor, answer.bias))
    return nn.Sequential(*layers, answer)


def neighbourhoods(maps: Tensor, index: Tensor) -> Tensor:
    """What a 3x3 convolution sees at flat cells: (B, M, 9 C) in the order row, column, channel; zeros outside.

    Args:
        maps: (B, C, H, W).  index: (B, M) int64 flat cells.
    """
    width = maps.shape[3]
    padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H + 2, W + 2, C)
    first = index // width * (width + 2) + index % width  # the upper left one of the nine, in the padded map
    steps = torch.arange(9, device=index.device)
    cells = first[..., None] + steps // 3 * (width + 2) + steps % 3  # (B, M, 9)
    flat = padded.flatten(1, 2)  # (B, (H + 2) (W + 2), C)
    rows = flat.gather(1, cells.flatten(1)[..., None].expand(-1, -1, flat.shape[2]))
    return rows.reshape(*index.shape, -1)


def _answer_at(head: nn.Module, seen: Tensor) -> Tensor:
    """What a head says where it sees these neighbourhoods: (B, M, 9 C) -> (B, M, outputs)."""
    for layer in cast(nn.Sequential, head):
        if isinstance(layer, nn.Conv2d):
            seen = functional.linear(seen, layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias)
        else:
            seen = cast(Tensor, layer(seen))
    return seen


class FusionModule(TaskModule):
    """Trunk and heads. Parameters are `trunk.*`, `primary.NAME.*` and `secondary.NAME.*`."""

    scale: Tensor
    shift: Tensor
    groups: Tensor

    def __init__(self, trunk: nn.Module, spec: Fusion3d) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk
        channels = int(cast(int, trunk.channels))
        first, second = spec.outputs()
        self.primary = nn.ModuleDict({n: _head(channels, spec.hidden, c, 1) for n, c in first.items()})
        self.secondary = nn.ModuleDict({n: _head(channels + 3, spec.hidden, c, 3) for n, c in second.items()})
        heat = cast(nn.Conv2d, cast(nn.Sequential, self.primary["heat"])[-1])
        nn.init.constant_(cast(Tensor, heat.bias), spec.prior)
        dims = cast(nn.Conv2d, cast(nn.Sequential, self.primary["dims"])[-1])
        nn.init.constant_(cast(Tensor, dims.bias), 1.5)  # metres; a box without extent would not count
        for heads in (self.primary, self.secondary):
            if "depth" in heads:  # begins at 20 metres; from 1 metre the first steps are huge
                depth = cast(nn.Conv2d, cast(nn.Sequential, heads["depth"])[-1])
                nn.init.constant_(cast(Tensor, depth.bias), -math.log(20.0))
        values = spec.normalisation()
        std, mean = torch.tensor(values.std), torch.tensor(values.mean)
        self.register_buffer("scale", 1 / std, persistent=False)  # (C,)
        self.register_buffer("shift", -mean / std, persistent=False)  # (C,)
        self.register_buffer("groups", torch.tensor(spec.allowed()), persistent=False)  # (C, A) bool

    # ---- what the engine calls

    def forward(self, batch: Batch) -> Losses:
        """Losses by head, the secondary ones as "depth/secondary"; radar is associated with the annotated boxes.

        A loss looks at the heat map as a whole and at the other heads in the annotated cells alone: those are
        computed nowhere else, which is the same and takes a part of the time.
        """
        batch = cast(FusionBatch, batch)
        features = self.features(batch)
        index = batch.targets.index
        seen = neighbourhoods(features, index)  # (B, M, 9 C)
        primary = {
            name: head(features) if name == "heat" else _answer_at(head, seen)
            for name, head in self.primary.items()
        }
        secondary: Heads = {}
        if len(self.secondary):
            seen = neighbourhoods(self._joined(features, batch.found), index)
            secondary = {name: _answer_at(head, seen) for name, head in self.secondary.items()}
        return self._losses(primary, secondary, batch)

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Columns: ids, tokens, cameras, poses; and of K boxes per picture, as in `Found`: score, label, center, dims,
        yaw, velocity, attribute and box, the last in pixels of the picture as it was stored.
        """
        batch = cast(FusionBatch, batch)
        features = self.features(batch)
        primary = self.first(features)
        return self._answer(primary, self.second(features, self.associated(primary, batch)), batch)

    def assess(self, batch: Batch) -> tuple[Losses, dict[str, Any]]:
        """Losses and predictions of one pass: both with the radar that predicted boxes find, as in use."""
        batch = cast(FusionBatch, batch)
        features = self.features(batch)
        primary = self.first(features)
        secondary = self.second(features, self.associated(primary, batch))
        return self._losses(primary, secondary, batch), self._answer(primary, secondary, batch)

    # ---- its parts

    def features(self, batch: FusionBatch) -> Tensor:
        """Features of the pictures: (B, channels, H / 4, W / 4)."""
        image = standardised(batch.image, self.scale, self.shift)
        return cast(Tensor, self.trunk(like_weights(image, self.trunk)))

    def first(self, features: Tensor) -> Heads:
        """Raw maps of the primary heads."""
        return {name: head(features) for name, head in self.primary.items()}

    def second(self, features: Tensor, found: Tensor) -> Heads:
        """Raw maps of the secondary heads; `found` (B, 3, H, W) are radar features."""
        if not len(self.secondary):
            return {}
        joined = self._joined(features, found)
        return {name: head(joined) for name, head in self.secondary.items()}

    @staticmethod
    def _joined(features: Tensor, found: Tensor) -> Tensor:
        """What secondary heads see: features and radar features, (B, channels + 3, H, W)."""
        return torch.cat([features, found.to(features.dtype)], 1)

    def associated(self, primary: Mapping[str, Tensor], batch: FusionBatch) -> Tensor:
        """Radar features of predicted boxes: (B, 3, H, W) float32."""
        spec, compat = self.spec, self.spec.compat
        if not len(self.secondary):
            return batch.found
        width = batch.radar.shape[3]
        best = peaks(primary["heat"].float().sigmoid(), spec.detections, crowded=compat.crowded)
        at = {
            name: picked(primary[name].float(), best.index)
            for name in ("depth", "size", "dims", "rotation", "offset", "center")
        }
        cell = cell_of(best.index, width)
        middle = cell + 0.5 if compat.crowded else cell + at["offset"]
        half = at["size"].clamp_min(0) / 2
        depth = metric_depth(at["depth"])[..., 0]
        alpha = observation_angle(at["rotation"])
        if compat.window_units:
            lens = batch.lens
            yaw = alpha + torch.atan2(middle[..., 0] - lens[:, :1, 2], lens[:, :1, 0])
        else:
            place = unproject((cell + at["center"]) * spec.stride, depth, batch.calib)
            yaw = alpha + torch.atan2(place[..., 0], place[..., 2])
        half_deep = half_extent(at["dims"].clamp_min(0), yaw) * (1.5 if compat.window else 1.0)
        reach = half_deep * (1 + spec.expand) + spec.slack * depth
        return associate(
            batch.radar,
            torch.cat([middle - half, middle + half], -1),
            depth,
            reach,
            torch.ones_like(best.label, dtype=torch.bool),
            scale=spec.radar_scale,
            middle=spec.middle,
            unclipped=compat.unclipped,
            order=compat.order,
        )

    def _losses(self, primary: Heads, secondary: Heads, batch: FusionBatch) -> Losses:
        divide = (lambda count: count + 1e-4) if self.spec.compat.divisor else normaliser
        terms = losses(primary, secondary, batch.targets, self.spec.weights, divide)
        return Losses(terms, {}, batch.targets.valid.sum().float())

    def _answer(self, primary: Heads, secondary: Heads, batch: FusionBatch) -> dict[str, Any]:
        heads = self._final({**primary, **secondary})
        if self.spec.flip_test:
            heads = self._both(heads, self._mirrored(batch))
        found = decode(
            heads,
            batch.calib,
            self.groups,
            stride=self.spec.stride,
            count=self.spec.detections,
            compat=self.spec.compat,
        )
        box = torch.stack([found.box[..., :2], found.box[..., 2:]], 2)  # (B, K, 2, 2)
        ends = torch.cat([box, torch.ones_like(box[..., :1])], -1) @ batch.place.transpose(1, 2)[:, None]
        columns = {**Found(*found)._asdict(), "box": ends[..., :2].flatten(2)}
        return {
            "ids": batch.ids,
            "tokens": batch.tokens,
            "cameras": batch.cameras,
            "pose": batch.pose,
            **columns,
        }

    @staticmethod
    def _final(heads: Heads) -> Heads:
        """Heat as probabilities, depth in metres, all in float32."""
        done = {name: maps.float() for name, maps in heads.items()}
        done["heat"] = done["heat"].sigmoid()
        done["depth"] = metric_depth(done["depth"])
        return done

    def _mirrored(self, batch: FusionBatch) -> Heads:
        """What the network says about the mirrored pictures, turned back: decoded maps."""
        import dataclasses

        flip = batch.calib.new_tensor([-1.0, 1, 1, 1])
        width = batch.image.shape[2]
        calib = batch.calib * flip  # the world mirrored, then the picture
        calib[:, 0] = width * calib[:, 2] - calib[:, 0]
        radar = batch.radar.flip(3) * batch.radar.new_tensor([1.0, -1.0, 1.0])[:, None, None]
        other = dataclasses.replace(batch, image=batch.image.flip(2), radar=radar, calib=calib)
        features = self.features(other)
        primary = self.first(features)
        heads = self._final({**primary, **self.second(features, self.associated(primary, other))})
        return {name: maps.flip(3) for name, maps in heads.items()}

    def _both(self, heads: Heads, other: Heads) -> Heads:
        """Average what does not depend on the side; the middle's x is mirrored inside its cell."""
        done = dict(heads)
        for name in ("heat", "size", "dims", "depth"):
            done[name] = (heads[name] + other[name]) / 2
        x, y = other["center"].unbind(1)
        x = -x if self.spec.compat.pixels else 1 - x
        done["center"] = (heads["center"] + torch.stack([x, y], 1)) / 2
        return done
