"""Bad input is answered before step 1: with the right error, the place, what was expected, and no directory left."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.lives import OFF, end_of
from tests.small import Small, SmallModule, small_run
from tests.worlds import Jitter, Numbers
from visloom.drive import Telling, drive, resume, train
from visloom.errors import CheckpointError, ConfigError, ContractError, DataError, DirectoryInUse
from visloom.metrics import TopK
from visloom.run import Eval, How, Log, Rule
from visloom.stream import Ordered, Shuffled, Split
from visloom.task import Losses
from visloom.units import Monitor

DRAWING = Log(tensorboard=False, report=False, images=2)


def refused(tmp_path, kind, message, run):
    """Train a run that must be refused; returns the error. Nothing may be left."""
    with pytest.raises(kind, match=message) as error:
        train(run, told=OFF)
    left = [p.name for p in tmp_path.iterdir()]
    assert left == [], left
    return error.value


# ------------------------------------------------------------------------------------------- a task of one's own


def task_with(**methods: Any) -> Small:
    """A small task some of whose methods are replaced: those of the spec by name, of the module as `module_NAME`."""
    of_module = {n.removeprefix("module_"): m for n, m in methods.items() if n.startswith("module_")}
    of_spec = {n: m for n, m in methods.items() if not n.startswith("module_")}
    module = type("MyModule", (SmallModule,), of_module)
    spec = type("Mine", (Small,), {"build": lambda self: module(self), **of_spec})
    return dataclass(frozen=True)(spec)()


def as_list(self, batch):
    return [1, 2]


def shorter(self, batch):
    found = SmallModule.predict(self, batch)
    return {**found, "label": found["label"][:-1]}


def without_ids(self, batch):
    found = SmallModule.predict(self, batch)
    return {name: column for name, column in found.items() if name != "ids"}


def single(self, batch):
    return {**SmallModule.predict(self, batch), "score": 0.5}


def one_id(self, samples, key):
    return replace(Small.collate(self, samples, key), ids=("all",))


class NoMerge:
    names = ("accuracy",)

    def update(self, predictions, batch): ...

    def state(self): ...

    def compute(self): ...

    def tables(self): ...


class Misnamed(TopK):
    names = ("hits",)

    def compute(self):
        return {"accuracy": 0.5}


TASKS = {
    "build": (
        {"build": lambda self: torch.nn.Linear(1, 1)},
        r"Mine\.build returned Linear, expected a visloom\.TaskModule",
    ),
    "collate returns a dict": (
        {"collate": lambda self, samples, key: {"image": 1}},
        r"Mine\.collate returned dict, expected a subclass of visloom\.task\.Batch",
    ),
    "collate loses samples": ({"collate": one_id}, r"Mine\.collate: the batch has 1 ids for 2 samples"),
    "forward returns a tensor": (
        {"module_forward": lambda self, batch: torch.zeros(())},
        r"MyModule\.forward returned Tensor, expected visloom\.Losses",
    ),
    "forward returns vectors": (
        {"module_forward": lambda self, batch: Losses({"ce": torch.zeros(8)}, {}, torch.ones(()))},
        r"MyModule\.forward: terms\['ce'\] is a tensor of shape \(8,\), expected a 0-dim tensor",
    ),
    "predict returns a list": (
        {"module_predict": as_list},
        r"MyModule\.predict returned list, expected a dict of columns with 'ids' among them",
    ),
    "predict forgets ids": ({"module_predict": without_ids}, r"expected a dict of columns with 'ids'"),
    "predict loses samples": (
        {"module_predict": shorter},
        r"MyModule\.predict: column 'label' has 1 entries for 2 samples",
    ),
    "predict returns one value": (
        {"module_predict": single},
        r"column 'score' is float, expected one entry per sample",
    ),
    "metrics returns a list": (
        {"metrics": lambda self: [TopK((1,), classes=3)]},
        r"(?s)Mine\.metrics\(\) failed: .*dict of metrics",
    ),
    "a metric lacks a method": (
        {"metrics": lambda self: {"mine": NoMerge()}},
        r"Mine\.metrics: 'mine' is NoMerge, which has no merge; a metric has compute, merge, names",
    ),
    "a metric reports other names": (
        {"metrics": lambda self: {"mine": Misnamed((1,), classes=3)}},
        r"Misnamed\.compute returned accuracy, expected a number for each of its names: hits",
    ),
    "goodness": (
        {"goodness": lambda self, predictions, batch: torch.zeros(())},
        r"Mine\.goodness returned \(\), expected a tensor of shape \(2,\)",
    ),
    "draw": (
        {"draw": lambda self, image, prediction, truth=None: image},
        r"Mine\.draw returned ndarray, expected a PIL image",
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_task_that_breaks_its_contract_is_told_how(tmp_path, case):
    methods, message = TASKS[case]
    monitor = Monitor("min", "loss")
    evals = {"val": Eval(stream=Ordered(source=Numbers(size=20), batch=8), monitor=monitor)}
    run = small_run(tmp_path, task=task_with(**methods), evals=evals, log=DRAWING)
    kind = ConfigError if case == "metrics returns a list" else ContractError
    error = refused(tmp_path, kind, message, run)
    assert error.exit_code == 3
    assert error.path == "task"


def test_the_same_task_unbroken_passes(tmp_path):
    train(small_run(tmp_path, task=task_with(), log=DRAWING), told=OFF)


def test_an_error_in_the_users_own_code_keeps_its_type_and_says_what_was_tried(tmp_path):
    def forward(self, batch):
        return batch.picture

    with pytest.raises(AttributeError, match="picture") as error:
        train(small_run(tmp_path, task=task_with(module_forward=forward)), told=OFF)
    assert error.value.__notes__ == [
        "This happened before the first step, when MyModule.forward was tried on a few training samples."
    ]
    assert not list(tmp_path.iterdir())

    def collate(self, samples, key):
        raise RuntimeError("stack expects each tensor to be equal size")

    refused(
        tmp_path, DataError, r"Mine\.collate failed on samples 'n\d+'.*equal size",
        small_run(tmp_path, task=task_with(collate=collate)),
    )  # fmt: skip


class Choosy(TopK):
    """Needs three samples before it says anything, as an area under a curve may."""

    def compute(self):
        if int(self.state()["count"]) < 3:
            raise ValueError("too few samples")
        return super().compute()


def test_a_metric_that_needs_more_samples_than_a_trial_has_is_not_refused(tmp_path, capsys):
    task = task_with(metrics=lambda self: {"mine": Choosy((1,), classes=3)})
    train(small_run(tmp_path, task=task), told=Telling(screen="plain"))
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: metric 'mine' has no value for 2 samples (ValueError: too few samples)" in said


def test_the_trial_leaves_no_trace(tmp_path, monkeypatch):
    plain = end_of(train(small_run(tmp_path), told=OFF).directory)
    monkeypatch.setattr("visloom.launch.try_out", lambda *args, **more: [])
    assert not end_of(train(small_run(tmp_path), told=OFF).directory).differs(plain)


# ------------------------------------------------------------------------------------------------ data and numbers


@dataclass(frozen=True, kw_only=True)
class Named(Numbers):
    def classes(self):
        return ("a", "b", "c", "d")


def numbers(source, batch=8, **more):
    return Shuffled(source=source, batch=batch, transform=(Jitter(),), **more)


def one_eval(**more):
    return {"val": Eval(stream=Ordered(source=Numbers(size=20), batch=8), **more)}


CASES = {
    "classes of head and data differ": (
        {"train": numbers(Named(size=50))},
        ConfigError,
        r"task\.classes has 3 classes \(a, b, c\) but .*Named.* has 4 \(a, b, c, d\)",
    ),
    "fewer samples than a batch": (
        {"train": numbers(Numbers(size=5))},
        DataError,
        r"Numbers\(.*\) has 5 samples, fewer than one batch of 8: choose a smaller batch",
    ),
    "empty training split": (
        {"train": numbers(Numbers(size=50, split=Split("head", 0.001)))},
        DataError,
        r"has no samples: check its folder, split and limit",
    ),
    "empty evaluation split": (
        {"evals": {"val": Eval(stream=Ordered(source=Numbers(size=4, split=Split("tail", 0.99)), batch=8))}},
        DataError,
        r"evals\.val: Numbers\(.*\) has no samples: check its folder, split and limit",
    ),
    "an evaluation sample that cannot be read": (
        {"evals": {"val": Eval(stream=Ordered(source=Numbers(size=20, broken=0), batch=8))}},
        DataError,
        r"source 0 \(Numbers\), sample 0: OSError: this picture is broken",
    ),
    "a batch that accumulation does not divide": (
        {"how": How(precision="fp32", accumulate=3)},
        ConfigError,
        r"train\.batch: 8 samples cannot be divided into how\.accumulate=3 micro-batches",
    ),
    "a last batch that accumulation does not divide": (
        {"how": How(precision="fp32", accumulate=2), "train": numbers(Numbers(size=51), tail="keep")},
        ConfigError,
        r"a part of the epoch's last batch has 3 samples, which 1 process\(es\) x 2 micro-batch\(es\) do not divide",
    ),
    "a monitor that is not reported": (
        {"evals": one_eval(monitor=Monitor("max", "miou"))},
        ConfigError,
        r"evals\.val\.monitor: this evaluation reports no 'miou'",
    ),
    "a monitored loss term that does not exist": (
        {"evals": one_eval(monitor=Monitor("min", "loss/box"))},
        ConfigError,
        r"evals\.val\.monitor names 'loss/box', which is not reported; there is: accuracy, loss",
    ),
    "a rule that matches nothing": (
        {"rules": (Rule(name="backbone", lr=0.1),)},
        ConfigError,
        r"rules\.0 matches nothing: no parameter name contains 'backbone'",
    ),
    "frozen norms that match nothing": (
        {"how": How(precision="fp32", frozen_norms="backbone")},
        ConfigError,
        r"how\.frozen_norms='backbone' matches no batch-norm layer",
    ),
    "initial weights for a part that does not exist": (
        {"init": {"body": "weights.pth"}},
        ConfigError,
        r"init\.body: the task has no sub-module 'body'",
    ),
    "initial weights that are not there": (
        {"init": {"net": "nothing.pth"}},
        ConfigError,
        r"init\.net: there is no file .*nothing\.pth",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, case):
    changes, kind, message = CASES[case]
    refused(tmp_path, kind, message, small_run(tmp_path, **changes))


def test_initial_weights_that_cover_too_little(tmp_path):
    file = tmp_path / "part.pth"
    torch.save({"net.0.weight": torch.zeros(24, 12)}, file)
    with pytest.raises(
        ConfigError, match=r"(?s)holds \d+\.\d % of the parameters, init_coverage asks for 90\.0 %"
    ):
        train(small_run(tmp_path / "runs", init={"model": str(file)}), told=OFF)
    assert not list((tmp_path / "runs").iterdir())
    told = train(small_run(tmp_path / "runs", init={"model": str(file)}, init_coverage=0.1), told=OFF)
    assert "loaded" in (told.directory / "log.txt").read_text()


def test_a_disk_too_small_for_one_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("visloom.checkpoint.free_bytes", lambda path: 1000)
    refused(
        tmp_path, CheckpointError, r"the disk is too small for one checkpoint: it needs .*kB, 1\.0 kB is free",
        small_run(tmp_path),
    )  # fmt: skip


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file is a file; runs need a folder there") as error:
        train(small_run(tmp_path / "file"), told=OFF)
    assert error.value.path == "host.out"
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):  # the superuser may write everywhere but where the system forbids it
        closed = "/proc/visloom-runs"
        if not os.path.isdir("/proc/self"):
            pytest.skip("this user may write everywhere")
    with pytest.raises(
        ConfigError, match=r"no run directory can be made in .*Choose another host\.out"
    ) as error:
        train(small_run(closed), told=OFF)
    assert error.value.path == "host.out"


def test_a_directory_in_use_is_refused_with_who_uses_it(tmp_path):
    told = []

    def loop(launch):
        with pytest.raises(DirectoryInUse) as error:
            resume(launch.directory.path, trust=True, told=OFF)
        told.append(str(error.value))
        drive(launch)

    report = train(small_run(tmp_path), drive=loop, told=OFF)
    assert f"it is in use by process {os.getpid()} on {platform.node()}, since " in told[0]
    reference = train(small_run(tmp_path), told=OFF)  # the run that was live was not disturbed
    assert not end_of(report.directory).differs(end_of(reference.directory))


def test_a_run_that_started_keeps_its_directory_whatever_ends_it(tmp_path):
    def loop(launch):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(small_run(tmp_path), drive=loop, told=OFF)
    (directory,) = tmp_path.iterdir()
    assert (directory / "run.json").is_file()


def test_ctrl_c_during_set_up_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("visloom.launch.try_out", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(small_run(tmp_path), told=OFF)
    assert not list(tmp_path.iterdir())
