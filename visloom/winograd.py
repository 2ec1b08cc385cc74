"""3x3 convolutions in fp32 on a CPU with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3).

A 6x6 tile of the input and a filter are transformed to where their convolution is a product of 36 numbers each; a tile
gives 4x4 outputs, which cost 144 products otherwise. Summed over channels these are 36 matrix products. The
gradients of input and filter are the same steps transposed, so they cost a quarter too.

Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), whose matrices B,
G and A stand below; cuDNN multiplies fp32 the same way. Everything here is NHWC and sums of whole planes: pixel (y, x)
lies in plane (y % 4, x % 4), so that each of the 36 places of all tiles is one block of memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SIDE = 4  # of a tile's outputs, in pixels
_TILE = 36 * 4  # bytes of a tile of one channel
_LEAST_CHANNELS = 64  # below, transforming the tiles costs what the products save
_CHUNK = 12_000_000  # bytes of tiles at a time: what is between two steps stays in the cache
_MOST = 64_000_000  # bytes of tiles of one picture

_G = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
     [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
    dtype=torch.float32, device="cpu",
)  # fmt: skip
_FILTERS = torch.kron(_G, _G)  # (36, 9): G g G^T of a filter that is written as 9 numbers


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
    """Whether a convolution is of the kind that gains: 3x3, dense, stride 1, of many channels, and no subclass."""
    return (
        type(conv) in (nn.Conv2d, WinogradConv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding in ((1, 1), (0, 0), "same", "valid")
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
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
    if image.ndim != 4 or image.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    if image.dtype is not torch.float32 or weight.dtype is not torch.float32:
        return False
    if torch.compiler.is_compiling():
        return False
    height, width = image.shape[2:]
    if min(_outputs(height, pad), _outputs(width, pad)) < 1:
        return False
    tiles = math.prod(_grid(height, width, pad))
    if tiles * _TILE * max(weight.shape[:2]) > _MOST:
        return False
    waste = tiles * _SIDE**2 / (_outputs(height, pad) * _outputs(width, pad))
    return _worth(min(weight.shape[:2]), tiles * len(image), waste)


def _grid(height: int, width: int, pad: int) -> tuple[int, int]:
    """How many rows and columns of tiles an image of (height, width) pixels takes, with `pad` around it."""
    return -(-_outputs(height, pad) // _SIDE), -(-_outputs(width, pad) // _SIDE)


def _outputs(length: int, pad: int) -> int:
    """Pixels of the output along an axis of the image."""
    return length + 2 * pad - 2


def _worth(channels: int, tiles: int, waste: float) -> bool:
    """Whether products saved are worth the transforms of tiles and filters.

    Measured forward and backward against oneDNN on a core with AVX2: 64 channels gain from 128 tiles on (1.2 to 1.5
    times), 128 from 64 (1.6 to 2), 256 and more from 32 (1.3 to 3.5).

    Args:
        channels: the lesser of the two numbers.
        tiles: of the whole batch; few share the transform of the filters.
        waste: pixels of whole tiles over pixels of the output.
    """
    return tiles >= max(32, 8192 // channels) and waste <= 0.3 * math.log2(channels) - 0.6


def winograd(image: Tensor, weight: Tensor, pad: int) -> Tensor:
    """`functional.conv2d(image, weight, padding=pad)`, to about 1e-5 of the largest value.

    Args:
        image: (B, C, H, W) float32 on the CPU; quickest in channels-last memory.
        weight: (O, C, 3, 3) float32.
        pad: 0 or 1 pixels of zeros around the image.

    Returns:
        (B, O, H + 2 * pad - 2, W + 2 * pad - 2) float32, in channels-last memory.
    """
    out: Tensor = _Winograd.apply(image, weight, pad)
    return out


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, pad: int) -> Tensor:
        outputs = len(weight)
        filters = _transform_filters(weight)  # (36, O, C)
        ctx.save_for_backward(image, filters)
        ctx.pad = pad
        height, width = (_outputs(length, pad) for length in image.shape[2:])
        out = torch.empty(
            (len(image), outputs, height, width), dtype=torch.float32, memory_format=torch.channels_last
        )
        turned = filters.transpose(1, 2)  # (36, C, O)
        for part, place in _parts(image, outputs, pad):
            part.transform_input(_nhwc(image[place]))
            torch.bmm(part.tiles, turned, out=part.products)
            part.transform_output(_nhwc(out[place]))
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, filters = ctx.saved_tensors
        outputs = filters.shape[1]
        of_image, of_weight = ctx.needs_input_grad[:2]
        image_grad = (
            torch.empty(image.shape, dtype=torch.float32, memory_format=torch.channels_last)
            if of_image
            else None
        )
        sums = torch.empty_like(filters) if of_weight else None  # (36, O, C)
        for part, place in _parts(image, outputs, ctx.pad):
            if sums is not None:
                part.transform_input(_nhwc(image[place]))
            part.transform_output_grad(_nhwc(grad[place]))
            if sums is not None:
                first = place.start == 0  # nothing is there yet to add to
                sums.baddbmm_(part.products.transpose(1, 2), part.tiles, beta=0 if first else 1)
            if image_grad is not None:
                torch.bmm(part.products, filters, out=part.tiles)
                part.transform_input_grad(_nhwc(image_grad[place]))
        return image_grad, None if sums is None else _filters_grad(sums), None


def _nhwc(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1)


def _transform_filters(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, O, C)."""
    outputs, channels = weight.shape[:2]
    flat = weight.detach().permute(3, 2, 0, 1).reshape(9, outputs * channels)
    return (_FILTERS @ flat).view(36, outputs, channels)


def _filters_grad(sums: Tensor) -> Tensor:
    """Gradient of `_transform_filters`: (36, O, C) -> (O, C, 3, 3)."""
    outputs, channels = sums.shape[1:]
    flat = _FILTERS.T @ sums.view(36, -1)  # (9, O * C)
    return flat.view(3, 3, outputs, channels).permute(2, 3, 1, 0)


# ------------------------------------------------------------------------------- a part of a batch


def _parts(image: Tensor, outputs: int, pad: int) -> Iterator[tuple[_Part, slice]]:
    """Parts of a batch, each with the memory that it is worked on in."""
    batch, channels, height, width = image.shape
    tiles = math.prod(_grid(height, width, pad))
    most = max(1, _CHUNK // (tiles * _TILE * max(channels, outputs)))
    many = -(-batch // -(-batch // most))  # as equal as they can be
    for start in range(0, batch, many):
        count = min(many, batch - start)
        yield _memory.part(count, channels, outputs, height, width, pad), slice(start, start + count)


class _Memory(threading.local):
    """The memory of a thread that parts are worked on in: every layer takes the same, so it stays in the cache."""

    def __init__(self) -> None:
        self._floats = torch.empty(0, dtype=torch.float32, device="cpu")
        self._known: dict[tuple[int, ...], _Part] = {}
        self._last: _Part | None = None

    def part(self, *size: int) -> _Part:
        part = self._known.get(size)
        if part is None:
            need = sum(_memory_sizes(*size))
            if need > len(self._floats) or len(self._known) >= 256:
                self._known.clear()
                with torch.inference_mode(False):  # else training could not write there after an evaluation
                    self._floats = self._floats.new_empty(max(need, len(self._floats)))
            part = self._known[size] = _Part(self._floats, *size)
        if part is not self._last:
            part.clear()
            self._last = part
        return part


_memory = _Memory()


def _memory_sizes(count: int, channels: int, outputs: int, height: int, width: int, pad: int) -> list[int]:
    """Floats of a part: three areas for steps in turn, one to add in, the planes of the image, those of a gradient."""
    rows, columns = _grid(height, width, pad)
    wide, most = rows * (columns + 1), max(channels, outputs)
    tiles, planes = 36 * rows * columns * most, 16 * (rows + 1) * (columns + 1) * channels
    areas = [24 * wide * most, max(tiles, 8 * wide * most), max(tiles, planes)]
    sizes = (*areas, 6 * wide * most, planes, 16 * rows * columns * outputs)
    return [-(-count * size // 16) * 16 for size in sizes]  # whole cache lines


class _Part:
    """The steps of a part of a batch, and all their views into memory, which are made once.

    tiles: (36, T, C), T transformed tiles of the image, or their gradient.  products: (36, T, O), or their gradient.
    """

    def __init__(
        self, floats: Tensor, count: int, channels: int, outputs: int, height: int, width: int, pad: int
    ) -> None:
        sizes = _memory_sizes(count, channels, outputs, height, width, pad)
        first, second, third, spare, padded, given = torch.split(floats[: sum(sizes)], sizes)
        n = count
        rows, columns = _grid(height, width, pad)

        def view(area: Tensor, *shape: int) -> Tensor:
            return area[: torch.Size(shape).numel()].view(shape)

        def spare_of(planes: int, columns: int, channels: int) -> Tensor:
            return view(spare, planes, n, rows, columns, channels)

        self._cleared = (padded, given)
        inner = _pixels(height, width, pad)
        outer = _pixels(_outputs(height, pad), _outputs(width, pad), 0)

        # The image's planes hold one tile more than there are on each axis: tiles of 6 overlap by 2.
        image = view(padded, 4, 4, n, rows + 1, columns + 1, channels)  # (y, x, B, rows + 1, columns + 1, C)
        half = view(first, 6, 4, n, rows, columns + 1, channels)
        tiles = view(second, 6, 6, n, rows, columns, channels)  # (places on x, on y, B, rows, columns, C)
        self._image = _Pixels(image, inner)
        self._rows = [image[y][:, :, :rows] for y in range(4)] + [image[y][:, :, 1:] for y in (0, 1)]
        self._half = half.unbind()
        self._columns = [half[:, x, :, :, :columns] for x in range(4)] + [
            half[:, x, :, :, 1:] for x in (0, 1)
        ]
        self._tiles = tiles.unbind()
        self.tiles = tiles.view(36, -1, channels)

        products = view(third, 6, 6, n, rows, columns, outputs)
        half = view(first, 4, 6, n, rows, columns, outputs)
        output = view(second, 4, 4, n, rows, columns, outputs)
        self.products = products.view(36, -1, outputs)
        self._products = products.unbind()
        self._spares = (spare_of(6, columns, outputs), spare_of(4, columns, outputs))
        self._half_output, self._half_output_rows = half.unbind(), half.unbind(1)
        self._output_rows = output.unbind()
        self._output = _Pixels(output, outer)

        grad = view(given, 4, 4, n, rows, columns, outputs)
        half = view(first, 6, 4, n, rows, columns, outputs)
        self._grad = _Pixels(grad, outer)
        self._grad_rows = grad.unbind()
        self._half_grad, self._half_grad_columns = half.unbind(), half.unbind(1)

        # Tiles of 6 are laid side by side, 4 apart: the last two of each add to the first two of the next.
        over = view(third, 2, 6, n, rows, columns, channels)
        joined = view(first, 6, 4, n, rows, columns + 1, channels)
        inside = joined[:, :, :, :, :columns].unbind(1)
        self._spread, self._spread_spare = (*inside, *over), spare_of(6, columns, channels)
        self._join_columns = (joined[:, :2, :, :, columns:], joined[:, :2, :, :, 1:].transpose(0, 1), over)
        over = view(second, 2, 4, n, rows, columns + 1, channels)
        whole = view(third, 4, 4, n, rows + 1, columns + 1, channels)
        self._joined, self._wide_spare = joined.unbind(), spare_of(4, columns + 1, channels)
        self._wide = (*whole[:, :, :, :rows], *over)
        self._join_rows = (whole[:2, :, :, rows:], whole[:2, :, :, 1:], over)
        self._whole = _Pixels(whole, inner)

    def clear(self) -> None:
        """Zero what lies outside the image and its gradient; each part writes the inside anew."""
        for area in self._cleared:
            area.zero_()

    def transform_input(self, image: Tensor) -> None:
        """(B, H, W, C) -> `tiles`."""
        self._image.take(image)
        _input_transform(self._rows, self._half)
        _input_transform(self._columns, self._tiles)

    def transform_output(self, out: Tensor) -> None:
        """`products` -> (B, H, W, O). `tiles` is lost."""
        _output_transform(self._products, self._half_output, self._spares[0])
        _output_transform(self._half_output_rows, self._output_rows, self._spares[1])
        self._output.give(out)

    def transform_output_grad(self, grad: Tensor) -> None:
        """The gradient of `transform_output`: (B, H, W, O) -> `products`. `tiles` stays."""
        self._grad.take(grad)
        _output_transform_grad(self._grad_rows, self._half_grad, self._spares[1])
        _output_transform_grad(self._half_grad_columns, self._products, self._spares[0])

    def transform_input_grad(self, grad: Tensor) -> None:
        """The gradient of `transform_input`: `tiles` -> (B, H, W, C). `products` is lost."""
        _input_transform_grad(self._tiles, self._spread, self._spread_spare)
        _join(*self._join_columns)
        _input_transform_grad(self._joined, self._wide, self._wide_spare)
        _join(*self._join_rows)
        self._whole.give(grad)


def _join(last: Tensor, next_tiles: Tensor, over: Tensor) -> None:
    last.zero_()
    next_tiles.add_(over)


# -------------------------------------------------------------------------------- pixels and planes


class _Pixels:
    """Pixels of (B, H, W, C) pictures against planes: pixel (y, x) + pad is in plane (y % 4, x % 4).

    Planes that lie in the same tiles are copied at once: 4 copies with a pad around the image, 1 without.
    """

    def __init__(self, planes: Tensor, places: Sequence[tuple[_Place, _Place]]) -> None:
        self._pairs = [(planes[y.planes, x.planes][:, :, :, y.tiles, x.tiles], y, x) for y, x in places]

    def take(self, image: Tensor) -> None:
        for planes, y, x in self._pairs:
            planes.copy_(_as_planes(image, planes.shape, y.first, x.first))

    def give(self, image: Tensor) -> None:
        for planes, y, x in self._pairs:
            _as_planes(image, planes.shape, y.first, x.first).copy_(planes)


def _as_planes(image: Tensor, shape: torch.Size, y: int, x: int) -> Tensor:
    """Pixels of (B, H, W, C) from (y, x) on as planes (y % 4, x % 4, B, rows, columns, C) of their memory."""
    batch, down, right, channel = image.stride()
    strides = (down, right, batch, _SIDE * down, _SIDE * right, channel)
    return image.as_strided(shape, strides, image.storage_offset() + y * down + x * right)


class _Place(NamedTuple):
    """Planes next to each other on an axis, whose pixels lie in the same tiles; `first` is the first one's pixel."""

    planes: slice
    first: int
    tiles: slice


def _pixels(height: int, width: int, pad: int) -> list[tuple[_Place, _Place]]:
    return list(product(_axis(height, pad), _axis(width, pad)))


def _axis(length: int, pad: int) -> list[_Place]:
    """Which pixels of an axis are in each of the four planes, and in which tiles."""
    places: list[_Place] = []
    for plane in range(_SIDE):
        first = (plane - pad) % _SIDE
        count = len(range(first, length, _SIDE))
        tile = (first + pad) // _SIDE
        tiles = slice(tile, tile + count)
        if places and places[-1].tiles == tiles:
            places[-1] = places[-1]._replace(planes=slice(places[-1].planes.start, plane + 1))
        elif count:
            places.append(_Place(slice(plane, plane + 1), first, tiles))
    return places


# ------------------------------------------------------------------------------------- four matrices
# Each transforms one axis, for all planes of the other at once; `out` is written, and `spare` is scratch. Written as
# sums, which take about as long as products with so small a matrix and need no copy of tiles that overlap.

Planes = Sequence[Tensor]


def _input_transform(d: Planes, out: Planes) -> None:
    """B^T d: 6 pixels of the input to 6 places."""
    torch.sub(d[4], d[2], alpha=5, out=out[0]).add_(d[0], alpha=4)
    torch.sub(d[4], d[2], alpha=4, out=out[1])
    torch.sub(d[3], d[1], alpha=4, out=out[5])
    torch.sub(out[1], out[5], out=out[2])
    out[1].add_(out[5])
    torch.sub(d[4], d[2], out=out[3])
    torch.sub(d[3], d[1], out=out[5])
    torch.sub(out[3], out[5], alpha=2, out=out[4])
    out[3].add_(out[5], alpha=2)
    torch.sub(d[5], d[3], alpha=5, out=out[5]).add_(d[1], alpha=4)


def _input_transform_grad(m: Planes, out: Planes, spare: Tensor) -> None:
    """B m, the gradient of `_input_transform`."""
    torch.mul(m[0], 4, out=out[0])
    out[5].copy_(m[5])
    torch.add(m[1], m[2], out=out[4])
    torch.sub(m[1], m[2], out=out[3])
    torch.sub(m[3], m[4], out=spare)
    torch.add(out[3], spare, alpha=0.5, out=out[1]).sub_(m[5]).mul_(-4)
    out[3].add_(spare, alpha=2).sub_(m[5], alpha=5)
    torch.add(m[3], m[4], out=spare)
    torch.add(out[4], spare, alpha=0.25, out=out[2]).mul_(-4).sub_(m[0], alpha=5)
    out[4].add_(m[0]).add_(spare)


def _output_transform(m: Planes, out: Planes, spare: Tensor) -> None:
    """A^T m: 6 places to 4 pixels of the output."""
    torch.add(m[1], m[2], out=out[2])
    torch.sub(m[1], m[2], out=out[3])
    torch.add(m[3], m[4], out=spare)
    torch.add(out[2], spare, out=out[0]).add_(m[0])
    out[2].add_(spare, alpha=4)
    torch.sub(m[3], m[4], out=spare)
    torch.add(out[3], spare, alpha=2, out=out[1])
    out[3].add_(spare, alpha=8).add_(m[5])


def _output_transform_grad(y: Planes, out: Planes, spare: Tensor) -> None:
    """A y, the gradient of `_output_transform`."""
    out[0].copy_(y[0])
    out[5].copy_(y[3])
    torch.add(y[0], y[2], out=out[1])
    torch.add(y[1], y[3], out=spare)
    torch.sub(out[1], spare, out=out[2])
    out[1].add_(spare)
    torch.add(y[0], y[2], alpha=4, out=out[3])
    torch.add(y[1], y[3], alpha=4, out=spare)
    torch.sub(out[3], spare, alpha=2, out=out[4])
    out[3].add_(spare, alpha=2)
