"""Two processes on gloo: each reads its half, both hold the same weights, one writes, and they leave together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.life import pair
from tests.lives import End, end_of, only, rows
from tests.places import in_memory
from tests.small import Small, SmallModule
from tests.worlds import Numbers
from visloom.assemble import assemble
from visloom.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not torch.distributed.is_gloo_available(), reason="needs fork and gloo"
)
STEPS = {"train": [4, 6, 8, 12, 16, 18, 20, 24], "eval": [5, 10, 15, 20, 24]}  # of the rows of log.jsonl


@pytest.fixture(scope="module")
def trained(server) -> Iterator[Path]:
    """The folder of a run of two processes that nothing interrupted."""
    with in_memory() as folder:
        server.start(folder, "pair", world=2)
        assert server.wait() == [0, 0], [f.read_text() for f in folder.glob("error*.txt")]
        yield folder


@pytest.fixture(scope="module")
def whole(trained) -> End:
    return end_of(only(trained))


def read_ids(out: Path, rank: int) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for line in (out / f"ids-{rank}.txt").read_text().splitlines():
        step, *ids = line.split()
        found.setdefault(int(step), []).extend(ids)
    return found


def read_all(out: Path) -> dict[int, list[str]]:
    """What all processes read at each step."""
    found: dict[int, list[str]] = {}
    for rank in range(len(list(out.glob("ids-*.txt")))):
        for step, ids in read_ids(out, rank).items():
            found.setdefault(step, []).extend(ids)
    return found


def test_the_processes_read_disjoint_halves_of_what_one_would_read(trained):
    first, second = (read_ids(trained, rank) for rank in (0, 1))
    stream = assemble(pair(trained, 0)).train
    for step in range(24):
        assert len(first[step]) == len(second[step]) == 4
        assert sorted(first[step] + second[step]) == sorted(f"n{t.index}" for t in stream.tickets(step))


def test_both_hold_the_same_weights(trained):
    ends = [torch.load(trained / f"end-{rank}.pt") for rank in (0, 1)]
    for name, value in ends[0]["state"].items():
        assert torch.equal(value, ends[1]["state"][name]), name
    assert ends[0]["values"] == ends[1]["values"]


def test_the_first_one_writes(trained):
    directory = only(trained)
    assert [p.name for p in trained.iterdir() if p.is_dir()] == [directory.name]
    for kind, steps in STEPS.items():
        assert [row["step"] for row in rows(directory, kind)] == steps


def test_an_evaluation_of_two_processes_is_that_of_one(trained):
    directory = only(trained)
    state = Checkpoints(directory / "checkpoints").load()
    task = SmallModule(Small())
    task.load_state_dict(state.tensors["ema"])
    task.eval()
    batch = Small().collate([Numbers(size=17).read(i) for i in range(17)], None)
    with torch.no_grad():
        losses, predictions = task.assess(batch)
    value = rows(directory, "eval")[-1]["values"]
    assert value["accuracy"] == float((predictions["label"] == batch.label).double().mean())
    assert value["loss"] == pytest.approx(float(losses.terms["ce"]), rel=1e-6)


def test_a_killed_pair_resumes_and_ends_like_one_that_was_not(server, place, whole):
    server.start(place, "pair", fault="kill-at:step@13", world=2)
    assert server.wait() == [-signal.SIGKILL] * 2
    server.start(place, "pair", 1, world=2)
    assert server.wait() == [0, 0]
    assert not end_of(only(place)).differs(whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_them_makes_both_leave_at_the_same_step(server, place, whole, rank):
    pids = server.start(place, "pair", world=2)
    end = time.monotonic() + 60
    while not (place / "ids-1.txt").exists():
        assert time.monotonic() < end
        time.sleep(0.001)
    os.kill(pids[rank], signal.SIGTERM)
    assert server.wait() == [75, 75]
    told = [(place / f"error{r}.txt").read_text() for r in (0, 1)]
    assert "SIGTERM received" in told[rank] and "a signal to another process received" in told[1 - rank]
    assert len({text.partition(": saved at ")[2] for text in told}) == 1
    server.start(place, "pair", world=2)
    assert server.wait() == [0, 0]
    assert not end_of(only(place)).differs(whole)


def test_a_loss_that_is_not_finite_on_one_of_them_stops_both(server, place):
    server.start(place, "broken_pair", world=2)
    assert server.wait() == [5, 5]
    told = [(place / f"error{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert "n9" in (only(place) / "nonfinite.json").read_text()


def test_both_go_back_to_the_same_checkpoint_although_it_is_still_being_written(server, place):
    server.start(place, "returning_pair", world=2, fault="slow-write:0.02")
    assert server.wait() == [0, 0], [f.read_text() for f in place.glob("error*.txt")]
    ends = [torch.load(place / f"end-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(value, ends[1]["state"][name]) for name, value in ends[0]["state"].items())
    state = Checkpoints(only(place) / "checkpoints").load()
    assert state.step == 12 and state.data["skipped"] == [5, 11] and state.data["ledger"]["rollbacks"] == 2
    taken = [list(read_ids(place, rank)) for rank in (0, 1)]
    assert taken[0] == taken[1]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_with_the_same_data_and_promises_no_bits(
    server, place, trained, before, after
):
    server.start(place, "pair", fault="kill-at:step@13", world=before)
    assert server.wait() == [-signal.SIGKILL] * before
    first = read_all(place)
    for file in place.glob("ids-*.txt"):
        file.unlink()
    server.start(place, "pair", world=after)
    assert server.wait() == [0] * after, [f.read_text() for f in place.glob("error*.txt")]
    second, directory = read_all(place), only(place)
    assert (min(first), max(first), min(second), max(second)) == (0, 12, 10, 23)
    assert len(list(place.glob("ids-*.txt"))) == after
    stream = assemble(pair(place, 0)).train
    for step in range(24):
        ids = (first if step < 10 else second)[step]
        assert sorted(ids) == sorted(f"n{t.index}" for t in stream.tickets(step))
    assert f"identical bits are not promised: world size: {before} -> {after}" in (
        directory / "log.txt"
    ).read_text().replace("\n", " ")
    end = end_of(directory)
    assert end.step == 24 and end.tensors.keys() == end_of(only(trained)).tensors.keys()
    for kind in ("train", "eval"):
        assert [row["step"] for row in rows(directory, kind)] == STEPS[kind]
    for found, expected in zip(rows(directory, "train"), rows(only(trained), "train"), strict=True):
        # other dropout and norms of other parts, but no sum that is lost
        assert found["values"]["loss"] == pytest.approx(expected["values"]["loss"], rel=0.25)


def test_bad_input_ends_both_and_leaves_no_directory(server, place):
    server.start(place, "odd_batch", world=2)
    assert server.wait() == [3, 3]
    assert "which 2 process(es) x 1 micro-batch(es) do not divide" in (place / "error1.txt").read_text()
    assert not [p for p in place.iterdir() if p.is_dir()]
