"""What the losses compute: pure functions of logits (B, K, H, W), target (B, H, W) int64, and class weights (K,).

Pixels with -1 are left out by weight 0, not by selection: selecting would wait for the device. Where no pixel is
labelled, every loss is 0 and connected to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from visloom.dist import normaliser

_TINY = 2.0**-40


def named(
    name: str, loss: Callable[..., Tensor], logits: Tensor, target: Tensor, weight: Tensor | None
) -> dict[str, Tensor]:
    """Return one loss under its name."""
    return {name: loss(logits, target, weight)}


def mixed(
    parts: Sequence[Callable[..., dict[str, Tensor]]],
    shares: Sequence[float],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
) -> dict[str, Tensor]:
    """Return all losses of all parts, each times its share; parts of one name are added up."""
    found: dict[str, Tensor] = {}
    for part, share in zip(parts, shares, strict=True):
        for name, value in part(logits, target, weight).items():
            found[name] = found[name] + share * value if name in found else share * value
    return found


def _divisor(total: Tensor) -> Tensor:
    """The divisor of a sum whose weights add up to `total`, over all processes; any positive number if that is 0.

    `normaliser` never falls below 1, which is right for counts; weights may add up to less, so they are scaled by a
    power of two, which is exact.
    """
    return normaliser(total / _TINY) * _TINY


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Weighted mean of -log p over labelled pixels, as `torch.nn.functional.cross_entropy`, 0 where there are none.

    weight: (K,) or None.
    """
    total = functional.cross_entropy(
        logits, target, weight, ignore_index=-1, reduction="sum", label_smoothing=smoothing
    )
    known = target >= 0
    if weight is None:
        return total / normaliser(known.sum())
    return total / _divisor((weight[target.clamp_min(0)] * known).sum())


def _each(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the true class per pixel, 0 where ignored: (B, H, W)."""
    return functional.cross_entropy(logits, target, ignore_index=-1, reduction="none")


def ohem(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, *, threshold: float, keep: float
) -> Tensor:
    """Mean cross entropy of the pixels with p <= threshold, and of the hardest `keep` of the labelled ones."""
    loss, known = _each(logits, target).flatten(), (target >= 0).flatten()
    hardness = loss.detach().where(known, -1.0)
    # The value that the hardest share exceeds; its place depends on how many are labelled, so all are sorted.
    order = hardness.sort(descending=True).values
    last = (known.sum() * keep).ceil().long().clamp_min(1) - 1
    bar = order.gather(0, last[None])[0].clamp_max(-torch.log(logits.new_tensor(threshold)))
    chosen = known & (hardness >= bar)
    if weight is not None:
        share = weight[target.flatten().clamp_min(0)] * chosen
        return (loss * share).sum() / _divisor(share.sum())
    return (loss * chosen).sum() / normaliser(chosen.sum())


def dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    smooth: float = 1.0,
    over: str = "pixels",
    compat: bool = False,
) -> Tensor:
    """Dice over the labelled pixels of the batch; `weight` is not used. See `losses.Dice`."""
    known = target >= 0
    if compat:  # the template turns ignored pixels into the smallest class that occurs
        lowest = target.where(known, logits.shape[1]).min().clamp_max(logits.shape[1] - 1)
        target, known = target.where(known, lowest), torch.ones_like(known)
    probability = logits.softmax(1)  # (B, K, H, W)
    own = probability.gather(1, target.clamp_min(0)[:, None])[:, 0] * known  # (B, H, W)
    if over == "pixels":
        count = known.sum()
        loss = 1.0 - (2.0 * own.sum() + smooth) / (2.0 * count + max(smooth, _TINY))
        return loss * (count > 0)  # with smooth 0 and nothing labelled: 1 - 0 / tiny
    classes = logits.shape[1]
    place = target.where(known, classes).flatten()
    true = torch.bincount(place, minlength=classes + 1)[:classes].to(own.dtype)  # (K,)
    overlap = own.new_zeros(classes + 1).index_add(0, place, own.flatten())[:classes]
    predicted = (probability * known[:, None]).sum((0, 2, 3))
    each = 1.0 - (2.0 * overlap + smooth) / (predicted + true + max(smooth, _TINY))
    there = true > 0
    return (each * there).sum() / there.sum().clamp_min(1)


def focal(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha: Sequence[float] = (),
    compat: bool = False,
) -> Tensor:
    """Mean over labelled pixels of (1 - p)^gamma * -log p. See `losses.Focal`; `weight` is not used."""
    known = target >= 0
    factor = logits.new_tensor(alpha)[target.clamp_min(0)] if alpha else None  # (B, H, W)
    entropy = _each(logits, target)
    if compat:
        entropy = entropy if factor is None else entropy * factor
        return ((1.0 - torch.exp(-entropy)) ** gamma * entropy).mean()
    # 1 - p from -log p; a pixel that is surely right has 0 there, whose power of less than 1 has no gradient
    loss = (-torch.expm1(-entropy)).clamp_min(1e-12) ** gamma * entropy
    loss = loss if factor is None else loss * factor
    return (loss * known).sum() / normaliser(known.sum())


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    classes: str = "present",
    per_image: bool = False,
    stride: int = 1,
) -> Tensor:
    """Lovasz extension of 1 - IoU, mean over classes. See `losses.Lovasz`; `weight` is not used."""
    if stride > 1:
        logits, target = logits[:, :, ::stride, ::stride], target[:, ::stride, ::stride]
    probability = logits.softmax(1)
    if not per_image:
        return _lovasz(probability.movedim(1, 0).flatten(1), target.flatten(), classes)
    each = [_lovasz(p.flatten(1), t.flatten(), classes) for p, t in zip(probability, target, strict=True)]
    some = torch.stack([(t >= 0).any() for t in target])
    return (torch.stack(each) * some).sum() / some.sum().clamp_min(1)


def _lovasz(probability: Tensor, target: Tensor, classes: str) -> Tensor:
    """probability: (K, P); target: (P,). An ignored pixel has error 0 and adds nothing to any set."""
    known = target >= 0
    total, counted = probability.sum() * 0.0, known.sum() * 0
    for index, own in enumerate(probability):
        truth = target == index  # (P,)
        if classes == "present" and truth.device.type == "cpu" and not truth.any():
            continue  # elsewhere the question would wait for the device
        size = truth.sum()
        error = torch.where(truth, 1.0 - own, own) * known
        sorting = error.detach().argsort(descending=True, stable=True)
        inside, labelled = truth[sorting].to(own.dtype), known[sorting].to(own.dtype)
        missed = size - inside.cumsum(0)
        union = size + (labelled - inside).cumsum(0)
        jaccard = 1.0 - missed / union.clamp_min(1)  # (P,) loss when the first i errors are wrong
        step = torch.diff(jaccard, prepend=jaccard.new_zeros(1)) * labelled
        loss = (error[sorting] * step).sum()
        there = size > 0 if classes == "present" else known.any()
        total, counted = total + loss * there, counted + there
    return total / counted.clamp_min(1)
