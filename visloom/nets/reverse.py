"""Gradient reversal: the identity forward, the gradient times -weight backward (Ganin and Lempitsky, 2015).

A discriminator behind it learns to tell domains apart while what lies before it learns to hide them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Scale(torch.autograd.Function):
    """Multiplies the gradient by a 0-dim tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor.to(gradients[0].dtype), None


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """Return x; its gradient is multiplied by `factor`, a 0-dim tensor (no recompiling when it changes)."""
    found: Tensor = _Scale.apply(x, factor)  # type: ignore[no-untyped-call]
    return found


def reverse(x: Tensor, weight: Tensor) -> Tensor:
    """Return x; its gradient is multiplied by -weight."""
    return scale_gradient(x, -weight)


def ramp(done: Tensor) -> Tensor:
    """Weight of a warm start, 0 to 1: 2 / (1 + exp(-10 p)) - 1 for a share of the training p in [0, 1]."""
    return 2.0 / (1.0 + torch.exp(-10.0 * done)) - 1.0
