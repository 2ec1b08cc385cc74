"""3x3 convolutions in fp32 on a CPU with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3).

A 6x6 tile of the input and a filter are transformed to where their convolution is a product of 36 numbers each; a tile
gives 4x4 outputs, which cost 144 products otherwise. Summed over channels these are 36 matrix products. The
gradients of input and filter are the same steps transposed, so they cost a quarter too.

Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), whose matrices B,
G and A stand below; cuDNN multiplies fp32 the same way. Everything here is NHWC, eight channels to a vector
(`visloom/vector.py`); PyTorch multiplies the 36 products.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from visloom.vector import FLOAT, INT, LANES, POINTER, Builder, compile_kernels, in_threads, prototype

_SIDE = 4  # of a tile's outputs, in pixels
_TILE = 36 * 4  # bytes of a tile of one channel
_LEAST_CHANNELS = 24  # below, transforming the tiles costs what the products save
_CHUNK = 12_000_000  # bytes of tiles and products at a time: what is between two steps stays in the cache
_LEAST_TILES = 64  # at a time all the same: the filters are read for each
_MOST = 64_000_000  # bytes of tiles of one picture

# The matrices of the source: a tile d gives B^T d B, a filter g gives G g G^T, products m give A^T m A.
_BT = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
_G = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
_AT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


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
    return tiles >= max(32, 8192 // channels) and waste <= 3.2 / (1 + 40 / channels)


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
        image, weight = _nhwc(image), _nhwc(weight)
        outputs, channels = weight.shape[:2]
        filters = torch.empty((36, outputs, channels), dtype=torch.float32)
        _kernels().filters(weight, filters, 0, (1, 1))
        ctx.save_for_backward(image, filters)
        ctx.pad = pad
        height, width = (_outputs(length, pad) for length in image.shape[2:])
        grid = _grid(*image.shape[2:], pad)
        out = _empty(len(image), outputs, height, width)
        turned = filters.transpose(1, 2)  # (36, C, O)
        for part, tiles, products in _parts(len(image), channels, outputs, grid):
            _kernels().tiles(image[part], tiles, pad, grid)
            torch.bmm(tiles, turned, out=products)
            _kernels().outputs(out[part], products, 0, grid)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, filters = ctx.saved_tensors
        outputs, channels = filters.shape[1:]
        of_image, of_weight = ctx.needs_input_grad[:2]
        grad, grid = _nhwc(grad), _grid(*image.shape[2:], ctx.pad)
        image_grad = _empty(*image.shape) if of_image else None
        sums = torch.empty_like(filters) if of_weight else None  # (36, O, C)
        for part, tiles, products in _parts(len(image), channels, outputs, grid):
            _kernels().outputs_grad(grad[part], products, 0, grid)
            if sums is not None:
                _kernels().tiles(image[part], tiles, ctx.pad, grid)
                # nothing is there yet to add the first to
                sums.baddbmm_(products.transpose(1, 2), tiles, beta=0 if part.start == 0 else 1)
            if image_grad is not None:
                torch.bmm(products, filters, out=tiles)
                _kernels().tiles_grad(image_grad[part], tiles, ctx.pad, grid)
        if sums is None:
            return image_grad, None, None
        weight_grad = _empty(outputs, channels, 3, 3)
        _kernels().filters_grad(weight_grad, sums, 0, (1, 1))
        return image_grad, weight_grad, None


def _nhwc(image: Tensor) -> Tensor:
    return image.detach().contiguous(memory_format=torch.channels_last)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last)


# ------------------------------------------------------------------------------- a part of a batch


def _parts(
    batch: int, channels: int, outputs: int, grid: tuple[int, int]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Parts of a batch, each with the memory for its tiles (36, T, C) and their products (36, T, O)."""
    tiles = math.prod(grid)
    many = max(1, _CHUNK // (tiles * _TILE * (channels + outputs)), _LEAST_TILES // tiles)
    many = -(-batch // -(-batch // many))  # as equal as they can be
    for start in range(0, batch, many):
        count = min(many, batch - start) * tiles
        floats = _memory.floats(36 * count * (channels + outputs))
        first, second = floats.split((36 * count * channels, 36 * count * outputs))
        yield (
            slice(start, start + many),
            first.view(36, count, channels),
            second.view(36, count, outputs),
        )


class _Memory(threading.local):
    """The memory of a thread that parts are worked on in: every layer takes the same, so it stays in the cache."""

    def __init__(self) -> None:
        self._floats = torch.empty(0, dtype=torch.float32, device="cpu")

    def floats(self, count: int) -> Tensor:
        if len(self._floats) < count:
            with torch.inference_mode(False):  # else training could not write there after an evaluation
                self._floats = self._floats.new_empty(count)
        return self._floats[:count]


_memory = _Memory()


# ----------------------------------------------------------------------------------------- kernels


class _Kernel:
    """A matrix M on both sides, M x M^T: of squares of pixels to planes, or of planes to squares of pixels.

    Squares are 4 pixels apart, so larger ones overlap; what lies outside the image is read as zero and not written.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, image: Tensor, planes: Tensor, pad: int, grid: tuple[int, int]) -> None:
        """Read one and write the other.

        Args:
            image: (B, C, H, W) in channels-last memory.
            planes: (36, B * rows * columns, C).
            pad: how far above and left of the image the first square begins.
            grid: rows and columns of squares.
        """
        pixels, out = image.data_ptr(), planes.data_ptr()
        channels, height, width = image.shape[1:]

        def work(start: int, stop: int) -> None:
            self._function(pixels, out, start, stop, height, width, channels, *grid, pad, planes.stride(0))

        in_threads(work, len(image))


class _Kernels(NamedTuple):
    tiles: _Kernel
    tiles_grad: _Kernel
    filters: _Kernel
    filters_grad: _Kernel
    outputs: _Kernel
    outputs_grad: _Kernel


@cache
def _kernels() -> _Kernels:
    """Compile the six of them; a second or less, once in a process."""
    b, g, a = _turned(_BT), _turned(_G), _turned(_AT)
    module = ir.Module("winograd")
    _write(module, "tiles", _BT, reads_pixels=True)
    _write(module, "tiles_grad", b, reads_pixels=False, adds=True)
    _write(module, "filters", _G, reads_pixels=True)
    _write(module, "filters_grad", g, reads_pixels=False)
    _write(module, "outputs", _AT, reads_pixels=False)
    _write(module, "outputs_grad", a, reads_pixels=True)
    found, kind = compile_kernels(module), prototype(pointers=2, numbers=9)
    return _Kernels(*(_Kernel(found(name, kind)) for name in _Kernels._fields))


Matrix = Sequence[Sequence[float]]


def _turned(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix))


def _write(module: ir.Module, name: str, matrix: Matrix, reads_pixels: bool, adds: bool = False) -> None:
    """Write the code of a kernel.

    Args:
        matrix: M.
        reads_pixels: of pixels to planes rather than the other way round.
        adds: squares that overlap are added up; the image is zero before.
    """
    after, before = len(matrix), len(matrix[0])
    side = before if reads_pixels else after
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, *[INT] * 9]), name)
    image, planes, start, stop, height, width, channels, rows, columns, pad, stride = function.args
    for pointer in (image, planes):
        pointer.add_attribute("noalias")
    b = Builder(function.append_basic_block())
    outside = b.alloca(FLOAT, channels)  # the pixel that stands for all outside the image
    corners = b.alloca(POINTER, side * side)  # where the pixels of a square lie
    lines = b.sdiv(channels, b.number(LANES))
    b.loop(b.number(0), lines, lambda line: b.put(b.splat(0), outside, b.mul(line, b.number(LANES))))
    row_size = b.mul(width, channels)
    size = b.mul(height, row_size)

    def find_pixels(first: Any, y: Any, x: Any) -> None:
        """Of the square in row y and column x."""
        top, left = (b.sub(b.mul(place, b.number(_SIDE)), pad) for place in (y, x))
        across = [b.add(left, b.number(j)) for j in range(side)]
        for i in range(side):
            down = b.add(top, b.number(i))
            for j in range(side):
                inside = b.and_(
                    b.icmp_unsigned("<", down, height), b.icmp_unsigned("<", across[j], width)
                )  # unsigned: less than zero is more than anything
                place = b.add(b.mul(down, row_size), b.mul(across[j], channels))
                pixel = b.select(inside, b.gep(first, [place]), outside)
                b.store(pixel, b.gep(corners, [b.number(i * side + j)]))

    def transform(tile: Any, line: Any) -> None:
        """Eight channels of a square, and of a tile that is `tile` floats into each plane."""
        channel = b.mul(line, b.number(LANES))
        place = b.add(tile, channel)

        def pixel(i: int, j: int) -> tuple[Any, Any]:
            return b.load(b.gep(corners, [b.number(i * side + j)])), channel

        def plane(i: int, j: int, width: int) -> tuple[Any, Any]:
            return planes, b.add(b.mul(b.number(i * width + j), stride), place)

        columns_done: list[list[Any]] = []
        for j in range(before):
            column = [
                b.vector(*(pixel(i, j) if reads_pixels else plane(i, j, before))) for i in range(before)
            ]
            columns_done.append([b.combined(row, column) for row in matrix])
        for i in range(after):
            line_done = [column[i] for column in columns_done]
            for j in range(after):
                value, to = (
                    b.combined(matrix[j], line_done),
                    plane(i, j, after) if reads_pixels else pixel(i, j),
                )
                b.put(b.fadd(value, b.vector(*to)) if adds else value, *to)

    def picture(number: Any) -> None:
        first = b.gep(image, [b.mul(number, size)])
        if adds:
            vectors = b.sdiv(size, b.number(LANES))
            b.loop(b.number(0), vectors, lambda v: b.put(b.splat(0), first, b.mul(v, b.number(LANES))))

        def square(y: Any, x: Any) -> None:
            find_pixels(first, y, x)
            count = b.add(b.mul(b.add(b.mul(number, rows), y), columns), x)
            tile = b.mul(count, channels)
            b.loop(b.number(0), lines, lambda line: transform(tile, line))

        b.loop(b.number(0), rows, lambda y: b.loop(b.number(0), columns, lambda x: square(y, x)))

    b.loop(start, stop, picture)
    b.ret_void()
