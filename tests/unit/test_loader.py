"""The loader: the same batches however they are made, and errors that name the sample."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import visloom.loader as loader_module
from tests.worlds import Jitter, Lister, Numbers
from visloom.errors import ContractError, DataError
from visloom.loader import Loader, Plan
from visloom.run import Host
from visloom.stream import Mixture, Ordered, Pair, Shuffled

CPU = torch.device("cpu")


def stream_of(kind: str, seed: int = 3):
    part = Shuffled(source=Numbers(size=11), batch=4, tail="wrap", transform=(Jitter(),))
    if kind == "shuffled":
        return Shuffled(source=Numbers(size=11), batch=4, tail="wrap", transform=(Jitter(),), seed=seed)
    if kind == "mixture":
        return Mixture(parts=(part, part), seed=seed)
    if kind == "pair":
        return Pair(source=part, target=part, seed=seed)
    return Ordered(source=Numbers(size=11), batch=4, transform=(Jitter(),), seed=seed)


def rows(stream, host: Host, start: int = 0, stop: int = 3, **plan):
    loader = Loader(Plan(stream, Lister(), seed=5, **plan), host, CPU, stop)
    return [(batch.rows, batch.key) for batch in loader.open(start)]


@pytest.mark.parametrize(("workers", "start"), [(1, "fork"), (3, "fork"), (2, "forkserver"), (2, "spawn")])
@pytest.mark.parametrize("kind", ["mixture"])
def test_the_same_batches_for_any_worker_count_and_start_method(kind, workers, start):
    stream = stream_of(kind)
    assert rows(stream, Host(workers=workers, start=start)) == rows(stream, Host(workers=0))


@pytest.mark.parametrize("kind", ["shuffled", "mixture", "pair", "ordered"])
@given(start=st.integers(0, 3), accumulate=st.sampled_from([1, 2]), world=st.sampled_from([1, 2]))
@settings(max_examples=8)
def test_the_same_batches_from_any_step_and_at_any_world_size(kind, start, accumulate, world):
    stream = stream_of(kind)
    whole = rows(stream, Host(workers=0))
    parts = [
        rows(stream, Host(workers=0), start=start, rank=r, world=world, accumulate=accumulate)
        for r in range(world)
    ]
    for step in range(start, 3):
        expected = sorted(whole[step][0])
        at = (step - start) * accumulate
        got = [row for part in parts for micro in part[at : at + accumulate] for row in micro[0]]
        assert sorted(got) == expected


def test_fork_workers_resume_at_any_step():
    stream = stream_of("pair")
    assert rows(stream, Host(workers=2), start=2, stop=6) == rows(stream, Host(workers=0), stop=6)[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_raising_sample_stops_the_run_with_its_name(workers):
    stream = Shuffled(source=Numbers(broken=7), batch=5)
    with pytest.raises(DataError, match=r"source 0 \(Numbers\), sample 7: OSError: this picture is broken"):
        rows(stream, Host(workers=workers), stop=4)


def test_a_dead_worker_stops_the_run_with_the_sample_it_was_at():
    stream = Shuffled(source=Numbers(die=7), batch=5, shuffle=False)
    with pytest.raises(DataError, match=r"died at step 1, source 0 \(Numbers\), sample 7\b.*host\.workers"):
        rows(stream, Host(workers=2), stop=4)


def test_a_hanging_worker_stops_the_run_with_the_sample_it_hangs_at():
    stream = Shuffled(source=Numbers(hang=13), batch=5, shuffle=False)
    with pytest.raises(DataError, match=r"gave no batch for 2 s; it hangs at step 2, source 0 .*sample 13\b"):
        rows(stream, Host(workers=2, timeout=2.0), stop=4)


def test_leaving_the_loop_stops_the_workers():
    import multiprocessing

    before = len(multiprocessing.active_children())
    batches = Loader(Plan(stream_of("shuffled"), Lister(), seed=0), Host(workers=2), CPU, 1000).open()
    next(batches)
    assert len(multiprocessing.active_children()) == before + 2
    batches.close()
    assert len(multiprocessing.active_children()) == before


def test_leaving_the_loop_kills_a_worker_that_hangs():
    # torch asks it to end, waits 5 seconds and then forgets it
    import multiprocessing

    stream = Shuffled(source=Numbers(hang=6), batch=5, shuffle=False)
    batches = Loader(Plan(stream, Lister(), seed=0), Host(workers=2), CPU, 4).open()
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_process_that_is_killed_while_they_start_end_too(monkeypatch):
    # torch's watch of the parent began too late to see it die, and they stayed for ever
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            begin = loader_module._begin

            def late(parent, worker):
                time.sleep(1.0)
                begin(parent, worker)

            monkeypatch.setattr(loader_module, "_begin", late)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
            rows(stream_of("shuffled"), Host(workers=2))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    raise AssertionError("the workers are still there")


def test_the_global_random_state_is_untouched_by_workers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rows(stream_of("shuffled"), Host(workers=1))
    assert torch.equal(before, torch.get_rng_state())


class Wrong(Lister):
    def collate(self, samples, key):
        return {"image": 1}


class Raising(Lister):
    def collate(self, samples, key):
        raise RuntimeError("stack expects each tensor to be equal size")


def test_a_collate_that_breaks_the_contract_is_told_so():
    stream = stream_of("ordered")
    loader = Loader(Plan(stream, Wrong(), seed=None), Host(workers=0), CPU, 1)
    with pytest.raises(
        ContractError, match=r"Wrong\.collate returned dict, expected a subclass of visloom\.task\.Batch"
    ):
        next(loader.open())
    loader = Loader(Plan(stream, Raising(), seed=None), Host(workers=0), CPU, 1)
    with pytest.raises(DataError, match=r"Raising\.collate failed on samples 'n0', 'n1', 'n2' .*equal size"):
        next(loader.open())
