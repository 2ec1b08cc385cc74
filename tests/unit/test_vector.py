"""Vector code made at run time: sums of vectors, loops that carry values, and work shared among threads."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir

from visloom.vector import INT, LANES, POINTER, Builder, compile_kernels, in_threads, prototype


def test_a_kernel_computes_on_tensors():
    """out = 3 a - b + 0.5 c summed over rows: `combined`, `vector`, `put`, and a loop that carries a sum."""
    module = ir.Module("test")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, INT]), "rows")
    rows, out, count = function.args
    b = Builder(function.append_basic_block())

    def add(row, total):
        at = b.mul(row, b.number(3 * LANES))
        vectors = [b.vector(rows, b.add(at, b.number(i * LANES))) for i in range(3)]
        return [b.fadd(total, b.combined((3, -1, 0.5), vectors))]

    (total,) = b.loop(b.number(0), count, add, [b.splat(0)])
    b.put(total, out, b.number(0))
    b.put(b.everywhere(rows, b.number(5)), out, b.number(LANES))
    b.ret_void()
    code = compile_kernels(module)("rows", prototype(pointers=2, numbers=1))
    data, result = torch.randn(7, 3, LANES), torch.empty(2, LANES)
    code(data.data_ptr(), result.data_ptr(), 7)
    a, second, c = data.unbind(1)
    assert torch.allclose(result[0], (3 * a - second + 0.5 * c).sum(0), atol=1e-5)
    assert torch.equal(result[1], data[0, 0, 5].expand(LANES))
    code(data.data_ptr(), result.data_ptr(), 0)  # a loop of no turns gives what it began with
    assert torch.equal(result[0], torch.zeros(LANES))


@given(count=st.integers(1, 40), threads=st.integers(1, 7))
def test_threads_share_a_range_without_gap_or_overlap(count: int, threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    lock, done = threading.Lock(), []
    try:

        def work(start: int, stop: int) -> None:
            with lock:
                done.extend(range(start, stop))

        in_threads(work, count)
    finally:
        torch.set_num_threads(before)
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize("half", [0, 4])
def test_an_error_in_a_thread_is_raised_when_all_have_ended(half: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    ended = threading.Event()

    def work(start: int, stop: int) -> None:
        if start == half:
            raise ValueError("a half")
        time.sleep(0.05)
        ended.set()

    with pytest.raises(ValueError, match="a half"):
        in_threads(work, 8)
    assert ended.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    in_threads(lambda start, stop: None, 8)  # the parent's are there
    child = os.fork()
    if child == 0:
        seen: list[int] = []
        in_threads(lambda start, stop: seen.append(stop), 8)
        os._exit(0 if sorted(seen) == [4, 8] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
