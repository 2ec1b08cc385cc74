"""A loop of your own: `visloom train examples/own_loop.py` finds `drive` here and hands it the opened run.

    visloom train examples/own_loop.py

Anything you want every N steps is a statement in the body of the `for`. Run directory, resume, signals, logging and
the report stay as they are.
"""

from __future__ import annotations

import json

from own_model import own_model

from visloom import Run, change, due
from visloom.launch import Launch


def own_loop() -> Run:
    """The run of own_model.py."""
    return change(own_model(), {"name": "own-loop"})


def drive(launch: Launch) -> None:
    """The canonical loop of visloom/drive.py, and one thing more."""
    for name in launch.catch_up():
        launch.evaluate(name)
    for step in launch.engine.steps():
        launch.after(step)
        if due(10, step.index, launch.plans.total):  # every 10 steps, and at the end
            norms = {
                name: float(p.detach().norm()) for name, p in launch.task.named_parameters() if p.ndim > 1
            }
            with (launch.directory.path / "norms.jsonl").open("a") as file:
                file.write(json.dumps({"step": step.index, **norms}) + "\n")
        if launch.log_due(step.index):
            launch.log(step)
        if launch.save_due(step.index):
            launch.save()
        for name in launch.evals_due(step.index):
            launch.evaluate(name)
