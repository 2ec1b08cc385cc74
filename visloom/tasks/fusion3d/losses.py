"""Losses of the heads, each normalised by what it counts (Zhou et al. 2019; Mousavian et al. 2017).

A count is taken over all processes, at least 1; with `Compat.divisor` it is the process's own plus 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from visloom.tasks.fusion3d.batch import Targets

Divisor = Callable[[Tensor], Tensor]
PLAIN = ("offset", "size", "dims", "center", "velocity")
"""Heads whose loss is the distance to their target."""


def metric_depth(raw: Tensor) -> Tensor:
    """Metres of what a depth head says: 1 / sigmoid - 1 (Eigen et al. 2014), at most a million."""
    return 1.0 / (raw.float().sigmoid() + 1e-6) - 1.0


def picked(maps: Tensor, index: Tensor) -> Tensor:
    """The values of maps (B, C, H, W) at flat cells (B, K): (B, K, C)."""
    flat = maps.flatten(2)  # (B, C, HW)
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def losses(
    primary: Mapping[str, Tensor],
    secondary: Mapping[str, Tensor],
    targets: Targets,
    weights: Mapping[str, float],
    divide: Divisor,
) -> dict[str, Tensor]:
    """Weighted losses by name: those of primary heads by the head's, of secondary ones as "depth/secondary".

    Heads are maps (B, C, H, W); all but "heat" may also be what the head says in the annotated cells, (B, M, C).
    """
    found: dict[str, Tensor] = {}
    for suffix, heads in (("", primary), ("/secondary", secondary)):
        for name, maps in heads.items():
            raw = maps.float()
            if name == "heat":
                found[name] = heat_loss(raw, targets) * weights.get(name, 1.0)
                continue
            said = picked(raw, targets.index) if raw.dim() == 4 else raw  # (B, M, C)
            if name == "depth":
                value = distance(metric_depth(said), targets.depth, targets.valid, divide)
            elif name == "rotation":
                value = rotation_loss(said, targets)
            elif name == "attribute":
                value = attribute_loss(said, targets, divide)
            else:
                known = targets.velocity_known if name == "velocity" else targets.valid
                value = distance(said, getattr(targets, name), known, divide)
            label = name + suffix if suffix and name in primary else name
            found[label] = value * weights.get(label, weights.get(name, 1.0))
    return found


def heat_loss(raw: Tensor, targets: Targets) -> Tensor:
    """Focal loss of Gaussian maps: -(sum over cells) / boxes; its count is the boxes, or 1 where there is none.

    The probability is kept in [1e-4, 1 - 1e-4].
    """
    chance = raw.sigmoid().clamp(1e-4, 1 - 1e-4)
    away = (chance.neg().log1p() * chance**2 * (1 - targets.heat) ** 4).sum()
    at = targets.label[..., None]
    own = picked(chance, targets.index).gather(2, at)[..., 0]  # (B, M)
    middle = targets.valid & (
        picked(targets.heat, targets.index).gather(2, at)[..., 0] == 1
    )  # not those around
    near = (own.log() * (1 - own) ** 2 * middle).sum()
    return -(near + away) / counted(middle.sum())


def distance(found: Tensor, target: Tensor, known: Tensor, divide: Divisor) -> Tensor:
    """Mean absolute difference (B, M, D) where known (B, M)."""
    weight = known[..., None].to(found.dtype).expand_as(found)
    return ((found - target).abs() * weight).sum() / divide(weight.sum())


def attribute_loss(found: Tensor, targets: Targets, divide: Divisor) -> Tensor:
    """Mean binary cross entropy of the attributes that a box could have."""
    each = functional.binary_cross_entropy_with_logits(found, targets.attribute, reduction="none")
    return (each * targets.attribute_known).sum() / divide(targets.attribute_known.sum())


def rotation_loss(found: Tensor, targets: Targets) -> Tensor:
    """Cross entropy of both bins, and smooth L1 of sine and cosine in the bins that are used: from (B, M, 8)."""
    valid = targets.valid.to(found.dtype)
    total = found.new_zeros(())
    for at in (0, 1):
        logits, angle = found[..., 4 * at : 4 * at + 2], found[..., 4 * at + 2 : 4 * at + 4]
        used = targets.bin[..., at]
        entropy = functional.cross_entropy(logits.transpose(1, 2), used, reduction="none")  # (B, M)
        total = total + (entropy * valid).sum() / counted(targets.valid.sum())
        residue = targets.residue[..., at]
        aim = torch.stack([residue.sin(), residue.cos()], -1)
        apart = functional.smooth_l1_loss(angle, aim, reduction="none").sum(-1) * used * valid
        total = total + apart.sum() / counted((used * targets.valid).sum())
    return total


def counted(count: Tensor) -> Tensor:
    """A count to divide by, of all processes, at least 1."""
    from visloom.dist import normaliser

    return normaliser(count)
