"""1, 2 and 4 processes on gloo: samples, gradients and evaluations are those of one; nothing is sent needlessly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch

from tests.distributed.keyed import Keyed, KeyedModule, Places, seen, stream
from tests.protocol.shapes import engine_of, evaluation
from tests.ranks import can_fork, spread
from visloom.errors import DataError
from visloom.evaluation import Deal
from visloom.module import TaskModule
from visloom.run import How, Optim
from visloom.task import Batch, Losses

pytestmark = can_fork
STEPS = 3
EXACT = How(precision="fp32", sync_norm=True)
SGD = Optim(name="SGD", lr=0.05, options={"momentum": 0.9})


def watched(spec: Keyed, how: How = EXACT, steps: int = STEPS) -> dict[str, Any]:
    """Train some steps; what each read, its gradients at each update, its buffers and an evaluation at the end."""
    engine = engine_of(spec, stream(), steps, how=how, optim=SGD)
    forward, update, ids, gradients = engine.task.forward, engine.optimizer.step, [[]], []

    def reading(batch: Any) -> Any:
        ids[-1] += [(name, float(x.sum())) for name, x in zip(batch.ids, batch.x, strict=True)]
        return forward(batch)

    def stepping() -> None:
        named = engine.task.named_parameters()
        gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in named})
        ids.append([])
        update()

    engine.task.forward, engine.optimizer.step = reading, stepping  # type: ignore[method-assign]
    losses = [{name: float(value) for name, value in step.losses.items()} for step in engine.steps()]
    engine.task.forward = forward  # type: ignore[method-assign]
    found = evaluation(spec, engine, seen())
    return {
        "ids": ids[:-1],
        "gradients": gradients,
        "losses": losses,
        "state": {name: value.clone() for name, value in engine.task.state_dict().items()},
        "values": found.values,
        "records": found.records,
    }


@cache
def lives(world: int, heads: int = 1, accumulate: int = 1) -> list[dict[str, Any]]:
    how = How(precision="fp32", sync_norm=True, accumulate=accumulate)
    return spread(world, lambda: watched(Keyed(heads=heads), how))


def digest(lives: list[dict[str, Any]], step: int) -> str:
    """The hash of the samples of one step, pictures included, over all processes."""
    everyone = sorted(row for life in lives for row in life["ids"][step])
    return hashlib.sha256(repr(everyone).encode()).hexdigest()


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
            continue
        scale = max(1.0, float(value.abs().max()))
        assert float((found[name] - value).abs().max()) <= 1e-6 * scale, name


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_the_same_samples_at_every_step(world):
    for step in range(STEPS):
        assert digest(lives(world), step) == digest(lives(1), step)
        parts = [{name for name, _ in life["ids"][step]} for life in lives(world)]
        assert sum(len(part) for part in parts) == len(set().union(*parts)) == 8


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_the_gradients_of_one_process(world):
    (alone,) = lives(1)
    for life in lives(world):
        for found, expected in zip(life["gradients"], alone["gradients"], strict=True):
            close(found, expected)
        close(life["state"], alone["state"])  # running statistics are among it


@pytest.mark.parametrize(("heads", "accumulate"), [(3, 1), (2, 2)])
def test_idle_parameters_rest_as_in_one_process(heads, accumulate):
    """Accumulation: a head may be used in one micro-batch only, and not in the one that exchanges."""
    (alone,) = lives(1, heads, accumulate)
    idle = [{name for name, g in each.items() if g is None} for each in alone["gradients"]]
    assert any(idle) and len({frozenset(names) for names in idle}) > 1
    if accumulate == 1:
        assert all(len(names) == 2 * (heads - 1) for names in idle)
    for life in lives(2, heads, accumulate):
        for found, expected in zip(life["gradients"], alone["gradients"], strict=True):
            close(found, expected)


# ----------------------------------------------------------------------------------------------------- evaluation


def assessed(batch: int, size: int) -> dict[str, Any]:
    """An evaluation of a network whose weights and statistics are those of the seed."""
    engine = engine_of(Keyed(), stream(), 1, how=EXACT, optim=SGD)
    found = evaluation(Keyed(), engine, seen(batch, size))
    return {"values": found.values, "records": found.records, "count": found.count, "tables": found.tables}


@pytest.mark.parametrize(("batch", "size"), [(4, 19), (8, 8), (3, 9)])
def test_an_evaluation_is_the_same_to_the_last_bit(batch, size):
    """Also where some processes get no batch at all."""
    (alone,) = spread(1, partial(assessed, batch, size))
    assert alone["count"] == size and len(alone["records"]) == size
    for world in (2, 3):
        assert all(life == alone for life in spread(world, partial(assessed, batch, size)))


def misdealt(how: str) -> str:
    """What an evaluation says when batches are dealt out wrongly."""
    short = property(lambda deal: max(0, len(range(deal.rank, len(deal.stream), deal.world)) - 1))
    change = (
        {"steps_per_epoch": short} if how == "lost" else {"place": lambda deal, step: deal.world - 1 + step}
    )
    for name, instead in change.items():
        setattr(Deal, name, instead)
    with pytest.raises(DataError) as caught:
        evaluation(Keyed(), engine_of(Keyed(), stream(), 1, optim=SGD), seen())
    return str(caught.value)


@pytest.mark.parametrize(("how", "told"), [("lost", "has 19 samples and 12 came"), ("twice", "share the id")])
def test_a_sample_that_is_lost_or_seen_twice_is_noticed_by_all(how, told):
    for said in spread(2, partial(misdealt, how)):
        assert told in said


# ------------------------------------------------------------------------------------------------------ exchanges


def exchanged(accumulate: int) -> dict[str, int]:
    """Collectives of one training step, counted by torch's profiler, by name."""
    engine = engine_of(
        Plain(), stream(batch=16), 3, how=How(precision="fp32", accumulate=accumulate), optim=SGD
    )
    steps = engine.steps()
    next(steps)
    next(steps)  # DDP has rebuilt its buckets
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        next(steps)
    return {e.key: e.count for e in profile.key_averages() if e.key.startswith("gloo:")}


@dataclass(frozen=True)
class Plain(Keyed):
    """Keyed without a global normaliser: only DDP exchanges anything."""

    def build(self) -> TaskModule:
        return PlainModule(self)


class PlainModule(KeyedModule):
    def forward(self, batch: Batch) -> Losses:
        assert isinstance(batch, Places)
        loss = self.logits(batch).square().mean()
        return Losses({"ce": loss}, {}, torch.tensor(1.0))


def test_micro_batches_but_the_last_exchange_nothing():
    once, four = (spread(2, partial(exchanged, micro)) for micro in (1, 4))
    assert once[0] == once[1] == four[0] == four[1]
    assert once[0]["gloo:all_reduce"] == 1  # one bucket holds so small a network
