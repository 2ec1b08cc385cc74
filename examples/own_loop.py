"""A loop of your own: `visloom train examples/own_loop.py` finds `drive` here and hands it the opened run.

    visloom train examples/own_loop.py

`turns(launch)` trains, logs, saves and evaluates as the run says, and hands back each step: anything you want every N
steps is a statement in the body of the `for`. To change the rest as well, copy the body of `turns` from
visloom/drive.py. Run directory, resume, signals, logging and the report stay as they are.
"""

from __future__ import annotations

import json

from own_model import own_model

from visloom import Run, change, due, turns
from visloom.launch import Launch


def own_loop() -> Run:
    """The run of own_model.py."""
    return change(own_model(), {"name": "own-loop"})


def drive(launch: Launch) -> None:
    """Write the norm of every weight matrix to a file, every ten steps and at the end."""
    for step in turns(launch):
        if due(10, step.index, launch.plans.total):
            matrices = {name: p.detach() for name, p in launch.task.named_parameters() if p.ndim > 1}
            norms = {name: float(p.norm()) for name, p in matrices.items()}
            with (launch.directory.path / "norms.jsonl").open("a") as file:
                file.write(json.dumps({"step": step.index, **norms}) + "\n")
