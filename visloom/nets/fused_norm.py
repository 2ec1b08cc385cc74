"""Maximum of 2x2, batch norm and GELU in fp32 on a CPU, in half of the passes over memory that PyTorch makes.

PyTorch runs each of these modules over all of its memory, forward and backward, and that is most of what they cost.
Here the statistics are summed while the maximum is taken, normalising and GELU are one pass, GELU's derivative is kept
rather than computed again, and the gradient is written to the pixel that was the maximum, and zero to the others, by
the pass that finds it.

The modules stay what they are: `norm_gelu` reads them, and takes their place where it gives what they would.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from visloom.nets.fused_norm_kernels import PICTURES, kernels
from visloom.vector import LANES, readable


def norm_gelu(image: Tensor, norm: nn.Module, act: nn.Module, pool: nn.Module | None = None) -> Tensor:
    """`act(norm(pool(image)))`, to about 1e-6 of the largest value.

    Fused are an `nn.BatchNorm2d` that keeps running statistics, exact `nn.GELU` and `nn.MaxPool2d(2)`, on float32
    pictures in channels-last memory of a CPU. In every other case the modules are called, so too if hooks watch them.

    Args:
        image: (B, C, H, W).
        norm: in training mode it takes the batch's statistics and updates the running ones.
        pool: None where there is none.

    Returns:
        (B, C, H, W), or (B, C, H // 2, W // 2) of a pool; in channels-last memory if the image is.
    """
    if _fits(image, act) and _fits_norm(norm, image.shape[1]) and (pool is None or _fits_pool(pool, image)):
        asks = _asks_for_gradient(image, norm.weight, norm.bias)
        if not norm.training and not asks:
            return _evaluated(image, norm, pool is not None)
        if norm.training and _count(image, pool is not None) > 1:  # of one value there is no deviation
            if asks:
                out: Tensor = _NormGelu.apply(image, norm.weight, norm.bias, norm, pool is not None)
                return out
            return _trained(image, norm, pool is not None, keep=False).out
    plain: Tensor = act(norm(image if pool is None else pool(image)))
    return plain


def gelu(image: Tensor, act: nn.Module) -> Tensor:
    """`act(image)` for an exact `nn.GELU`, under the same conditions as in `norm_gelu`.

    Args:
        image: (B, C, H, W).
    """
    if not _fits(image, act):
        out: Tensor = act(image)
    elif _asks_for_gradient(image):
        out = _Gelu.apply(image)
    else:
        out = torch.empty_like(image)
        kernels().plain_gelu(image.shape, image, out)
    return out


# ------------------------------------------------------------------------------- where it may take their place


def _fits(image: Tensor, act: nn.Module) -> bool:
    return (
        readable(image)  # this first: where it says no, a size may be no number
        and not torch.is_autocast_enabled("cpu")
        and image.ndim == 4
        and image.device.type == "cpu"
        and image.dtype is torch.float32
        and image.numel() > 0
        and image.shape[1] % LANES == 0
        and image.is_contiguous(memory_format=torch.channels_last)
        and type(act) is nn.GELU
        and act.approximate == "none"
        and not _is_watched(act)
    )


def _fits_norm(norm: nn.Module, channels: int) -> TypeGuard[nn.BatchNorm2d]:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and all(
            readable(tensor)
            and tensor.shape == (channels,)
            and tensor.dtype is torch.float32
            and tensor.device.type == "cpu"
            and tensor.is_contiguous()
            for tensor in (norm.weight, norm.bias, *_running(norm))
        )
        and not _is_watched(norm)
    )


def _fits_pool(pool: nn.Module, image: Tensor) -> bool:
    return (
        type(pool) is nn.MaxPool2d
        and pool.kernel_size in (2, (2, 2))
        and pool.stride in (2, (2, 2))
        and pool.padding in (0, (0, 0))
        and pool.dilation in (1, (1, 1))
        and not (pool.ceil_mode or pool.return_indices or _is_watched(pool))
        and min(image.shape[2:]) >= 2
    )


def _is_watched(module: nn.Module) -> bool:
    """Whether hooks wait for a call of the module: as `nn.Module.__call__` asks."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None  # it tracks them
    return norm.running_mean, norm.running_var


def _asks_for_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


# ------------------------------------------------------------------------------- passes


class _Trained(NamedTuple):
    """What a batch gave, with what its gradient needs."""

    out: Tensor  # (B, C, h, w)
    value: Tensor  # (B, C, h, w), what was normalised
    which: Tensor | None  # (B, C, h, w) uint8, of a pool: which of four pixels that was
    slope: Tensor | None  # (B, C, h, w), GELU's derivative, if asked for
    statistics: Tensor  # (2, C) float64: mean and 1 / deviation


def _trained(image: Tensor, norm: nn.BatchNorm2d, pools: bool, keep: bool) -> _Trained:
    """By the statistics of the batch, which the running ones then learn of."""
    code, image, which = kernels(), image.detach(), None
    sums = _sums_of_blocks(image)
    value = image
    if pools:
        value, which = _halved(image, torch.float32), _halved(image, torch.uint8)
        code.pool_sums(image.shape, image, value, which, sums)
    else:
        code.sums(image.shape, image, sums)
    channels = image.shape[1]
    statistics = torch.empty((2, channels), dtype=torch.float64, device="cpu")
    line = torch.empty((3, channels), dtype=torch.float32, device="cpu")
    settings = torch.tensor((norm.eps, norm.momentum), dtype=torch.float64, device="cpu")
    running = _running(norm)
    tensors = (sums, settings, norm.weight, norm.bias, *running, statistics, line)
    code.learn(*(tensor.data_ptr() for tensor in tensors), len(sums), channels, _count(image, pools))
    torch.autograd.graph.increment_version([tensor for tensor in running if not tensor.is_inference()])
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    out = torch.empty_like(value)
    if keep:
        slope = torch.empty_like(value)
        code.gelu_slope(value.shape, value, line, out, slope)
        return _Trained(out, value, which, slope, statistics)
    code.gelu(value.shape, value, line, out)
    return _Trained(out, value, which, None, statistics)


def _evaluated(image: Tensor, norm: nn.BatchNorm2d, pools: bool) -> Tensor:
    """By the running statistics."""
    mean, variance = _running(norm)
    scale = norm.weight * (variance.double() + norm.eps).rsqrt()
    line, image = torch.stack((mean, scale.float(), norm.bias)).detach(), image.detach()  # (3, C)
    out = _halved(image, torch.float32) if pools else torch.empty_like(image)
    (kernels().pool_gelu if pools else kernels().gelu)(image.shape, image, line, out)
    return out


def _sums_of_blocks(image: Tensor) -> Tensor:
    blocks = -(-len(image) // PICTURES)
    return torch.zeros((blocks, 2, image.shape[1]), dtype=torch.float64, device="cpu")


def _halved(image: Tensor, dtype: torch.dtype) -> Tensor:
    batch, channels, height, width = image.shape
    return _empty(batch, channels, height // 2, width // 2, dtype=dtype)


def _in_order(image: Tensor) -> Tensor:
    return image.detach().contiguous(memory_format=torch.channels_last)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)


def _count(image: Tensor, pools: bool) -> int:
    """Values of a channel that are normalised."""
    batch, _, height, width = image.shape
    return batch * (height // 2) * (width // 2) if pools else batch * height * width


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pools: bool
    ) -> Tensor:
        done = _trained(image, norm, pools, keep=True)
        value = done.value if pools else image
        ctx.save_for_backward(value, done.which, done.slope, done.statistics, weight)
        ctx.shape = image.shape
        return done.out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        value, which, slope, statistics, weight = ctx.saved_tensors
        # they come back in their order of memory, but for hooks on saved tensors that pack them anew
        code, value, grad, slope = kernels(), *(_in_order(tensor) for tensor in (value, grad, slope))
        channels, sums = value.shape[1], _sums_of_blocks(value)
        means = statistics[0].float()
        code.grad_sums(value.shape, value, means, slope, grad, sums)
        line = torch.empty((4, channels), dtype=torch.float32, device="cpu")
        of_weight, of_bias = torch.empty_like(means), torch.empty_like(means)
        tensors = (sums, statistics, weight, line, of_weight, of_bias)
        count = value.numel() // channels
        code.turn(*(tensor.data_ptr() for tensor in tensors), len(sums), channels, count)
        image_grad = None
        if ctx.needs_input_grad[0]:
            image_grad = _empty(*ctx.shape, dtype=torch.float32)
            if which is None:
                code.grad(value.shape, value, line, slope, grad, image_grad)
            else:
                code.pool_grad(ctx.shape, value, line, slope, grad, _in_order(which), image_grad)
        return (
            image_grad,
            of_weight if ctx.needs_input_grad[1] else None,
            of_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        out, slope = torch.empty_like(image), torch.empty_like(image)
        kernels().plain_gelu_slope(image.shape, image, out, slope)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope: Tensor = ctx.saved_tensors[0]
        return grad * slope
