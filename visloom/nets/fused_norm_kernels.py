"""The vector code of `visloom/nets/fused_norm.py`: maximum of 2x2, batch norm and GELU, in as few passes as they have.

Pixels lie in memory as (B, H, W, C). Every kernel goes through blocks of pictures, row by row; in a row it takes eight
channels through all pixels, so that what belongs to a channel stays in registers. Sums are in float64, as a mean far
greater than the deviation leaves nothing of them in float32, and each block has its own: they are added up in the order
of the blocks, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from torch import Tensor

from visloom.vector import LANES, VECTOR, Builder, begin, compile_kernels, in_threads, prototype

PICTURES = 8  # of a block

_INTS, _BYTES = (ir.VectorType(ir.IntType(bits), LANES) for bits in (32, 8))
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)

# Phi(-z) = exp(-z^2 / 2) * (t * polynomial of t), t = 1 / (1 + z * _RATE) for z >= 0: the form of C. Hastings
# ("Approximations for Digital Computers", 1955; Abramowitz and Stegun 7.1.26) with one term more, refitted so that the
# error of z * Phi(z) is below 2e-8 everywhere.
_RATE = 0.28
_TAIL = (0.116729092, 0.0662297419, 0.2719717672, -0.2406687612, 0.3920666054, -0.1063284563)
# 2^r for -1/2 <= r <= 1/2, to 2e-9
_POWER = (1.0, 0.69314720574, 0.2402264689, 0.055503287686, 0.009618488958, 0.0013399934625, 0.000153458206)
_ROUNDS = 1.5 * 2.0**23  # added to a float and taken off again, it leaves the nearest whole number
_LOG2_E = 1.4426950408889634
_DENSITY_AT_0 = 0.3989422804014327  # 1 / sqrt(2 pi)


class Kernel:
    """Compiled code that goes over pictures (B, C, H, W) in channels-last memory."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, shape: Sequence[int], *tensors: Tensor) -> None:
        """Run over a batch of this shape: where there is a pooled one, that is half as high and wide."""
        batch, channels, height, width = shape
        places = [tensor.data_ptr() for tensor in tensors]
        sizes = (batch, height, width, channels)
        blocks = -(-batch // PICTURES)
        in_threads(lambda start, stop: self._function(*places, start, stop, *sizes), blocks)


class Kernels(NamedTuple):
    """One for each pass, with its tensors in their order.

    Args:
        norm: (3, C) float32: what is taken off a value, what it is then multiplied with, what is added last.
        slope: GELU's derivative at the normalised value.
        which: of its four pixels was a maximum, counted row by row, uint8.
        sums: (blocks, 2, C) float64, zero before.
        line: (4, C) float32, of the gradient: what is taken off the value, factors of what is left and of
            `grad * slope`, what is added last.
        learn: of sums, (2, C) statistics and a norm; see `_write_learn`.
        turn: of sums, the gradients of a norm, and the line; see `_write_turn`.
    """

    pool_sums: Kernel  # image, pooled, which, sums of the pooled values and their squares
    sums: Kernel  # image, sums of values and squares
    gelu: Kernel  # image, norm, out
    gelu_slope: Kernel  # image, norm, out, slope
    pool_gelu: Kernel  # image, norm, out
    plain_gelu: Kernel  # image, out
    plain_gelu_slope: Kernel  # image, out, slope
    grad_sums: (
        Kernel  # image, what is taken off, slope, grad, sums of grad * slope and of that times the rest
    )
    grad: Kernel  # image, line, slope, grad, out
    pool_grad: Kernel  # pooled, line, slope, grad, which, out
    learn: Callable[..., None]
    turn: Callable[..., None]


@cache
def kernels() -> Kernels:
    """Compile all: about a second, once in a process."""
    module = ir.Module("fused_norm")
    writers = {
        "pool_sums": _Writer(_pool_sums, pointers=4, pools=True, sums=True),
        "sums": _Writer(_sums, pointers=2, sums=True),
        "gelu": _Writer(_gelu, pointers=3, constants=(1, 3)),
        "gelu_slope": _Writer(_gelu, pointers=4, constants=(1, 3)),
        "pool_gelu": _Writer(_pool_gelu, pointers=3, pools=True, constants=(1, 3)),
        "plain_gelu": _Writer(_plain_gelu, pointers=2),
        "plain_gelu_slope": _Writer(_plain_gelu, pointers=3),
        "grad_sums": _Writer(_grad_sums, pointers=5, constants=(1, 1), sums=True),
        "grad": _Writer(_grad, pointers=5, constants=(1, 4)),
        "pool_grad": _Writer(_pool_grad, pointers=6, pools=True, constants=(1, 4), fills=True),
    }
    for name, writer in writers.items():
        _write(module, name, writer)
    _write_learn(module, "learn")
    _write_turn(module, "turn")
    found = compile_kernels(module)
    passes = {
        name: Kernel(found(name, prototype(writer.pointers, numbers=6))) for name, writer in writers.items()
    }
    return Kernels(
        **passes, learn=found("learn", prototype(8, numbers=3)), turn=found("turn", prototype(6, numbers=3))
    )


class _Cell(NamedTuple):
    """Eight channels of a pixel, or of the four that one is pooled of: what the code of it knows."""

    b: Builder
    pointers: Sequence[Any]
    constants: Sequence[Any]
    sums: Sequence[Any]  # before it
    place: Any  # floats before the pixel; where it pools, in the pooled picture
    corners: Sequence[Any]  # floats before the four, in the picture that is pooled


class _Writer(NamedTuple):
    """What the loops around a kernel's pixel need to know."""

    pixel: Callable[[_Cell], Sequence[Any] | None]  # writes the code of a cell; its sums are what it returns
    pointers: int
    pools: bool = False
    constants: tuple[int, int] | None = None  # which pointer, and how many rows of channels lie there
    sums: bool = False  # to the last pointer
    fills: bool = False  # the picture at the last pointer: the last row and column are zero if they are odd


def _write(module: ir.Module, name: str, writer: _Writer) -> None:
    """Write the loops over blocks, pictures, rows and channels, and a pixel's code into them.

    Sums go forwards through the pictures, all else backwards: it begins with what the sums left in the cache, and
    leaves there what the next one begins with.
    """
    b, pointers, numbers = begin(module, name, writer.pointers, numbers=6)
    start, stop, batch, height, width, channels = numbers
    n, total = b.number, pointers[-1]
    rows, columns = (b.sdiv(size, n(2)) if writer.pools else size for size in (height, width))
    below = b.mul(width, channels)

    def cell(block: Any, place: Any, corner: Any, channel: Any) -> None:
        constants, places = [], []
        if writer.constants:
            which, many = writer.constants
            lines = [b.add(b.mul(channels, n(i)), channel) for i in range(many)]
            constants = [b.vector(pointers[which], line) for line in lines]
        if writer.sums:
            places = [b.add(b.mul(b.add(b.mul(block, n(2)), n(i)), channels), channel) for i in range(2)]
        sums = [_doubles(b, total, place) for place in places]
        left = b.add(corner, channel)
        right = b.add(left, channels)
        corners = [left, right, b.add(left, below), b.add(right, below)]
        after = writer.pixel(_Cell(b, pointers, constants, sums, b.add(place, channel), corners)) or ()
        for value, to in zip(after, places, strict=True):
            _put_doubles(b, value, total, to)

    def row(block: Any, number: Any, y: Any) -> None:
        first = b.mul(b.mul(b.add(b.mul(number, rows), y), columns), channels)
        four = b.mul(b.add(b.mul(number, height), b.mul(y, n(2))), below)

        def pixel(x: Any) -> None:
            place = b.add(first, b.mul(x, channels))
            corner = b.add(four, b.mul(b.mul(x, n(2)), channels))
            b.loop(n(0), channels, lambda channel: cell(block, place, corner, channel), step=LANES)

        b.loop(n(0), columns, pixel)
        if writer.fills:
            used = b.mul(b.mul(columns, n(2)), channels)
            for above in (four, b.add(four, below)):
                zero(b.add(above, used), b.add(above, below))

    def zero(first: Any, last: Any) -> None:
        b.loop(first, last, lambda place: b.put(b.splat(0), pointers[-1], place), step=LANES)

    def picture(block: Any, number: Any) -> None:
        b.loop(n(0), rows, lambda y: row(block, number, y))
        if writer.fills:
            first = b.mul(number, height)
            zero(b.mul(b.add(first, b.mul(rows, n(2))), below), b.mul(b.add(first, height), below))

    def turned(first: Any, last: Any, i: Any) -> Any:
        return b.sub(b.sub(b.add(first, last), n(1)), i) if not writer.sums else i

    def pictures(i: Any) -> None:
        block = turned(start, stop, i)
        first = b.mul(block, n(PICTURES))
        last = b.add(first, n(PICTURES))
        last = b.select(b.icmp_signed("<", last, batch), last, batch)
        b.loop(first, last, lambda i: picture(block, turned(first, last, i)))

    b.loop(start, stop, pictures)
    b.ret_void()


# ------------------------------------------------------------------------------- between the passes


def _write_learn(module: ir.Module, name: str) -> None:
    """Write what makes of sums the statistics of a batch, the line that normalises, and the running statistics.

    Its arguments: sums, settings (eps and momentum), weight, bias, running mean, running variance, statistics (2, C)
    float64 of mean and 1 / deviation, norm; how many blocks, channels, and values of a channel.
    """
    b, pointers, (blocks, channels, count) = begin(module, name, pointers=8, numbers=3)
    sums, settings, weight, bias, running_mean, running_variance, statistics, norm = pointers
    eps, momentum = (_everywhere(b, b.load(b.gep(_of_doubles(b, settings), [b.number(i)]))) for i in range(2))
    many = b.sitofp(count, ir.DoubleType())
    root = ir.Function(module, ir.FunctionType(_DOUBLES, [_DOUBLES]), f"llvm.sqrt.v{LANES}f64")

    def line(channel: Any) -> None:
        second, third = b.add(channel, channels), b.add(channel, b.mul(channels, b.number(2)))
        totals = _totals(b, sums, blocks, channels, channel)
        mean, square = (b.fdiv(total, _everywhere(b, many)) for total in totals)
        variance = b.fsub(square, b.fmul(mean, mean))
        variance = b.select(b.fcmp_ordered("<", variance, _double(0)), _double(0), variance)
        inverse = b.fdiv(_double(1), b.call(root, [b.fadd(variance, eps)]))
        _put_doubles(b, mean, statistics, channel)
        _put_doubles(b, inverse, statistics, second)
        unbiased = b.fmul(variance, _everywhere(b, b.fdiv(many, b.fsub(many, ir.Constant(many.type, 1)))))
        for running, new in ((running_mean, mean), (running_variance, unbiased)):
            old = b.fpext(b.vector(running, channel), _DOUBLES)
            mixed = b.fadd(b.fmul(b.fsub(_double(1), momentum), old), b.fmul(momentum, new))
            b.put(b.fptrunc(mixed, VECTOR), running, channel)
        # what a float32 lacks of the mean goes into what is added: it may be more than the deviation
        near, lacks = _near(b, mean)
        scale = b.fmul(inverse, b.fpext(b.vector(weight, channel), _DOUBLES))
        shift = b.fsub(b.fpext(b.vector(bias, channel), _DOUBLES), b.fmul(lacks, scale))
        b.put(near, norm, channel)
        b.put(b.fptrunc(scale, VECTOR), norm, second)
        b.put(b.fptrunc(shift, VECTOR), norm, third)

    b.loop(b.number(0), channels, line, step=LANES)
    b.ret_void()


def _write_turn(module: ir.Module, name: str) -> None:
    """Write what makes of sums the gradients of weight and bias, and the line of the gradient.

    That is weight / deviation * (dz - mean of dz - normalised * mean of (dz * normalised)): Ioffe and Szegedy, "Batch
    Normalization" (arXiv 1502.03167), section 3, with mean and deviation put in.

    Its arguments: sums, statistics, weight, line, gradients of weight and bias; how many blocks, channels, and values
    of a channel.
    """
    b, pointers, (blocks, channels, count) = begin(module, name, pointers=6, numbers=3)
    sums, statistics, weight, line, of_weight, of_bias = pointers
    many = _everywhere(b, b.sitofp(count, ir.DoubleType()))

    def channel_line(channel: Any) -> None:
        places = [b.add(channel, b.mul(channels, b.number(i))) for i in range(4)]
        grad, product = _totals(b, sums, blocks, channels, channel)
        mean, inverse = (_doubles(b, statistics, place) for place in places[:2])
        near, lacks = _near(b, mean)
        product = b.fmul(b.fsub(product, b.fmul(lacks, grad)), inverse)
        b.put(b.fptrunc(product, VECTOR), of_weight, channel)
        b.put(b.fptrunc(grad, VECTOR), of_bias, channel)
        scale = b.fmul(inverse, b.fpext(b.vector(weight, channel), _DOUBLES))
        slant = b.fdiv(b.fmul(b.fmul(scale, inverse), product), many)
        rest = b.fsub(b.fmul(slant, lacks), b.fdiv(b.fmul(scale, grad), many))
        b.put(near, line, places[0])
        for value, place in zip((b.fneg(slant), scale, rest), places[1:], strict=True):
            b.put(b.fptrunc(value, VECTOR), line, place)

    b.loop(b.number(0), channels, channel_line, step=LANES)
    b.ret_void()


def _totals(b: Builder, sums: Any, blocks: Any, channels: Any, channel: Any) -> list[Any]:
    """Both sums of all blocks, in their order."""

    def add(block: Any, *totals: Any) -> list[Any]:
        first = b.add(b.mul(b.mul(block, b.number(2)), channels), channel)
        places = (first, b.add(first, channels))
        return [b.fadd(total, _doubles(b, sums, place)) for total, place in zip(totals, places, strict=True)]

    return b.loop(b.number(0), blocks, add, [_double(0)] * 2)


def _near(b: Builder, value: Any) -> tuple[Any, Any]:
    """The nearest float32, and what it lacks."""
    near = b.fptrunc(value, VECTOR)
    return near, b.fsub(value, b.fpext(near, _DOUBLES))


def _double(value: float) -> Any:
    return ir.Constant(_DOUBLES, [float(value)] * LANES)


def _everywhere(b: Builder, value: Any) -> Any:
    """A vector of one float64."""
    none, ints = ir.Constant(_DOUBLES, ir.Undefined), ir.IntType(32)
    first = b.insert_element(none, value, ir.Constant(ints, 0))
    return b.shuffle_vector(first, none, ir.Constant(ir.VectorType(ints, LANES), [0] * LANES))


def _of_doubles(b: Builder, pointer: Any) -> Any:
    return b.bitcast(pointer, ir.DoubleType().as_pointer())


def _doubles(b: Builder, pointer: Any, count: Any) -> Any:
    """The vector of float64 that lies `count` of them after a pointer."""
    vector = b.load(b.bitcast(b.gep(_of_doubles(b, pointer), [count]), _DOUBLES.as_pointer()))
    vector.align = 8
    return vector


def _put_doubles(b: Builder, vector: Any, pointer: Any, count: Any) -> None:
    b.store(vector, b.bitcast(b.gep(_of_doubles(b, pointer), [count]), _DOUBLES.as_pointer())).align = 8


# ------------------------------------------------------------------------------- what is done to eight values


def _gelu(cell: _Cell) -> None:
    image, _, *outs = cell.pointers
    _put_gelu(cell, _normalised(cell, cell.b.vector(image, cell.place)), outs)


def _plain_gelu(cell: _Cell) -> None:
    image, *outs = cell.pointers
    _put_gelu(cell, cell.b.vector(image, cell.place), outs)


def _pool_gelu(cell: _Cell) -> None:
    _put_gelu(cell, _normalised(cell, _maximum(cell)[0]), cell.pointers[2:])


def _put_gelu(cell: _Cell, z: Any, outs: Sequence[Any]) -> None:
    for result, out in zip(_gelu_and_slope(cell.b, z), outs, strict=False):
        cell.b.put(result, out, cell.place)


def _sums(cell: _Cell) -> list[Any]:
    value = cell.b.vector(cell.pointers[0], cell.place)
    return _added(cell, value, value)


def _pool_sums(cell: _Cell) -> list[Any]:
    b, (_, pooled, which, _) = cell.b, cell.pointers
    largest, index = _maximum(cell)
    b.put(largest, pooled, cell.place)
    b.store(b.trunc(index, _BYTES), _bytes_at(b, which, cell.place)).align = 1
    return _added(cell, largest, largest)


def _grad_sums(cell: _Cell) -> list[Any]:
    image, _, slope, grad, _ = cell.pointers
    value, slope, grad = (cell.b.vector(pointer, cell.place) for pointer in (image, slope, grad))
    return _added(cell, cell.b.fmul(grad, slope), cell.b.fsub(value, cell.constants[0]))


def _grad(cell: _Cell) -> None:
    cell.b.put(_image_grad(cell), cell.pointers[4], cell.place)


def _pool_grad(cell: _Cell) -> None:
    b, which, out = cell.b, cell.pointers[4], cell.pointers[5]
    grad = _image_grad(cell)
    index = b.load(_bytes_at(b, which, cell.place))
    index.align = 1
    index = b.zext(index, _INTS)
    for i, corner in enumerate(cell.corners):
        of_it = b.icmp_unsigned("==", index, ir.Constant(_INTS, [i] * LANES))
        b.put(b.select(of_it, grad, b.splat(0)), out, corner)


def _image_grad(cell: _Cell) -> Any:
    """The gradient of what was normalised."""
    b, (image, _, slope, grad, *_) = cell.b, cell.pointers
    mean, of_left, of_grad, rest = cell.constants
    value, slope, grad = (b.vector(pointer, cell.place) for pointer in (image, slope, grad))
    rest = b.times_plus(of_left, b.fsub(value, mean), rest)
    return b.times_plus(of_grad, b.fmul(grad, slope), rest)


def _normalised(cell: _Cell, value: Any) -> Any:
    mean, scale, shift = cell.constants
    return cell.b.times_plus(cell.b.fsub(value, mean), scale, shift)


def _added(cell: _Cell, value: Any, factor: Any) -> list[Any]:
    """Add values to the first sums, their products with others to the second: these are exact in float64."""
    b = cell.b
    value, factor = (b.fpext(vector, _DOUBLES) for vector in (value, factor))
    return [b.fadd(cell.sums[0], value), b.times_plus(value, factor, cell.sums[1])]


def _maximum(cell: _Cell) -> tuple[Any, Any]:
    """The largest of four and which it is: the first of equal ones, but the last NaN, as PyTorch does."""
    b, values = cell.b, [cell.b.vector(cell.pointers[0], corner) for corner in cell.corners]
    largest, index = values[0], ir.Constant(_INTS, [0] * LANES)
    for i, value in enumerate(values[1:], start=1):
        takes = b.or_(b.fcmp_ordered(">", value, largest), b.fcmp_unordered("uno", value, value))
        largest = b.select(takes, value, largest)
        index = b.select(takes, ir.Constant(_INTS, [i] * LANES), index)
    return largest, index


def _gelu_and_slope(b: Builder, z: Any) -> tuple[Any, Any]:
    """z * Phi(z), of the normal distribution's Phi, and its derivative Phi(z) + z * phi(z). NaN stays NaN."""
    size = b.bitcast(b.and_(b.bitcast(z, _INTS), ir.Constant(_INTS, [0x7FFFFFFF] * LANES)), z.type)
    bell = _bell(b, z)
    t = b.fdiv(b.splat(1), b.times_plus(size, b.splat(_RATE), b.splat(1)))
    below = b.fmul(b.fmul(_polynomial(b, t, _TAIL), t), bell)  # Phi(-|z|)
    negative = b.icmp_signed("<", b.bitcast(z, _INTS), ir.Constant(_INTS, [0] * LANES))
    phi = b.select(negative, below, b.fsub(b.splat(1), below))
    return b.fmul(z, phi), b.times_plus(b.fmul(z, b.splat(_DENSITY_AT_0)), bell, phi)


def _bell(b: Builder, z: Any) -> Any:
    """exp(-z^2 / 2) = 2^-(whole + rest), without those too small to matter."""
    power = b.fmul(b.fmul(z, z), b.splat(-_LOG2_E / 2))
    power = b.select(b.fcmp_ordered(">", power, b.splat(-125)), power, b.splat(-125))
    whole = b.fadd(power, b.splat(_ROUNDS))  # the number stands in the lowest bits
    rest = b.fsub(power, b.fsub(whole, b.splat(_ROUNDS)))
    exponent = b.shl(b.bitcast(whole, _INTS), ir.Constant(_INTS, [23] * LANES))
    return b.bitcast(b.add(b.bitcast(_polynomial(b, rest, _POWER), _INTS), exponent), z.type)


def _polynomial(b: Builder, x: Any, coefficients: Sequence[float]) -> Any:
    """The lowest power's coefficient first; Horner's scheme in the square, so that half as much waits for the rest."""
    pairs = [
        b.times_plus(b.splat(pair[1]), x, b.splat(pair[0])) if len(pair) == 2 else b.splat(pair[0])
        for pair in (coefficients[i : i + 2] for i in range(0, len(coefficients), 2))
    ]
    total, square = pairs.pop(), b.fmul(x, x)
    for pair in reversed(pairs):
        total = b.times_plus(total, square, pair)
    return total


def _bytes_at(b: Builder, pointer: Any, count: Any) -> Any:
    of_bytes = b.bitcast(pointer, ir.IntType(8).as_pointer())
    return b.bitcast(b.gep(of_bytes, [count]), _BYTES.as_pointer())
