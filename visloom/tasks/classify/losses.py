"""Cross entropy for hard and soft targets, as a sum and the weight it was taken over.

Sum and weight rather than a mean, so that the mean can be taken over all processes: a mean of means is not
the mean
when labels are missing. Targets without any label give a zero that is connected to the graph, never a NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy and the number of labelled samples, each as heavy as its class.

    With smoothing s, a target is (1 - s) of itself and s spread evenly over the K classes (Szegedy et al.,
    "Rethinking the Inception Architecture", 2016). `sum / count` equals
    `torch.nn.functional.cross_entropy(..., label_smoothing=s, ignore_index=-1)`.

    Args:
        logits: (B, K), any floating type; computed in float32.
        target: (B,) int64 class indices, -1 is unlabelled; or (B, K) weights, each row summing to 1, or to 0
            where unlabelled (rows in between weigh as much as they sum to).
        weights: (K,) float32, of each class; None is 1 each.

    Returns:
        0-dim float32 sum, 0-dim float32 count.
    """
    log_probability = functional.log_softmax(logits.float(), dim=1)  # (B, K)
    if weights is not None:
        return _weighted(log_probability, dense(target, logits.shape[1]), smoothing, weights)
    if target.ndim == 1:
        weight = (target >= 0).float()  # (B,)
        own = log_probability.gather(1, target.clamp_min(0)[:, None])[:, 0]  # (B,)
    else:
        weight = target.sum(1)
        own = (log_probability * target).sum(1)
    loss = -own * (weight if target.ndim == 1 else 1.0)  # (B,)
    if smoothing:
        loss = loss * (1.0 - smoothing) - log_probability.mean(1) * weight * smoothing
    return loss.sum(), weight.sum()


def _weighted(
    log_probability: Tensor, target: Tensor, smoothing: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    heavy = target * weights  # (B, K)
    loss = -(heavy * log_probability).sum()
    if smoothing:
        spread = -(log_probability * weights).mean(1) * target.sum(1)  # (B,)
        loss = loss * (1.0 - smoothing) + spread.sum() * smoothing
    return loss, heavy.sum()


def dense(target: Tensor, classes: int) -> Tensor:
    """Class indices (B,) as rows of weights (B, K) float32, zeros where unlabelled; dense targets as they
    are."""
    if target.ndim == 2:
        return target
    known = (target >= 0).float()[:, None]
    return functional.one_hot(target.clamp_min(0), classes).float() * known


def hits(predicted: Tensor, target: Tensor) -> Tensor:
    """Summed weight of the targets that the predicted classes (B,) carry: the number of right answers if
    hard."""
    if target.ndim == 1:
        return (predicted == target).sum(dtype=torch.float32)
    return target.gather(1, predicted[:, None]).sum()
