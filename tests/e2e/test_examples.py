"""The examples, from outside the package: a user's own data set, network, task and loop, and the plain loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("own_dataset", "own_model", "own_task", "own_loop")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    for file in (ROOT / "examples").glob("*.py"):
        shutil.copy(file, folder)
    return folder


def visloom(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "visloom", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_from_the_command_line(copies: Path, name: str):
    small = ["train.source.size=128", "host.workers=0"]
    done = visloom(copies, "train", f"{name}.py", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    run = copies / "runs" / f"{name.replace('_', '-')}-001"
    assert (run / "report.html").stat().st_size > 10_000
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} >= {"train", "epoch", "eval"}
    if name == "own_loop":
        norms = [json.loads(line)["step"] for line in (run / "norms.jsonl").read_text().splitlines()]
        assert norms == [8]  # two epochs of four steps: the last step only


def test_sensors_of_ones_own_are_trained_evaluated_and_predicted(copies: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "own_sensors.py", "mine"],
        cwd=copies, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "after two steps" in done.stdout and "4 moments: mine/boxes/predictions.csv" in done.stdout
    results = json.loads((copies / "mine" / "boxes" / "results.json").read_text())["results"]
    assert sorted(results) == [f"drive{d}-{m:03d}" for d in range(2) for m in range(2)]
    assert len(list((copies / "mine" / "boxes" / "pictures").glob("*.png"))) == 4
    new = visloom(copies, "new", "mine.yaml", "--data", "mine")
    assert new.returncode == 0 and "4 moments, 2 cameras (left, right), 1 radars" in new.stdout, new.stderr


def test_a_run_with_code_of_ones_own_resumes(copies: Path):
    done = visloom(copies, "resume", "runs/own-loop-001", "length=epochs:4", "--trust")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after step 8 of 16" in done.stdout
    assert (copies / "runs/own-loop-001/norms.jsonl").read_text().count("\n") == 3  # its drive came along


def test_the_engine_is_the_plain_loop_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import plain_loop

    from visloom import load, train
    from visloom.drive import Telling

    cut = {
        "train.source": {"kind": "own_dataset:Stripes", "size": 64},
        "train.batch": 8,
        "task.topk": [1],
        "evals.test": None,
        "length": "steps:50",
        "save.every": None,
        "log": {"tensorboard": False, "report": False},
        "host": {"out": str(tmp_path), "workers": 0, "threads": 1, "device": "cpu"},
    }
    run = load("cifar10", cut, trust=True)
    assert type(run.schedule).__name__ == "Multistep"
    trained = train(run, told=Telling(screen="off")).task
    assert plain_loop.digest(trained) == plain_loop.digest(plain_loop.train(run, 50))
