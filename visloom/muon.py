"""Muon: momentum whose step is made orthogonal, for the matrices inside a network.

The momentum of a weight matrix is usually close to low rank: a few directions get nearly all of the step.
Muon replaces the momentum by the nearest matrix with equal singular values (`orthogonalize`), so each
direction is learnt at the same speed. A convolution filter (out, in, kh, kw) counts as the matrix
(out, in * kh * kw). Biases, norm scales, embeddings and the last layer belong to another optimizer (SGD or
AdamW), as the authors advise.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. The form with
weights held at a fixed norm is that of the Muon version of the airbench CIFAR-10 records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from visloom.device import resolve_precision

# Quintic Newton-Schulz coefficients of the source: chosen for the steepest slope at zero, so that even tiny
# singular values reach the neighbourhood of one in a few rounds. They do not converge to one: they end
# scattered over about 0.7 .. 1.2, which costs nothing in training and saves most of the rounds.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_FEW = 5  # rounds
_PRECISIONS = ("auto", "bfloat16", "float32", "float64")


def orthogonalize(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly, by Newton-Schulz iteration: products only, no SVD.

    Args:
        matrix: (rows, columns), any floating type; its scale is irrelevant.
        steps: rounds of the iteration. 5 carry singular values above about 1 % of the Frobenius norm to
            roughly one; 3 are enough for convolution filters of small networks.
        dtype: type of the products. bfloat16 loses nothing that matters, the iteration is only approximate
            anyway.

    Returns:
        (rows, columns) in `dtype`. A zero matrix stays zero.
    """
    x = matrix.to(dtype)
    x = x / (x.norm() + 1e-7)  # every singular value <= 1, where the iteration is stable
    tall = x.shape[0] > x.shape[1]
    if tall:  # iterate on the small Gram matrix
        x = x.mT
    exact = dtype is not torch.bfloat16 and x.device.type == "cpu"  # a GPU may multiply float32 as TF32
    if exact and steps <= _FEW and x.shape[1] >= 2 * x.shape[0]:
        x = _polynomial(x @ x.mT, steps) @ x
    else:
        for _ in range(steps):
            gram = x @ x.mT  # (r, r), r = the shorter side
            polynomial = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)  # b G + c G^2
            x = torch.addmm(x, polynomial, x, beta=_A)  # a X + (b G + c G^2) X
    return x.mT if tall else x


def _polynomial(gram: Tensor, steps: int) -> Tensor:
    """What all rounds multiply X by, (r, r), from X X^T alone: a long matrix is multiplied twice, whatever the rounds.

    A round's q = a + b G + c G^2 makes q X of X and q G q of its Gram matrix G. Half the products of a filter with
    nine times as many columns as rows. Errors of G grow with every round, as it is never made of X again: only for few
    rounds, and not in bfloat16 or TF32.
    """
    total: Tensor | None = None
    for left in reversed(range(steps)):
        q = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
        q.diagonal().add_(_A)
        total = q if total is None else q @ total
        if left:
            gram = q @ gram @ q
    assert total is not None
    return total


class Muon(torch.optim.Optimizer):
    """Stochastic gradient descent with orthogonalized (Nesterov) momentum.

    A step has the same size whatever the size of the gradient: its spectral norm is about `lr`, its Frobenius
    norm about `lr * sqrt(min(rows, columns))`. Tall matrices (rows > columns) are stepped `sqrt(rows /
    columns)` further, so that one `lr` serves all shapes, as in the source.

    The state of a parameter is one tensor, `momentum_buffer`, in the parameter's shape, type and memory
    format.

    Args:
        params: parameters of two or more dimensions, or groups of them, as in every torch optimizer.
        lr: step length; 0.02 is usual with plain weights, about 0.1 with `unit_norm`.
        momentum: 0 <= momentum < 1.
        nesterov: look one momentum step ahead.
        weight_decay: decoupled: each step first multiplies the weight by `1 - lr * weight_decay`.
        unit_norm: before each step, scale the weight to the norm that an orthogonal matrix of its shape with
            unit rows has, `sqrt(rows)`. For layers that a normalization follows, whose scale is without
            effect: `lr` is then the relative step, and no weight decay is needed.
        steps: rounds of `orthogonalize`.
        precision: of the products inside `orthogonalize`: "bfloat16", "float32" or "float64", or "auto": bfloat16
            where the device multiplies it, as a CPU that does not takes many times as long for it as for float32.
            A name, not a `torch.dtype`, so that the groups' settings stay JSON-able.

    Raises:
        ValueError: a number out of range, or a parameter of fewer than two dimensions (in the constructor),
            or a sparse gradient (in `step`).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        unit_norm: bool = False,
        steps: int = 5,
        precision: str = "auto",
    ) -> None:
        _check(lr=lr, momentum=momentum, weight_decay=weight_decay, steps=steps, precision=precision)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "unit_norm": unit_norm,
            "steps": steps,
            "precision": precision,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; refuse what is not a matrix, and numbers out of range, before anything is stepped."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _check(**{key: group[key] for key in ("lr", "momentum", "weight_decay", "steps", "precision")})
        for p in group["params"]:
            if p.ndim < 2:
                raise ValueError(
                    f"Muon steps matrices and convolution filters, but got a parameter of shape "
                    f"{tuple(p.shape)}: give biases and norm weights to another optimizer"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns what `closure` returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if grad.is_sparse:
            raise ValueError(
                "Muon needs dense gradients, but got a sparse one: use SparseAdam for that parameter"
            )
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)  # keeps channels_last
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(grad)
        direction = grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer

        rows = p.shape[0]
        dtype = products(group["precision"], p.device)
        # Columns in the order of memory, so that nothing is copied: their order is irrelevant.
        strides = p.stride()
        order = sorted(range(1, p.ndim), key=strides.__getitem__, reverse=True)
        matrix = direction.permute(0, *order)
        update = orthogonalize(matrix.reshape(rows, -1), group["steps"], dtype)  # (rows, columns)
        stretch = max(1.0, rows / update.shape[1]) ** 0.5
        if group["unit_norm"]:
            p.mul_(rows**0.5 / (p.norm() + 1e-12))
        if group["weight_decay"]:
            p.mul_(1.0 - group["lr"] * group["weight_decay"])
        p.permute(0, *order).add_(update.reshape(matrix.shape).to(p.dtype), alpha=-group["lr"] * stretch)


def products(precision: str, device: torch.device) -> torch.dtype:
    """The type that a precision's name means on a device."""
    if precision == "auto":
        return resolve_precision("auto", device)
    found: torch.dtype = getattr(torch, precision)
    return found


def _check(*, lr: float, momentum: float, weight_decay: float, steps: int, precision: str) -> None:
    if not lr >= 0.0:
        raise ValueError(f"lr must be >= 0, but is {lr}")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), but is {momentum}")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be >= 0, but is {weight_decay}")
    if not steps >= 1:
        raise ValueError(f"steps must be at least 1, but is {steps}")
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, but is {precision!r}")
