"""The vector code of Winograd's convolutions (`visloom/winograd.py`): six transforms and two products of matrices.

Pixels lie in an image, (B, H, W, C); tiles in planes: one matrix (T, C) for each place in a tile. A transform has a
matrix M on both sides, M x M^T, and goes from squares of pixels to planes or from planes to squares of pixels. Squares
are as far apart as a tile has outputs on a side, so larger ones overlap; what lies outside the image is read as zero
and not written.

Transforms wait for memory: eight channels of a tile are read, transformed in registers, and written once. Products are
summed in blocks of 6 x 16 that fill the registers of AVX2; PyTorch's matrix products (MKL) copy their arguments first,
which shows with so few channels (`benchmarks/winograd.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from torch import Tensor

from visloom.vector import FLOAT, LANES, POINTER, Builder, begin, compile_kernels, in_threads, prototype

ROWS = 6  # of a block of a product
_WIDE = 16  # columns of one: with two vectors and a number of what is multiplied, it takes 15 registers
_DEEP = 128  # rows of two matrices at a time that are summed over: a column of both stays in the first cache

Matrix = Sequence[Sequence[float]]


class Method(NamedTuple):
    """F(side x side, 3x3): a tile d gives B^T d B, a filter g gives G g G^T, their products m give A^T m A."""

    side: int  # of a tile's outputs, in pixels
    bt: Matrix
    g: Matrix
    at: Matrix

    @property
    def places(self) -> int:
        """Numbers of a tile, and products for its outputs."""
        return (self.side + 2) ** 2


# The matrices of the source.
METHODS = (
    Method(
        4,
        bt=((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
        g=((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
           (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
        at=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
    Method(
        2,
        bt=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        g=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        at=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    Method(
        3,
        bt=((2, -1, -2, 1, 0), (0, -2, -1, 1, 0), (0, 2, -3, 1, 0), (0, -1, 0, 1, 0), (0, 2, -1, -2, 1)),
        g=((1 / 2, 0, 0), (-1 / 2, -1 / 2, -1 / 2), (-1 / 6, 1 / 6, -1 / 6), (1 / 6, 1 / 3, 2 / 3), (0, 0, 1)),
        at=((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1)),
    ),
    Method(
        6,
        bt=((1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0), (0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0),
            (0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0), (0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0),
            (0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0), (0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0),
            (0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0), (0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1)),
        g=((1, 0, 0), (-2 / 9, -2 / 9, -2 / 9), (-2 / 9, 2 / 9, -2 / 9), (1 / 90, 1 / 45, 2 / 45),
           (1 / 90, -1 / 45, 2 / 45), (32 / 45, 16 / 45, 8 / 45), (32 / 45, -16 / 45, 8 / 45), (0, 0, 1)),
        at=((1, 1, 1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 1 / 2, -1 / 2, 0), (0, 1, 1, 4, 4, 1 / 4, 1 / 4, 0),
            (0, 1, -1, 8, -8, 1 / 8, -1 / 8, 0), (0, 1, 1, 16, 16, 1 / 16, 1 / 16, 0),
            (0, 1, -1, 32, -32, 1 / 32, -1 / 32, 1)),
    ),
)  # fmt: skip


class Kernels(NamedTuple):
    """Compiled code; each call tells it where tensors lie and their sizes."""

    tiles: Transform
    tiles_grad: Transform
    filters: Transform
    filters_grad: Transform
    outputs: Transform
    outputs_grad: Transform
    multiply_rows: Callable[..., None]
    multiply_columns: Callable[..., None]

    def multiply(self, a: Tensor, b: Tensor, out: Tensor, inner: int, outer: int) -> None:
        """At each place, (T, inner) by (inner, outer) in panels gives (T, outer)."""
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
        in_threads(lambda start, stop: self.multiply_rows(*places, start, stop, *sizes), len(a))

    def add_products(self, a: Tensor, b: Tensor, sums: Tensor, tiles: int) -> None:
        """At each place, (T, O) turned by (T, C) is added to (O, C), for the first `tiles` of T."""
        outer = (a.shape[2], b.shape[2])
        sizes = (tiles, *outer, a.stride(1), b.stride(1), a.stride(0), b.stride(0), sums.stride(0))
        places = (a.data_ptr(), b.data_ptr(), sums.data_ptr())
        in_threads(lambda start, stop: self.multiply_columns(*places, start, stop, *sizes), len(a))


class Transform:
    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(
        self, image: Tensor, planes: Tensor, row: int, pad: int = 0, grid: tuple[int, int] = (1, 1)
    ) -> None:
        """Read one and write the other.

        Args:
            image: (B, C, H, W) in channels-last memory.
            planes: one for each place, with B * rows * columns tiles.
            row: floats from one tile to the next; in panels, how many tiles.
            pad: how far above and left of the image the first square begins.
            grid: rows and columns of squares.
        """
        places = (image.data_ptr(), planes.data_ptr())
        channels, height, width = image.shape[1:]
        sizes = (height, width, channels, *grid, pad, planes.stride(0), row)
        in_threads(lambda start, stop: self._function(*places, start, stop, *sizes), len(image))


@cache
def kernels(method: Method) -> Kernels:
    """Compile those of a method: half a second, once in a process."""
    module = ir.Module("winograd")
    apart, bt, g, at = method
    _write_transform(module, "tiles", bt, apart, reads_pixels=True)
    _write_transform(module, "tiles_grad", _turned(bt), apart, reads_pixels=False, adds=True)
    _write_transform(module, "filters", g, apart, reads_pixels=True, panels=True)
    _write_transform(module, "filters_grad", _turned(g), apart, reads_pixels=False)
    _write_transform(module, "outputs", at, apart, reads_pixels=False)
    _write_transform(module, "outputs_grad", _turned(at), apart, reads_pixels=True)
    found = compile_kernels(module)
    transforms = [Transform(found(name, prototype(pointers=2, numbers=10))) for name in Kernels._fields[:6]]
    return Kernels._make((*transforms, *_products()))


@cache
def _products() -> tuple[Callable[..., None], Callable[..., None]]:
    """`multiply_rows` and `multiply_columns`, which are the same for every method."""
    module = ir.Module("products")
    _write_rows(module, "rows")
    _write_columns(module, "columns")
    found, kind = compile_kernels(module), prototype(pointers=3, numbers=10)
    return found("rows", kind), found("columns", kind)


def _turned(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix))


def _write_transform(
    module: ir.Module,
    name: str,
    matrix: Matrix,
    apart: int,
    reads_pixels: bool,
    adds: bool = False,
    panels: bool = False,
) -> None:
    """Write the code of a transform.

    Args:
        matrix: M.
        apart: pixels from one square to the next.
        reads_pixels: of pixels to planes rather than the other way round.
        adds: squares that overlap are added up; the image is set to zero before.
        panels: a plane is cut into panels of 16 channels, (C // 16, T, 16), as `_write_rows` reads them.
    """
    after, before = len(matrix), len(matrix[0])
    side = before if reads_pixels else after
    b, (image, planes), numbers = begin(module, name, pointers=2, numbers=10)
    start, stop, height, width, channels, rows, columns, pad, stride, row = numbers
    for pointer in (image, planes):
        pointer.add_attribute("noalias")
    outside = b.alloca(FLOAT, channels)  # the pixel that stands for all outside the image
    corners = b.alloca(POINTER, side * side)  # where the pixels of a square lie
    lines = b.sdiv(channels, b.number(LANES))
    b.loop(b.number(0), lines, lambda line: b.put(b.splat(0), outside, b.mul(line, b.number(LANES))))
    row_size = b.mul(width, channels)
    size = b.mul(height, row_size)

    def find_pixels(first: Any, y: Any, x: Any) -> None:
        """Of the square in row y and column x."""
        top, left = (b.sub(b.mul(place, b.number(apart)), pad) for place in (y, x))
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
    """Write the code of `Kernels.multiply`: rows of A by panels of B, in blocks of 6 x 16 that stay in registers."""
    code, (a, b, out), numbers = begin(module, name, pointers=3, numbers=10)
    start, stop, rows, inner, outer, a_row, out_row, a_plane, b_plane, out_plane = numbers
    out.add_attribute("noalias")
    n = code.number

    def block(first: Any, panel: Any, to: Any, vectors: int) -> None:
        lines = [code.gep(first, [code.mul(a_row, n(i))]) for i in range(ROWS)]

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

        zeros = [code.splat(0)] * (ROWS * vectors)
        sums = code.loop(n(0), inner, terms, zeros, step=LANES)
        for i in range(ROWS):
            for j in range(vectors):
                code.put(sums[i * vectors + j], to, code.add(code.mul(out_row, n(i)), n(j * LANES)))

    def panel(k: Any, column: Any, vectors: int) -> None:
        here = code.gep(b, [code.add(code.mul(k, b_plane), code.mul(column, inner))])

        def down(row: Any) -> None:
            first = code.gep(a, [code.add(code.mul(k, a_plane), code.mul(row, a_row))])
            to = code.gep(out, [code.add(code.add(code.mul(k, out_plane), code.mul(row, out_row)), column)])
            block(first, here, to, vectors)

        code.loop(n(0), rows, down, step=ROWS)

    def plane(k: Any) -> None:
        whole = code.and_(outer, n(-_WIDE))
        code.loop(n(0), whole, lambda column: panel(k, column, 2), step=_WIDE)
        code.loop(whole, outer, lambda column: panel(k, column, 1), step=LANES)

    code.loop(start, stop, plane)
    code.ret_void()


def _write_columns(module: ir.Module, name: str) -> None:
    """Write the code of `Kernels.add_products`: columns of A by columns of B, in blocks of 6 x 16."""
    code, (a, b, out), numbers = begin(module, name, pointers=3, numbers=10)
    start, stop, rows, outer, width, a_row, b_row, a_plane, b_plane, out_plane = numbers
    out.add_attribute("noalias")
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
        whole = code.mul(code.sdiv(outer, n(ROWS)), n(ROWS))
        code.loop(n(0), whole, lambda down: block(k, rows, down, across, ROWS, vectors), step=ROWS)
        # what is left of a multiple of eight is 0, 2 or 4
        code.loop(whole, outer, lambda down: block(k, rows, down, across, 2, vectors), step=2)

    def some_rows(k: Any, first: Any) -> None:
        last = code.add(first, n(_DEEP))
        some = first, code.select(code.icmp_signed("<", last, rows), last, rows)
        whole = code.and_(width, n(-_WIDE))
        code.loop(n(0), whole, lambda across: column(k, some, across, 2), step=_WIDE)
        code.loop(whole, width, lambda across: column(k, some, across, 1), step=LANES)

    code.loop(start, stop, lambda k: code.loop(n(0), rows, lambda first: some_rows(k, first), step=_DEEP))
    code.ret_void()


def _outer_product(
    code: Builder, left: Sequence[Any], right: Sequence[Any], sums: Sequence[Any]
) -> list[Any]:
    """Sums, each with the product of a number of `left` and a vector of `right` added."""
    pairs = [(x, y) for x in left for y in right]
    return [code.times_plus(x, y, total) for total, (x, y) in zip(sums, pairs, strict=True)]
