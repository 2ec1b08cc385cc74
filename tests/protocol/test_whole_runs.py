"""The shapes as runs: assembled, tried out, trained, logged, evaluated, saved and reported as any recipe is.

Pictures of predictions are drawn by each task's own `draw`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.protocol.test_two_processes import SHAPES
from visloom.drive import Telling, train
from visloom.pictures import predict_one, read_at
from visloom.run import Eval, Host, Log, Optim, Run, Save
from visloom.units import Steps

STEPS = 6
LOGGED = {
    "ragged boxes": {"loss", "loss/score", "loss/box", "cells"},
    "idle heads": {"loss/weather", "loss/pixels"},  # though no step has both
    "unlabeled target": {"loss/objects", "loss/places", "loss/kinds", "loss/boxes", "loss/domain", "ramp"},
    "six cameras": {"loss"},
    "teacher": {"loss/labels", "loss/guesses", "used"},
}


def run_of(name: str, out: Path) -> Run:
    shape = SHAPES[name]
    return Run(
        name="shape",
        task=shape.spec,
        train=shape.train,
        evals={"seen": Eval(stream=shape.seen, every=Steps(4))},
        length=Steps(STEPS),
        optim=Optim(name="SGD", lr=0.05, options={"momentum": 0.9}),
        how=shape.how,
        host=Host(out=str(out), data=str(out), workers=0, threads=1, device="cpu"),
        save=Save(every=Steps(4)),
        log=Log(every=Steps(3), tensorboard=False, images=2),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_a_run_like_any_other(name, tmp_path):
    shape = SHAPES[name]
    report = train(run_of(name, tmp_path), told=Telling(screen="off"))
    assert report.step == STEPS
    metrics = {value for metric in shape.spec.metrics().values() for value in metric.names}
    assert metrics | {"loss"} <= report.values["seen"].keys()

    lines = [json.loads(line) for line in (report.directory / "log.jsonl").read_text().splitlines()]
    logged = {key for line in lines if line["kind"] == "train" for key in line["values"]}
    assert logged >= LOGGED[name]
    assert (report.directory / "report.html").stat().st_size > 1000

    picture = shape.spec.draw(*_drawn(shape, report.task))
    assert picture.size[0] >= 24


def _drawn(shape: Any, task: Any) -> tuple[Any, Any, Any]:
    sample = read_at(shape.seen, 0)
    return sample.image, predict_one(task, shape.spec, sample, torch.device("cpu")), sample
