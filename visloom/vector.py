"""Vector code for a CPU, made when it is first needed: LLVM turns a kernel into instructions of this very processor.

PyTorch runs a formula as one pass over memory per operation; a kernel runs it in one. llvmlite comes ready built for
every system that PyTorch comes for, so nobody needs a compiler, and the code is made for the vectors that the processor
has (AVX2, AVX512, NEON) in a fraction of a second, once in a process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from llvmlite import binding, ir
from torch import Tensor, nn
from torch.autograd import forward_ad

LANES = 8  # floats of a vector; LLVM cuts or joins them where the processor's are of another size

FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR, POINTER = ir.VectorType(FLOAT, LANES), FLOAT.as_pointer()

_ENGINES: list[Any] = []  # an engine that is collected takes its code along


class Builder(ir.IRBuilder):  # type: ignore[misc]
    """LLVM's builder of instructions, with loops, and vectors that lie anywhere in memory."""

    def number(self, value: int) -> Any:
        """A whole number."""
        return ir.Constant(INT, value)

    def splat(self, value: float) -> Any:
        """A vector of one number."""
        return ir.Constant(VECTOR, [float(value)] * LANES)

    def loop(
        self,
        start: Any,
        stop: Any,
        body: Callable[..., Sequence[Any] | None],
        carried: Sequence[Any] = (),
        step: int = 1,
    ) -> list[Any]:
        """`for i in range(start, stop, step): carried = body(i, *carried)`; what was carried to the end."""
        head, inside, after = (self.append_basic_block() for _ in range(3))
        before = self.block
        self.branch(head)
        self.position_at_end(head)
        i, *values = (self.phi(value.type) for value in (start, *carried))
        for phi, value in zip((i, *values), (start, *carried), strict=True):
            phi.add_incoming(value, before)
        self.cbranch(self.icmp_signed("<", i, stop), inside, after)
        self.position_at_end(inside)
        new = body(i, *values) or ()
        for phi, value in zip((i, *values), (self.add(i, self.number(step)), *new), strict=True):
            phi.add_incoming(value, self.block)
        self.branch(head)
        self.position_at_end(after)
        return values

    def everywhere(self, pointer: Any, floats: Any) -> Any:
        """A vector of the one number that lies `floats` after a pointer."""
        number = self.load(self.gep(pointer, [floats]))
        none = ir.Constant(VECTOR, ir.Undefined)
        first = self.insert_element(none, number, ir.Constant(ir.IntType(32), 0))
        return self.shuffle_vector(
            first, none, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        )

    def vector(self, pointer: Any, floats: Any) -> Any:
        """The vector that lies `floats` after a pointer."""
        vector = self.load(self._at(pointer, floats))
        vector.align = 4
        return vector

    def put(self, vector: Any, pointer: Any, floats: Any) -> None:
        """Write a vector `floats` after a pointer."""
        self.store(vector, self._at(pointer, floats)).align = 4

    def _at(self, pointer: Any, floats: Any) -> Any:
        return self.bitcast(self.gep(pointer, [floats]), VECTOR.as_pointer())

    def combined(self, factors: Sequence[float], vectors: Sequence[Any]) -> Any:
        """The sum of vectors times constants, of which one at least is not zero."""
        terms = [(factor, vector) for factor, vector in zip(factors, vectors, strict=True) if factor]
        terms.sort(key=lambda term: term[0] != 1)  # a sum begins with what is not multiplied
        factor, total = terms[0]
        if factor != 1:
            total = self.fmul(self.splat(factor), total)
        for factor, vector in terms[1:]:
            if factor == 1:
                total = self.fadd(total, vector)
            elif factor == -1:
                total = self.fsub(total, vector)
            else:
                total = self.times_plus(self.splat(factor), vector, total)
        return total

    def times_plus(self, x: Any, y: Any, z: Any) -> Any:
        """x * y + z, in one instruction where there is one ("contract" allows it)."""
        return self.fadd(self.fmul(x, y, flags=("contract",)), z, flags=("contract",))


def begin(module: ir.Module, name: str, pointers: int, numbers: int) -> tuple[Builder, list[Any], list[Any]]:
    """Begin a function as `prototype` describes it: its builder, its pointers to floats, its 64-bit integers."""
    kind = ir.FunctionType(ir.VoidType(), [*[POINTER] * pointers, *[INT] * numbers])
    function = ir.Function(module, kind, name)
    return (
        Builder(function.append_basic_block()),
        list(function.args[:pointers]),
        list(function.args[pointers:]),
    )


def compile_kernels(module: ir.Module) -> Callable[[str, Any], Callable[..., None]]:
    """Compile a module for this processor; what is returned gives a function by its name and its ctypes prototype.

    Such functions let go of the interpreter's lock while they run.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    # A kernel is written as it shall run, so LLVM only turns it into instructions: its passes over the code before that
    # would take longer than all the rest, and a training step gained nothing by them.
    target = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=2
    )
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    engine = binding.create_mcjit_compiler(parsed, target)
    engine.finalize_object()
    _ENGINES.append(engine)
    return lambda name, prototype: prototype(engine.get_function_address(name))


def readable(*tensors: Tensor) -> bool:
    """Whether kernels may work on the memory of tensors, as far as all but sizes go.

    Not where a tensor is of a class of its own (it may have no memory), where operations are recorded (compilation,
    tracing, export), or where more than a gradient is asked for (transforms of `torch.func`, forward-mode derivatives).
    """
    return (
        not torch.compiler.is_compiling()  # this first: there nothing else may be asked
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.onnx.is_in_onnx_export()
        and forward_ad._current_level < 0
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and not any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)
    )


def in_threads(work: Callable[[int, int], None], count: int) -> None:
    """`work(start, stop)` over the parts of a range, on as many threads as PyTorch computes with."""
    threads = torch.get_num_threads()
    many = min(threads, count)
    if many <= 1:
        work(0, count)
        return
    cuts = [count * part // many for part in range(many + 1)]
    others = [_pool(os.getpid(), threads).submit(work, *cut) for cut in pairwise(cuts[1:])]
    try:
        work(cuts[0], cuts[1])
    finally:
        wait(others)  # whatever happens, nobody writes to memory that its owner has given up
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of a process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="visloom-vector")


def prototype(pointers: int, numbers: int) -> Any:
    """Of a function that takes so many pointers and then so many 64-bit integers, and returns nothing."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * pointers, *[ctypes.c_int64] * numbers)
