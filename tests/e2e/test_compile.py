"""torch.compile: a compiled run trains, evaluates and resumes, and its checkpoint is that of the plain task."""

from __future__ import annotations

import shutil

import pytest

from tests.lives import OFF, Crash, crash_at, end_of, only, rows
from tests.small import Small, SmallModule, small_run
from visloom.checkpoint import Checkpoints
from visloom.drive import drive, resume, train
from visloom.run import How, Save
from visloom.units import Steps

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler here",
)


def test_a_compiled_run_trains_evaluates_and_resumes(tmp_path):
    def run(name):
        return small_run(
            tmp_path / name,
            how=How(precision="fp32", compile=True),
            length=Steps(6),
            save=Save(every=Steps(3)),
        )

    calls = []

    def loop(launch):
        calls.append(type(launch.engine.wrapped.call).__name__)
        drive(launch)

    directory = train(run("a"), drive=loop, told=OFF).directory
    assert calls == ["OptimizedModule"]
    (row,) = rows(directory, "eval")
    assert set(row["values"]) == {"accuracy", "loss"}
    state = Checkpoints(directory / "checkpoints").load()
    assert state.tensors["model"].keys() == SmallModule(Small()).state_dict().keys()
    assert not [name for part in state.tensors.values() for name in part if "_orig_mod" in name]

    with pytest.raises(Crash):
        train(run("b"), drive=crash_at(4), told=OFF)
    resume(only(tmp_path / "b"), trust=True, told=OFF)
    assert not end_of(only(tmp_path / "b")).differs(end_of(directory))
