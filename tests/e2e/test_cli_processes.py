"""The command line as processes: signals, several processes, a recipe's own loop, proving resume."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

import visloom
from tests.tiny import make_recipe
from visloom import faults
from visloom.cli import main
from visloom.log import read

ROOT = Path(visloom.__file__).parents[1]
LONG = ("length=steps:100000", "save.every=steps:20", "log.every=steps:5", "evals.val.every=steps:100000")


_fork = get_context("forkserver")
_fork.set_forkserver_preload(["visloom.drive", "visloom.tasks.classify.module", "visloom.data.folder", "cv2"])


class Started:
    """`visloom WORDS` in a session of its own, forked from a process that has imported torch already.

    What it says goes to cwd/said.txt.
    """

    def __init__(self, *words, cwd, fault=""):
        self.process = _fork.Process(target=_live, args=([*map(str, words)], str(cwd), fault))
        self.process.start()

    def wait(self, seconds=120):
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the process did not end"
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.process.pid, number)


def _live(words, cwd, fault):
    """The life of the process."""
    os.setsid()
    os.chdir(cwd)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults.arm(fault)
    sys.exit(main(words))


def visit(*words, cwd, seconds=120):
    """Run `visloom WORDS` to its end; returns its exit code and what it said."""
    code = Started(*words, cwd=cwd).wait(seconds)
    return code, (cwd / "said.txt").read_text()


def until(condition, process, seconds=120.0):
    """Wait for a condition while a process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def rows(run):
    return read(run / "log.jsonl", strict=False) if (run / "log.jsonl").exists() else []


@pytest.fixture(scope="module")
def world(module_path):
    return make_recipe(module_path)


# ------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_and_exits_75_and_resume_goes_on(world, tmp_path, processes):
    words = ["--out", tmp_path / "runs"] + (["--nproc", "2"] if processes == 2 else [])
    process = Started("train", world, *LONG, *words, cwd=tmp_path)
    run = tmp_path / "runs" / "tiny-001"
    until(lambda: rows(run), process)
    if processes == 1:
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.process.pid, signal.SIGINT)  # Ctrl-C in a terminal reaches the whole group, once
    assert process.wait(60) == 75
    said = (tmp_path / "said.txt").read_text().splitlines()
    name = "SIGTERM" if processes == 1 else "SIGINT"
    assert said[-1].startswith(f"stopped: {name} received: saved at step ")
    assert said[-1].endswith(f"visloom resume {run}")
    step = int(said[-1].partition("saved at step ")[2].partition(".")[0])
    assert json.loads((run / "provenance.json").read_text())["execution"]["world_size"] == processes
    code, _ = visit("resume", run, f"length=steps:{step + 1}", cwd=tmp_path)
    assert code == 0 and rows(run)[-1]["step"] == step + 1


def test_the_second_ctrl_c_leaves_at_once_with_130(world, tmp_path):
    process = Started("train", world, *LONG, "--out", tmp_path / "runs", cwd=tmp_path, fault="slow-write:2")
    run = tmp_path / "runs" / "tiny-001"
    until(lambda: rows(run), process)
    process.send_signal(signal.SIGINT)
    until(lambda: list((run / "checkpoints").glob(".tmp-*")), process)  # it saves, slowly
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert (tmp_path / "said.txt").read_text().splitlines()[-1] == "interrupted"


def test_one_message_from_several_processes(world, tmp_path):
    code, said = visit("train", world, "train.batch=5", "--nproc", "2", cwd=tmp_path)
    assert code == 3
    assert said.count("choose a batch that is a multiple of 2") == 1 and "Traceback" not in said


# ------------------------------------------------------------------------------------------------- a loop of one's own

OWN = '''\
"""A recipe with a loop of its own, which counts its steps in a file."""
from pathlib import Path
from visloom import Run, load
from visloom.drive import drive as canonical

def {name}() -> Run:
    return load({recipe!r})

def drive(launch) -> None:
    marks = launch.directory.path / "marks.txt"
    for step in launch.engine.steps():
        launch.after(step)
        with marks.open("a") as file:
            file.write(f"{{step.index}}\\n")
        if {fail}:
            {{}}["no such key"]
        if launch.save_due(step.index):
            launch.save()
'''


def own(folder, world, name="own_loop", fail="False"):
    file = folder / f"{name}.py"
    file.write_text(OWN.format(name=name, recipe=str(world), fail=fail))
    return file


def marks(run):
    return [int(line) for line in (run / "marks.txt").read_text().split()]


def test_a_recipes_own_loop_trains_and_resumes_when_it_is_trusted(world, tmp_path):
    file = own(tmp_path, world)
    code, said = visit("train", file, "--out", "runs", "length=steps:4", cwd=tmp_path)
    assert code == 0, said
    run = tmp_path / "runs" / "tiny-001"
    assert marks(run) == [1, 2, 3, 4]
    assert (run / "recipe" / file.name).read_text() == file.read_text()
    code, said = visit("resume", run, "length=steps:6", cwd=tmp_path)
    assert code == 3 and str(file) in said and "--trust" in said
    assert marks(run) == [1, 2, 3, 4]
    file.unlink()  # the copy in the run directory takes over
    code, said = visit("resume", run, "length=steps:6", "--trust", cwd=tmp_path)
    assert code == 0 and marks(run) == [1, 2, 3, 4, 5, 6]
    assert "is not there any more" in said


def test_a_failure_of_ones_own_loop_names_its_line_and_is_in_the_log(world, tmp_path):
    file = own(tmp_path, world, name="failing", fail="step.index == 2")
    code, said = visit("train", file, "--out", "runs", "length=steps:4", cwd=tmp_path)
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "no such key" in text)
    assert code == 1
    assert f"error: your code failed at {file}:{line}: KeyError: 'no such key'" in said
    log = (tmp_path / "runs" / "tiny-001" / "log.txt").read_text()
    assert "unexpected error" in log and f'failing.py", line {line}' in log


OWN_NET = """\
from torch import nn
from visloom import Call, Run, change, load
from visloom.tasks.classify import Custom, Normalise

def make(num_classes: int, in_chans: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))

def own_net() -> Run:
    half = Normalise((127.5,) * 3, (127.5,) * 3)
    return change(load({recipe!r}), {{"task.net": Custom(Call("own_net:make"), normalise=half)}})
"""


def test_a_run_with_a_network_of_ones_own_is_used_only_if_trusted_and_after_it_moved(world, tmp_path):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "own_net.py").write_text(OWN_NET.format(recipe=str(world)))
    code, said = visit("train", "own_net.py", "--out", "runs", "length=steps:4", cwd=home)
    assert code == 0, said
    (home / "runs" / "tiny-001").rename(away / "run")
    (home / "own_net.py").unlink()
    picture = world.parent / "data" / "val" / "red" / "0.png"
    code, said = visit("predict", "run", picture, "--out", "out", cwd=away)
    assert code == 3 and "own_net:make" in said and "--trust" in said
    code, said = visit("predict", "run", picture, "--out", "out", "--trust", cwd=away)
    assert code == 0 and "1 pictures predicted" in said, said


# -------------------------------------------------------------------------------------------------- prove-resume


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.nightly)])
def test_prove_resume_compares_a_killed_run_with_one_left_alone(world, tmp_path, kills):
    words = ["length=steps:120", "save.every=steps:5", "--kills", kills, "--seed", "1", "--keep-runs", "kept"]
    code, said = visit("prove-resume", world, *words, cwd=tmp_path, seconds=120 * (1 + kills))
    assert code == 0, said
    assert "every bit is the same" in said and "model.safetensors" in said and f"{kills} kills" in said
    for name in ("alone", "killed"):
        assert len(list((tmp_path / "kept" / name).glob("tiny-*/checkpoints/step-00000120"))) == 1


def test_prove_resume_has_a_folder_of_its_own(world, tmp_path):
    code, said = visit("prove-resume", world, "host.out=elsewhere", cwd=tmp_path)
    assert code == 2 and "--keep-runs DIR" in said and not (tmp_path / "elsewhere").exists()


def test_prove_resume_tells_of_a_run_that_fails(world, tmp_path):
    code, said = visit("prove-resume", world, "optim.lrr=1", "--keep-runs", "kept", cwd=tmp_path)
    assert code == 3 and "optim.lrr" in said and "Traceback" not in said
