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
_CHUNK = 3_000_000  # bytes of tiles and products at a time: what is between two steps stays in the cache
_LEAST_TILES = 64  # at a time all the same: the filters are read for each
_MOST = 64_000_000  # bytes of tiles of one picture
_DEEP = 128  # rows of two matrices at a time that are summed over: a column of both stays in the first cache
_ROWS, _WIDE = 6, 16  # of a block of a product: with two of what it is made of, it fills 16 registers

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
        image, kernels = _nhwc(image), _kernels()
        outputs, channels = weight.shape[:2]
        ctx.save_for_backward(image, weight)
        ctx.pad = pad
        filters = torch.empty(
            (36, channels * outputs), dtype=torch.float32
        )  # panels of (C, 16), see `_panels`
        kernels.filters(_nhwc(weight.transpose(0, 1)), filters, channels)
        grid = _grid(*image.shape[2:], pad)
        out = _empty(len(image), outputs, *(_outputs(length, pad) for length in image.shape[2:]))
        for part, tiles, products in _parts(len(image), channels, outputs, grid):
            kernels.tiles(image[part], tiles, tiles.stride(1), pad, grid)
            kernels.multiply(tiles, filters, products, channels, outputs)
            kernels.outputs(out[part], products, products.stride(1), 0, grid)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        kernels, pad = _kernels(), ctx.pad
        outputs, channels = weight.shape[:2]
        of_image, of_weight = ctx.needs_input_grad[:2]
        grad, grid = _nhwc(grad), _grid(*image.shape[2:], pad)
        filters = image_grad = weight_grad = sums = None
        if of_image:
            filters = torch.empty((36, outputs * channels), dtype=torch.float32)  # panels of (O, 16)
            kernels.filters(_nhwc(weight), filters, outputs)
            image_grad = _empty(*image.shape)
        if of_weight:
            sums = torch.zeros((36, outputs, channels), dtype=torch.float32)
        for part, tiles, products in _parts(len(image), channels, outputs, grid):
            kernels.outputs_grad(grad[part], products, products.stride(1), 0, grid)
            if sums is not None:
                kernels.tiles(image[part], tiles, tiles.stride(1), pad, grid)
                kernels.add_products(products, tiles, sums, (part.stop - part.start) * math.prod(grid))
            if image_grad is not None:
                kernels.multiply(products, filters, tiles, outputs, channels)
                kernels.tiles_grad(image_grad[part], tiles, tiles.stride(1), pad, grid)
        if sums is not None:
            weight_grad = _empty(outputs, channels, 3, 3)
            kernels.filters_grad(weight_grad, sums, channels)
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
    squares = math.prod(grid)
    many = max(1, _CHUNK // (squares * _TILE * (channels + outputs)), _LEAST_TILES // squares)
    many = -(-batch // -(-batch // many))  # as equal as they can be
    for start in range(0, batch, many):
        stop = min(start + many, batch)
        rows = -(-(stop - start) * squares // _ROWS) * _ROWS  # whole blocks: the last ones hold anything
        sizes = [36 * rows * _row(length) for length in (channels, outputs)]
        tiles, products = _memory.floats(sum(sizes)).split(sizes)
        yield (
            slice(start, stop),
            tiles.view(36, rows, -1)[:, :, :channels],
            products.view(36, rows, -1)[:, :, :outputs],
        )


def _row(channels: int) -> int:
    """Floats from one row of channels to the next: an odd number of cache lines, so that columns fill all the cache."""
    return (-(-channels // 16) | 1) * 16


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


# Pixels lie in the image, tiles in planes: the 36 matrices (T, C) of all tiles' first numbers, of their second, ...


class _Kernels(NamedTuple):
    """Compiled code; addresses of tensors are told, and their sizes.

    A transform has a matrix M on both sides, M x M^T: of squares of pixels to planes, or of planes to squares of
    pixels. Squares are 4 pixels apart, so larger ones overlap; what lies outside the image is read as zero and not
    written.
    """

    tiles: _Transform
    tiles_grad: _Transform
    filters: _Transform
    filters_grad: _Transform
    outputs: _Transform
    outputs_grad: _Transform
    multiply_rows: Callable[..., None]
    multiply_columns: Callable[..., None]

    def multiply(self, a: Tensor, b: Tensor, out: Tensor, inner: int, outer: int) -> None:
        """36 products: (T, inner) by (inner, outer) in panels gives (T, outer)."""
        sizes = (
            a.shape[1],
            inner,
            outer,
            a.stride(1),
            out.stride(1),
            a.stride(0),
            b.stride(0),
            out.stride(0),
        )
        places = (a.data_ptr(), b.data_ptr(), out.data_ptr())
        in_threads(lambda start, stop: self.multiply_rows(*places, start, stop, *sizes), 36)

    def add_products(self, a: Tensor, b: Tensor, sums: Tensor, tiles: int) -> None:
        """36 products: of (T, O) turned and (T, C) are added to (O, C), of as many tiles as there are."""
        outer = (a.shape[2], b.shape[2])
        sizes = (tiles, *outer, a.stride(1), b.stride(1), a.stride(0), b.stride(0), sums.stride(0))
        places = (a.data_ptr(), b.data_ptr(), sums.data_ptr())
        in_threads(lambda start, stop: self.multiply_columns(*places, start, stop, *sizes), 36)


class _Transform:
    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(
        self, image: Tensor, planes: Tensor, row: int, pad: int = 0, grid: tuple[int, int] = (1, 1)
    ) -> None:
        """Read one and write the other.

        Args:
            image: (B, C, H, W) in channels-last memory.
            planes: 36 with B * rows * columns tiles each.
            row: floats from one tile to the next; in panels, how many tiles.
            pad: how far above and left of the image the first square begins.
            grid: rows and columns of squares.
        """
        places = (image.data_ptr(), planes.data_ptr())
        channels, height, width = image.shape[1:]
        sizes = (height, width, channels, *grid, pad, planes.stride(0), row)
        in_threads(lambda start, stop: self._function(*places, start, stop, *sizes), len(image))


@cache
def _kernels() -> _Kernels:
    """Compile them all; a second or two, once in a process."""
    bt, g, at = _turned(_BT), _turned(_G), _turned(_AT)
    module = ir.Module("winograd")
    _write_transform(module, "tiles", _BT, reads_pixels=True)
    _write_transform(module, "tiles_grad", bt, reads_pixels=False, adds=True)
    _write_transform(module, "filters", _G, reads_pixels=True, panels=True)
    _write_transform(module, "filters_grad", g, reads_pixels=False)
    _write_transform(module, "outputs", _AT, reads_pixels=False)
    _write_transform(module, "outputs_grad", at, reads_pixels=True)
    _write_rows(module, "multiply_rows")
    _write_columns(module, "multiply_columns")
    found = compile_kernels(module)
    return _Kernels(
        *(_Transform(found(name, prototype(pointers=2, numbers=10))) for name in _Kernels._fields[:6]),
        *(found(name, prototype(pointers=3, numbers=10)) for name in _Kernels._fields[6:]),
    )


Matrix = Sequence[Sequence[float]]


def _turned(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix))


def _write_transform(
    module: ir.Module, name: str, matrix: Matrix, reads_pixels: bool, adds: bool = False, panels: bool = False
) -> None:
    """Write the code of a transform.

    Args:
        matrix: M.
        reads_pixels: of pixels to planes rather than the other way round.
        adds: squares that overlap are added up; the image is set to zero before.
        panels: a plane is cut into panels of 16 channels, (C // 16, T, 16), as `_write_rows` reads them.
    """
    after, before = len(matrix), len(matrix[0])
    side = before if reads_pixels else after
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, *[INT] * 10]), name)
    image, planes, start, stop, height, width, channels, rows, columns, pad, stride, row = function.args
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
        """Eight channels of a square and of its tile."""
        channel = b.mul(line, b.number(LANES))
        if panels:
            panel, within = b.and_(channel, b.number(-_WIDE)), b.and_(channel, b.number(_WIDE - 1))
            left = b.sub(channels, panel)  # the last panel may be of eight
            wide = b.select(b.icmp_signed("<", left, b.number(_WIDE)), left, b.number(_WIDE))
            place = b.add(b.add(b.mul(panel, row), b.mul(tile, wide)), within)
        else:
            place = b.add(b.mul(tile, row), channel)

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
            tile = b.add(b.mul(b.add(b.mul(number, rows), y), columns), x)
            b.loop(b.number(0), lines, lambda line: transform(tile, line))

        b.loop(b.number(0), rows, lambda y: b.loop(b.number(0), columns, lambda x: square(y, x)))

    b.loop(start, stop, picture)
    b.ret_void()


def _write_rows(module: ir.Module, name: str) -> None:
    """Write the code of `_Kernels.multiply`: rows of A by panels of B, in blocks of 6 x 16 that stay in registers."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*[POINTER] * 3, *[INT] * 10]), name)
    a, b, out, start, stop, rows, inner, outer, a_row, out_row, a_plane, b_plane, out_plane = function.args
    out.add_attribute("noalias")
    code = Builder(function.append_basic_block())
    n = code.number

    def block(first: Any, panel: Any, to: Any, vectors: int) -> None:
        lines = [code.gep(first, [code.mul(a_row, n(i))]) for i in range(_ROWS)]

        def terms(p: Any, *sums: Any) -> list[Any]:
            total = list(sums)
            for q in range(LANES):
                at = code.add(p, n(q))
                right = [
                    code.vector(panel, code.add(code.mul(at, n(vectors * LANES)), n(j * LANES)))
                    for j in range(vectors)
                ]
                total = _outer_product(code, [code.everywhere(line, at) for line in lines], right, total)
            return total

        zeros = [code.splat(0)] * (_ROWS * vectors)
        sums = code.loop(n(0), inner, terms, zeros, step=LANES)
        for i in range(_ROWS):
            for j in range(vectors):
                code.put(sums[i * vectors + j], to, code.add(code.mul(out_row, n(i)), n(j * LANES)))

    def panel(k: Any, column: Any, vectors: int) -> None:
        here = code.gep(b, [code.add(code.mul(k, b_plane), code.mul(column, inner))])

        def down(row: Any) -> None:
            first = code.gep(a, [code.add(code.mul(k, a_plane), code.mul(row, a_row))])
            to = code.gep(out, [code.add(code.add(code.mul(k, out_plane), code.mul(row, out_row)), column)])
            block(first, here, to, vectors)

        code.loop(n(0), rows, down, step=_ROWS)

    def plane(k: Any) -> None:
        whole = code.and_(outer, n(-_WIDE))
        code.loop(n(0), whole, lambda column: panel(k, column, 2), step=_WIDE)
        code.loop(whole, outer, lambda column: panel(k, column, 1), step=LANES)

    code.loop(start, stop, plane)
    code.ret_void()


def _write_columns(module: ir.Module, name: str) -> None:
    """Write the code of `_Kernels.add_products`: columns of A by columns of B, in blocks of 6 x 16."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*[POINTER] * 3, *[INT] * 10]), name)
    a, b, out, start, stop, rows, outer, width, a_row, b_row, a_plane, b_plane, out_plane = function.args
    out.add_attribute("noalias")
    code = Builder(function.append_basic_block())
    n = code.number

    def block(k: Any, rows: tuple[Any, Any], down: Any, across: Any, high: int, vectors: int) -> None:
        left = code.gep(a, [code.add(code.mul(k, a_plane), down)])
        above = code.gep(b, [code.add(code.mul(k, b_plane), across)])
        to = code.gep(out, [code.add(code.add(code.mul(k, out_plane), code.mul(down, width)), across)])
        places = [code.add(code.mul(width, n(i)), n(j * LANES)) for i in range(high) for j in range(vectors)]

        def terms(p: Any, *sums: Any) -> list[Any]:
            x, y = code.mul(p, a_row), code.mul(p, b_row)
            right = [code.vector(above, code.add(y, n(j * LANES))) for j in range(vectors)]
            return _outer_product(
                code, [code.everywhere(left, code.add(x, n(i))) for i in range(high)], right, sums
            )

        sums = code.loop(*rows, terms, [code.vector(to, place) for place in places])
        for value, place in zip(sums, places, strict=True):
            code.put(value, to, place)

    def column(k: Any, rows: tuple[Any, Any], across: Any, vectors: int) -> None:
        whole = code.mul(code.sdiv(outer, n(_ROWS)), n(_ROWS))
        code.loop(n(0), whole, lambda down: block(k, rows, down, across, _ROWS, vectors), step=_ROWS)
        # what is left of a multiple of eight is 0, 2 or 4
        code.loop(whole, outer, lambda down: block(k, rows, down, across, 2, vectors), step=2)

    def some_rows(k: Any, first: Any) -> None:
        last = code.add(first, n(_DEEP))
        some = first, code.select(code.icmp_signed("<", last, rows), last, rows)
        whole = code.and_(width, n(-_WIDE))
        code.loop(n(0), whole, lambda across: column(k, some, across, 2), step=_WIDE)
        code.loop(whole, width, lambda across: column(k, some, across, 1), step=LANES)

    code.loop(
        start, stop, lambda k: code.loop(n(0), rows, lambda first: some_rows(k, first), step=_DEEP) and None
    )
    code.ret_void()


def _outer_product(
    code: Builder, left: Sequence[Any], right: Sequence[Any], sums: Sequence[Any]
) -> list[Any]:
    """Sums, each with the product of a number of `left` and a vector of `right` added."""
    pairs = [(x, y) for x in left for y in right]
    return [
        code.fadd(total, code.fmul(x, y, flags=("contract",)), flags=("contract",))
        for total, (x, y) in zip(sums, pairs, strict=True)
    ]
