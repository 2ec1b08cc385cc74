"""Parsing in 1 and 2 processes and after a kill: the same sources in the same order, the weights of one process.

Heads that no sample of a step is labelled for rest on every process; batch norm takes the statistics of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from tests.distributed.test_one_from_many import close
from tests.lives import OFF, Crash, crash_at, end_of, only, rows
from tests.parsing import HEADS, NET, Labelled, mixture
from tests.protocol.shapes import engine_of
from tests.ranks import can_fork, spread
from visloom.drive import resume, train
from visloom.run import Eval, Host, How, Log, Optim, Run, Save
from visloom.stream import Ordered
from visloom.tasks.parse import Parse
from visloom.units import Steps

STEPS = 4
# so narrow a network with batch norm on a few pixels multiplies rounding a thousandfold from step to step: small steps
SGD = Optim(name="SGD", lr=1e-5, weight_decay=1e-3, options={"momentum": 0.9})


@dataclass(frozen=True, kw_only=True)
class Exact(Parse):
    """In float64, so that what is left of the order of sums stays far below the tolerance."""

    def build(self) -> Any:
        return super().build().double()


def watched() -> dict[str, Any]:
    """Train some steps: sources, heads, losses, gradients at each update, and the state at the end."""
    spec = Exact(net=NET, heads=HEADS[:4], sides=(64, 96), short=32)
    engine = engine_of(spec, mixture(mixed=True), STEPS, how=How(precision="fp32", sync_norm=True), optim=SGD)
    forward, update, seen, gradients = engine.task.forward, engine.optimizer.step, [], []

    def reading(batch: Any) -> Any:
        seen.append(
            (batch.source.tolist(), batch.heads, batch.sizes, sorted(batch.ids), batch.image.shape[1:3])
        )
        return forward(batch)

    def stepping() -> None:
        named = engine.task.named_parameters()
        gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in named})
        update()

    engine.task.forward, engine.optimizer.step = reading, stepping  # type: ignore[method-assign]
    losses = [{name: float(value) for name, value in step.losses.items()} for step in engine.steps()]
    state = {name: value.clone() for name, value in engine.task.state_dict().items()}
    return {"seen": seen, "losses": losses, "gradients": gradients, "state": state}


@cache
def lives(world: int) -> list[dict[str, Any]]:
    return spread(world, watched)


@can_fork
def test_two_processes_see_the_sources_of_one():
    (alone,), both = lives(1), lives(2)
    for step in range(STEPS):
        sources, heads, sizes, ids, room = alone["seen"][step]
        shares = [life["seen"][step] for life in both]
        assert {share[4] for share in shares} == {room}  # padded to the largest picture of all processes
        assert {share[1] for share in shares} == {heads}
        assert {size for share in shares for size in share[2]} == set(sizes)
        assert sorted(shares[0][3] + shares[1][3]) == ids and len(ids) == 4
        assert shares[0][0] + shares[1][0] == sources
    assert len({seen[1] for seen in alone["seen"]}) == 2  # both sources came
    rooms = [{max(size[1] for size in life["seen"][step][2]) for life in both} for step in range(STEPS)]
    assert any(
        len(widths) == 2 for widths in rooms
    )  # the largest picture of one process is not that of the other


@can_fork
def test_two_processes_with_idle_heads_are_one():
    (alone,) = lives(1)
    idle = [{name for name, g in each.items() if g is None} for each in alone["gradients"]]
    assert all(idle) and len({frozenset(names) for names in idle}) == 2
    for life in lives(2):
        for found, expected in zip(life["gradients"], alone["gradients"], strict=True):
            close(found, expected)
        close(life["state"], alone["state"])  # running statistics are among it
    for step in range(STEPS):
        one, two = (life["losses"][step] for life in lives(2))
        assert {n: (one[n] + two[n]) / 2 for n in one} == pytest.approx(alone["losses"][step], rel=1e-6)


def run(out: Any) -> Run:
    return Run(
        name="parse",
        task=Parse(net=NET, heads=HEADS[:4], sides=(32,), short=32),
        train=mixture(batch=2),
        evals={"seen": Eval(stream=Ordered(source=Labelled(samples=3), batch=2), every=Steps(5))},
        length=Steps(9),
        optim=SGD,
        how=How(precision="fp32"),
        host=Host(out=str(out), workers=0, threads=1, device="cpu"),
        save=Save(every=Steps(4)),
        log=Log(every=Steps(2), tensorboard=False, report=False, images=0),
    )


def test_a_run_that_was_killed_draws_the_same_sources_and_ends_with_the_same_bits(tmp_path):
    whole = train(run(tmp_path / "whole"), told=OFF).directory
    with pytest.raises(Crash):
        train(run(tmp_path / "killed"), drive=crash_at(6), told=OFF)
    killed = only(tmp_path / "killed")
    resume(killed, told=OFF, trust=True)
    assert end_of(killed) == end_of(whole)
    counts = [row["drawn"] for row in rows(killed, "train")]
    assert counts == [row["drawn"] for row in rows(whole, "train")]
    assert counts[-1].keys() == {"objects", "materials"} and sum(counts[-1].values()) == 9
    assert all(counts[-1].values())
    assert torch.isfinite(torch.tensor([row["values"]["loss"] for row in rows(whole, "train")])).all()
