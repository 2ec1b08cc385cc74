"""The shapes in two real processes: the weights of one, where nothing but the order of sums differs.

Each process trains every shape for a few steps on its half of the data, then evaluates with the other. Losses that go
through `dist.normaliser` and draws that belong to their picture give what one process computes; statistics of batch
norm are those of half a batch, so the two shapes with batch norm must only agree with each other.
"""

from __future__ import annotations

import multiprocessing
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.protocol import shapes, test_ema_teacher, test_idle_heads, test_ragged_boxes, test_six_cameras
from tests.protocol import test_unlabeled_target as adapt
from visloom import dist
from visloom.run import How, Optim
from visloom.stream import Ordered, Stream
from visloom.task import TaskSpec

PLAIN = How(precision="fp32")
STEPS = 4


class Shape(NamedTuple):
    spec: TaskSpec
    train: Stream
    seen: Ordered
    how: How = PLAIN


SHAPES = {
    "ragged boxes": Shape(test_ragged_boxes.FindUpright(), test_ragged_boxes.TRAIN, test_ragged_boxes.SEEN),
    "idle heads": Shape(test_idle_heads.SPEC, test_idle_heads.TRAIN, test_idle_heads.SEEN["pixels"]),
    "unlabeled target": Shape(adapt.SPEC, adapt.TRAIN, adapt.SEEN),
    "six cameras": Shape(test_six_cameras.SPEC, test_six_cameras.TRAIN, test_six_cameras.SEEN),
    "teacher": Shape(
        test_ema_teacher.SPEC, test_ema_teacher.TRAIN, test_ema_teacher.SEEN, test_ema_teacher.HOW
    ),
}
EXACT = ("ragged boxes", "idle heads", "unlabeled target")


def live(shape: Shape, lr: float = 0.05) -> dict[str, Any]:
    """Train a shape for some steps in this process's place, and evaluate it."""
    optim = Optim(name="SGD", lr=lr, options={"momentum": 0.9})
    engine = shapes.engine_of(shape.spec, shape.train, STEPS, how=shape.how, optim=optim)
    losses = shapes.train(engine)
    values = shapes.evaluation(shape.spec, engine, shape.seen)
    weights = {name: value.detach().clone() for name, value in engine.task.state_dict().items()}
    return {"losses": losses, "weights": weights, "values": values.values, "count": values.count}


def process(rank: int | None, folder: Path, made: dict[str, Shape], lr: float) -> None:
    """What one of the two processes does, or the one that is alone."""
    if rank is None:
        torch.save({name: live(shape, lr) for name, shape in made.items()}, folder / "alone.pt")
        return
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=300)
    )
    torch.save({name: live(shape, lr) for name, shape in made.items()}, folder / f"{rank}.pt")
    dist.stop()


def lived(folder: Path, made: dict[str, Shape], lr: float = 0.05) -> list[dict[str, Any]]:
    """What one process found, and what each of two found."""
    if not sys.platform.startswith("linux"):
        pytest.skip("processes are forked here")
    fork = multiprocessing.get_context("fork")  # the threads of a library that counts do not outlive a fork
    every = [fork.Process(target=process, args=(rank, folder, made, lr)) for rank in (None, 0, 1)]
    for each in every:
        each.start()
    for each in every:
        each.join(600)  # seconds, where they cannot end by themselves
        if each.exitcode is None:
            each.kill()
    assert [each.exitcode for each in every] == [0, 0, 0]
    return [torch.load(folder / f"{name}.pt") for name in ("alone", "0", "1")]


@pytest.fixture(scope="module")
def lives(tmp_path_factory) -> list[dict[str, Any]]:
    return lived(tmp_path_factory.mktemp("two"), SHAPES)


def agree(first: dict[str, Any], second: dict[str, Any], count: int) -> None:
    """Two processes hold the same weights, and found the same in an evaluation of so many samples."""
    for key, value in first["weights"].items():
        if "running" not in key:  # each keeps the statistics of its own half
            assert torch.equal(value, second["weights"][key]), key
    assert first["values"] == pytest.approx(second["values"], rel=0, abs=0, nan_ok=True)
    assert first["count"] == count


def compute_the_same(alone: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Losses, weights and metrics of two processes are those of one, but for the order of sums."""
    for step, (one, two) in enumerate(zip(first["losses"], second["losses"], strict=True)):
        mean = {term: (one[term] + two[term]) / 2 for term in one}
        assert mean == pytest.approx(alone["losses"][step], rel=1e-4, abs=1e-6)
    for key, value in alone["weights"].items():
        assert torch.allclose(value, first["weights"][key], atol=1e-5), key
    metrics = {key for key in alone["values"] if not key.startswith("loss")}
    assert {key: first["values"][key] for key in metrics} == pytest.approx(
        {key: alone["values"][key] for key in metrics}, rel=1e-6, nan_ok=True
    )


@pytest.mark.parametrize("name", SHAPES)
def test_two_processes_agree(name, lives):
    _, first, second = (each[name] for each in lives)
    agree(first, second, len(SHAPES[name].seen.source))


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_compute_what_one_computes(name, lives):
    compute_the_same(*(each[name] for each in lives))
