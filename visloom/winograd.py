"""3x3 convolutions in fp32 on a CPU with a quarter to a half of the multiplications: Winograd's minimal filtering.

Most maps are cut for F(4x4, 3x3): a 6x6 tile of the input and a filter are transformed to where their convolution is a
product of 36 numbers each; a tile gives 4x4 outputs, which cost 144 products otherwise. Summed over channels these are
36 matrix products. The gradients of input and filter are the same steps transposed, so they cost as little. Small maps
that 4x4 does not fit are cut into tiles of 2x2, 3x3 or 6x6 outputs: 16 products for 36, 25 for 81, 64 for 324.

Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), whose matrices B,
G and A stand in `visloom/winograd_kernels.py` with the code that computes; cuDNN multiplies fp32 the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from visloom.vector import LANES, readable
from visloom.winograd_kernels import METHODS, ROWS, Method, kernels

_LEAST_CHANNELS = 24  # below, transforming the tiles costs what the products save
_CHUNK = 3_000_000  # bytes of tiles and products at a time: what is between two steps stays in the cache
_LEAST_TILES = 64  # at a time all the same: the filters are read for each
_HEAVY = 1.45  # what a product of F(6x6) counts for: its transforms cost more (`benchmarks/winograd.py`)
_MOST = 64_000_000  # bytes of tiles of one picture


def use_winograd(net: nn.Module) -> int:
    """Let the 3x3 convolutions of a network that can gain by it take this way; how many that are.

    Their names, weights and `state_dict` stay. Only plain `nn.Conv2d` of stride 1 without groups or dilation is
    taken; which pictures are worth it is decided at each call, by their size alone.
    """
    count = 0
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and takes(module):
            module.__class__ = WinogradConv2d
            count += 1
    return count


def uses_winograd(net: nn.Module) -> bool:
    """Whether a network has convolutions that may take this way."""
    return any(isinstance(module, WinogradConv2d) for module in net.modules())


def takes(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that gains: 3x3, dense, stride 1, no subclass, 24 channels or 32, 40 ..."""
    return (
        type(conv) in (nn.Conv2d, WinogradConv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding in ((1, 1), (0, 0), "same", "valid")
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and conv.in_channels % LANES == conv.out_channels % LANES == 0
    )


class WinogradConv2d(nn.Conv2d):
    """`nn.Conv2d` by way of `winograd`, where the picture is of a kind that gains by it."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pad = 1 if self.padding in ((1, 1), "same") else 0
        if not _gains(input, weight, pad):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        out: Tensor = winograd(input, weight, pad)  # (B, O, H, W)
        return out if bias is None else out.add_(bias[:, None, None])


def _gains(image: Tensor, weight: Tensor, pad: int) -> bool:
    if not readable(image, weight) or not _fit(image, weight) or torch.is_autocast_enabled("cpu"):
        return False
    height, width = image.shape[2:]
    if min(_outputs(height, pad), _outputs(width, pad)) < 1:
        return False
    cut = _cut(height, width, pad)
    if cut.tiles * cut.method.places * 4 * max(weight.shape[:2]) > _MOST:
        return False
    products = cut.tiles * cut.method.places / (9 * _outputs(height, pad) * _outputs(width, pad))
    return _worth(min(weight.shape[:2]), cut.tiles * len(image), products)


def _fit(image: Tensor, weight: Tensor) -> bool:
    """Whether these are what the kernels read: they go by addresses, and see no sizes but those of the image."""
    return (
        image.ndim == weight.ndim == 4
        and image.device.type == weight.device.type == "cpu"
        and image.dtype is weight.dtype is torch.float32
        and image.shape[1] == weight.shape[1]
        and weight.shape[2:] == (3, 3)
        and weight.shape[0] % LANES == weight.shape[1] % LANES == 0
    )


def _outputs(length: int, pad: int) -> int:
    """Pixels of the output along an axis of the image."""
    return length + 2 * pad - 2


class _Cut(NamedTuple):
    """How a picture is cut into tiles."""

    method: Method
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    @property
    def grid(self) -> tuple[int, int]:
        return self.rows, self.columns


@cache
def _cut(height: int, width: int, pad: int) -> _Cut:
    """The quickest way: about the one with the fewest products, but transforms of 8x8 tiles cost more than others."""
    sides = (_outputs(height, pad), _outputs(width, pad))
    ways = (_Cut(method, *(-(-side // method.side) for side in sides)) for method in METHODS)
    return min(
        ways, key=lambda cut: cut.tiles * cut.method.places * (_HEAVY if cut.method.side == 6 else 1.0)
    )


def _worth(channels: int, tiles: int, products: float) -> bool:
    """Whether products saved are worth the transforms of tiles and filters.

    Found with `benchmarks/winograd.py`, forward and backward against oneDNN in NHWC and NCHW on a core with AVX2.

    Args:
        channels: the lesser of the two numbers.
        tiles: of the whole batch; few share the transform of the filters.
        products: for each one of the usual way.
    """
    return tiles >= max(48, 4096 // channels) and products * (1 + 40 / channels) <= 0.725


def winograd(image: Tensor, weight: Tensor, pad: int) -> Tensor:
    """`functional.conv2d(image, weight, padding=pad)`, to about 1e-5 of the largest value.

    Args:
        image: (B, C, H, W) float32 on the CPU; quickest in channels-last memory.
        weight: (O, C, 3, 3) float32. O and C are multiples of 8.
        pad: 0 or 1 pixels of zeros around the image.

    Returns:
        (B, O, H + 2 * pad - 2, W + 2 * pad - 2) float32, in channels-last memory.
    """
    if not _fit(image, weight) or min(_outputs(length, pad) for length in image.shape[2:]) < 1:
        raise ValueError(
            "winograd convolves float32 pictures (B, C, H, W) on the CPU with filters (O, C, 3, 3), where O and C are "
            f"multiples of {LANES}, but got {tuple(image.shape)} and {tuple(weight.shape)} of {image.dtype} and "
            f"{weight.dtype}"
        )
    out: Tensor = _Winograd.apply(image, weight, pad)
    return out


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, pad: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.pad = pad
        image, (outputs, channels) = _nhwc(image), weight.shape[:2]
        cut = _cut(*image.shape[2:], pad)
        code = kernels(cut.method)
        # in panels of 16 outputs, as `multiply` reads them
        filters = torch.empty((cut.method.places, channels * outputs), dtype=torch.float32)
        code.filters(_nhwc(weight.transpose(0, 1)), filters, channels)
        out = _empty(len(image), outputs, *(_outputs(length, pad) for length in image.shape[2:]))
        for part, tiles, products in _parts(len(image), channels, outputs, cut):
            code.tiles(image[part], tiles, tiles.stride(1), pad, cut.grid)
            code.multiply(tiles, filters, products, channels, outputs)
            code.outputs(out[part], products, products.stride(1), 0, cut.grid)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        image, grad, pad = _nhwc(image), _nhwc(grad), ctx.pad
        outputs, channels = weight.shape[:2]
        of_image, of_weight = ctx.needs_input_grad[:2]
        cut = _cut(*image.shape[2:], pad)
        code, places = kernels(cut.method), cut.method.places
        filters = image_grad = sums = weight_grad = None
        if of_image:
            filters = torch.empty((places, outputs * channels), dtype=torch.float32)  # panels of 16 channels
            code.filters(_nhwc(weight), filters, outputs)
            image_grad = _empty(*image.shape)
        if of_weight:
            sums = torch.zeros((places, outputs, channels), dtype=torch.float32)
        for part, tiles, products in _parts(len(image), channels, outputs, cut):
            code.outputs_grad(grad[part], products, products.stride(1), 0, cut.grid)
            if sums is not None:
                code.tiles(image[part], tiles, tiles.stride(1), pad, cut.grid)
                code.add_products(products, tiles, sums, (part.stop - part.start) * cut.tiles)
            if image_grad is not None and filters is not None:
                code.multiply(products, filters, tiles, outputs, channels)
                code.tiles_grad(image_grad[part], tiles, tiles.stride(1), pad, cut.grid)
        if sums is not None:
            weight_grad = _empty(outputs, channels, 3, 3)
            code.filters_grad(weight_grad, sums, channels)
        return image_grad, weight_grad, None


def _nhwc(image: Tensor) -> Tensor:
    return image.detach().contiguous(memory_format=torch.channels_last)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last)


# ------------------------------------------------------------------------------- a part of a batch


def _parts(batch: int, channels: int, outputs: int, cut: _Cut) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Parts of a batch, each with the memory for its tiles (places, T, C) and their products (places, T, O)."""
    places, bytes_of_tile = cut.method.places, cut.method.places * 4 * (channels + outputs)
    many = max(1, _CHUNK // (cut.tiles * bytes_of_tile), _LEAST_TILES // cut.tiles)
    many = -(-batch // max(1, -(-batch // many))) or 1  # as equal as they can be
    for start in range(0, batch, many):
        stop = min(start + many, batch)
        rows = -(-(stop - start) * cut.tiles // ROWS) * ROWS  # whole blocks: the last ones hold anything
        sizes = [places * rows * _row(length) for length in (channels, outputs)]
        tiles, products = torch.split(_memory.floats(sum(sizes)), sizes)
        yield (
            slice(start, stop),
            tiles.view(places, rows, -1)[:, :, :channels],
            products.view(places, rows, -1)[:, :, :outputs],
        )


def _row(channels: int) -> int:
    """Floats from one row of channels to the next: an odd number of half cache lines or of whole ones, so that a column
    spreads over all of the first cache."""
    return channels if channels % 16 else (channels // 16 | 1) * 16


class _Memory(threading.local):
    """The memory of a thread that parts are worked on in: every layer takes the same, so it stays in the cache."""

    def __init__(self) -> None:
        self._floats = torch.empty(0, dtype=torch.float32, device="cpu")

    def floats(self, count: int) -> Tensor:
        if len(self._floats) < count:
            self._floats = self._floats.new_empty(count)
        return self._floats[:count]


_memory = _Memory()
