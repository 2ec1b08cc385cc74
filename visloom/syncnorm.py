"""SyncNorm: batch norm whose statistics are those of the whole batch, on any device and backend.

Plain batch norm sees the part of the batch that one process holds, so its output depends on how many processes
there are. torch's SyncBatchNorm mends that on GPUs; this one is used everywhere else. Gradients are those of one
process up to rounding (Ioffe and Szegedy 2015, arXiv:1502.03167, equations 1 to 3 with sums over all processes).

Variances of parts are united by Chan, Golub and LeVeque's formula (1979): sums of squares would cancel.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from visloom.errors import ConfigError

M = TypeVar("M", bound=nn.Module)
_Norm = nn.modules.batchnorm._BatchNorm


class SyncNorm(_Norm):
    """Batch norm over all processes: (N, C, ...) of any number of dimensions, N and ... may differ by process.

    Parameters, buffers and their names are those of the layer it takes the place of. `drop` and `act` come after
    it, where that layer had them (timm's norm and activation in one).
    """

    drop: nn.Module
    act: nn.Module

    @classmethod
    def of(cls, norm: _Norm) -> SyncNorm:
        """Return a layer with the parameters, buffers and mode of another one: the same objects, no copies.

        Raises ConfigError for a class whose forward does something of its own: it would be lost.
        """
        fused = isinstance(getattr(norm, "act", None), nn.Module)
        if type(norm).__module__ != nn.BatchNorm2d.__module__ and not fused:
            raise ConfigError(
                f"{type(norm).__module__}.{type(norm).__qualname__} is a batch norm of its own kind, which cannot be "
                f"synchronised; set how.sync_norm=false, or use torch's BatchNorm",
                path="how.sync_norm",
            )
        made = cls(norm.num_features, norm.eps, norm.momentum, False, norm.track_running_stats)
        made.affine = norm.affine
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        made.training = norm.training
        if fused:
            made.drop, made.act = norm.drop, norm.act  # type: ignore[assignment]  # timm
        return made

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm takes (N, C, ...), got {tuple(input.shape)}")

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # graphs hold no exchange of their own
    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the statistics of all processes' inputs in training, by the running ones otherwise."""
        output = self._normalised(input)
        return self.act(self.drop(output)) if hasattr(self, "act") else output

    def _normalised(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            self._track(mean, variance * count / (count - 1).clamp(min=1))
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """Forward and backward of batch norm in training, with one exchange each."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        rest = [d for d in range(x.dim()) if d != 1]
        count = x.numel() // x.shape[1]
        mean = wide.sum(rest) / max(1, count)  # (C,)
        spread = (wide - _over(mean, x)).square().sum(rest)  # (C,)
        own = torch.cat([mean, spread, mean.new_full((1,), float(count))]).double()
        every = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(every, own)
        means, spreads, counts = torch.stack(every).tensor_split([len(mean), 2 * len(mean)], dim=1)
        total = counts.sum()
        whole = (counts * means).sum(0) / total  # (C,) float64
        variance = (spreads + counts * (means - whole).square()).sum(0) / total
        scale = (variance + eps).rsqrt()
        centre, narrow = whole.to(wide.dtype), scale.to(wide.dtype)
        hat = (wide - _over(centre, x)) * _over(narrow, x)
        output = hat if weight is None else hat * _over(weight.to(hat.dtype), x)
        output = output if bias is None else output + _over(bias.to(hat.dtype), x)
        ctx.save_for_backward(hat, weight, narrow, total)
        ctx.mark_non_differentiable(whole, variance, total)
        return output.to(x.dtype), whole, variance, total

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # type: ignore[override]
        hat, weight, narrow, total = ctx.saved_tensors
        wide = dy.to(hat.dtype)
        rest = [d for d in range(dy.dim()) if d != 1]
        own = torch.stack([wide.sum(rest), (wide * hat).sum(rest)])  # (2, C): gradients of bias and weight
        grad_bias, grad_weight = own.clone().unbind() if weight is not None else (None, None)
        every = own.double()
        torch.distributed.all_reduce(every)
        level, slope = (every / total).to(hat.dtype).unbind()
        factor = narrow if weight is None else narrow * weight.to(hat.dtype)
        dx = _over(factor, dy) * (wide - _over(level, dy) - hat * _over(slope, dy))
        return dx.to(dy.dtype), grad_weight, grad_bias, None


def _over(values: Tensor, like: Tensor) -> Tensor:
    """View (C,) so that it spreads over (N, C, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


def synchronised(module: M) -> M:
    """Put a SyncNorm in the place of every batch norm inside a module; returns the module.

    Parameters stay the same objects, so an optimizer that holds them goes on.
    """
    for name, child in module.named_children():
        if isinstance(child, _Norm):
            setattr(module, name, SyncNorm.of(child))
        else:
            synchronised(child)
    return module
