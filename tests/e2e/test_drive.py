"""The driver: what a run leaves behind, when it saves and evaluates, what it calls best, and what it says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.lives import OFF, end_of, rows
from tests.small import Rows, Small, SmallModule, small_run
from tests.worlds import Jitter, Numbers
from visloom.checkpoint import Checkpoints
from visloom.config import change
from visloom.drive import Telling, drive, resume, train
from visloom.engine import Engine
from visloom.errors import DataError
from visloom.keys import count, fold, seed_torch
from visloom.loader import Plan
from visloom.log import read
from visloom.run import Ema, Eval, How, Log, Rule, Save
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled
from visloom.task import Losses
from visloom.units import Epochs, Examples, Minutes, Monitor, Steps


def evals(batch=8, size=20, **more):
    return {"val": Eval(stream=Ordered(source=Numbers(size=size), batch=batch), **more)}


def weights(directory):
    end = end_of(directory)
    return {name: digest for name, digest in end.tensors.items() if not name.startswith("meter/")}


# ----------------------------------------------------------------------------------------------------- directory


def test_a_run_leaves_what_people_and_programs_need(tmp_path):
    report = train(small_run(tmp_path, log=Log(every=Steps(4), images=3)), told=OFF)
    directory = report.directory
    assert directory == tmp_path.absolute() / "small-001"
    there = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    expected = {"run.json", "provenance.json", "log.txt", "log.jsonl", "speed.jsonl", "report.html", "lock"}
    expected |= {"checkpoints/latest", "checkpoints/best", "checkpoints/step-00000024/manifest.json"}
    expected |= {"evals/val.json", "evals/val/worst-01.png", "evals/val/best-01.png"}
    assert expected <= there
    assert any(name.startswith("tensorboard/") for name in there)
    assert (report.step, report.stopped) == (24, "")
    assert report.values["val"] == rows(directory, "eval")[-1]["values"]
    assert report.seconds > 0 and report.cpu_seconds > 0
    assert isinstance(report.task, SmallModule)
    assert (directory / "lock").read_text() == ""
    assert train(small_run(tmp_path), told=OFF).directory.name == "small-002"


def test_provenance_says_what_made_the_run(tmp_path):
    report = train(small_run(tmp_path), argv=["visloom", "train", "small"], told=OFF)
    made = json.loads((report.directory / "provenance.json").read_text())
    assert made["argv"] == ["visloom", "train", "small"]
    assert made["execution"]["precision"] == "float32"
    assert made["execution"]["device"] == "cpu"
    assert made["data"] == {"train": "50", "val": "20"}
    assert made["seed"] == 0
    assert "parent" not in made and "resumed" not in made


# ----------------------------------------------------------------------------------------- an independent account


def test_logged_values_are_those_of_a_plain_loop(tmp_path):
    report = train(small_run(tmp_path), told=OFF)
    spec, run = Small(), small_run(tmp_path)
    stream = Shuffled(
        source=Numbers(size=50), batch=8, transform=(Jitter(),), seed=fold(0, "train", run.train.seed)
    )
    seed_torch(fold(0, "init"))
    task = spec.build()
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9, fused=True)
    plan = Plan(stream, spec, seed=fold(0, "train"))
    losses, right = [], []
    for step in range(24):
        seed_torch(count(fold(0, "step"), step))
        found = task(plan.make(step, 0))
        found.terms["ce"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.terms["ce"].item())
        right.append(found.logs["accuracy"].item())

    def mean(values, start, stop):
        return sum(values[start:stop]) / (stop - start)

    points, epochs = rows(report.directory, "train"), rows(report.directory, "epoch")
    assert [p["step"] for p in points] == [4, 6, 8, 12, 16, 18, 20, 24]
    start = 0
    for point in points:
        assert point["values"]["loss"] == pytest.approx(mean(losses, start, point["step"]), rel=1e-6)
        assert point["values"]["accuracy"] == pytest.approx(mean(right, start, point["step"]), rel=1e-6)
        assert point["epoch"] == point["step"] / 6
        start = point["step"]
    assert [e["step"] for e in epochs] == [6, 12, 18, 24]
    for epoch in epochs:
        at = epoch["step"]
        assert epoch["values"]["loss"] == pytest.approx(mean(losses, at - 6, at), rel=1e-6)
        assert epoch["values"]["accuracy"] == pytest.approx(mean(right, at - 6, at), rel=1e-6)
    for (name, ours), theirs in zip(
        report.task.state_dict().items(), task.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert report.values["val"]["loss"] == pytest.approx(_loss_of(task, 20), rel=1e-6)


def _loss_of(task, size):
    """Mean cross entropy over the evaluation samples, in one batch."""
    task.eval()
    samples = [Numbers(size=size).read(i) for i in range(size)]
    with torch.no_grad():
        return float(task(Small().collate(samples, None)).terms["ce"])


@pytest.mark.parametrize("size", [19, 20])
def test_an_evaluation_is_exact_for_any_batch(tmp_path, size):
    values = [
        train(small_run(tmp_path, evals=evals(batch=batch, size=size)), told=OFF).values["val"]
        for batch in (1, 7, 50)
    ]
    assert values[0]["accuracy"] == values[1]["accuracy"] == values[2]["accuracy"]
    for other in values[1:]:
        assert other["loss"] == pytest.approx(values[0]["loss"], rel=1e-6)


def test_evaluations_logs_saves_and_workers_leave_no_trace_in_the_weights(tmp_path):
    reference = weights(train(small_run(tmp_path, evals={}), told=OFF).directory)
    others = [
        small_run(tmp_path, evals=evals(every=Steps(1))),
        small_run(
            tmp_path,
            evals={
                **evals(every=Steps(5)),
                "b": Eval(stream=Ordered(source=Numbers(size=7), batch=3), every=Epochs(0.5)),
            },
        ),
        small_run(tmp_path, log=Log(every=Steps(1), images=0, report=False)),
        small_run(tmp_path, save=Save(every=Steps(1), background=False)),
        small_run(tmp_path, save=Save(every=None, best=False)),
    ]
    for run in others:
        assert weights(train(run, told=OFF).directory) == reference


class Forgetful(SmallModule):
    """A mutant: its evaluation moves the random state and leaves a part in evaluation mode."""

    def predict(self, batch):
        self.net[1].training = True
        return super().predict(batch)


@dataclass(frozen=True)
class ForgetfulSpec(Small):
    def build(self):
        return Forgetful(self)


def test_modes_that_an_evaluation_changes_come_back(tmp_path):
    seen = []

    def loop(launch):
        modes = [m.training for m in launch.task.modules()]
        before = torch.get_rng_state()
        launch.evaluate("val")
        seen.append(
            [m.training for m in launch.task.modules()] == modes
            and torch.equal(before, torch.get_rng_state())
        )

    train(small_run(tmp_path, task=ForgetfulSpec()), drive=loop, told=OFF)
    assert seen == [True]


# --------------------------------------------------------------------------------------------------- when is it due


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (Steps(5), [5, 10, 15, 20, 24]),
        (Epochs(1), [6, 12, 18, 24]),
        (Epochs(0.4), [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]),
        (Epochs(3), [18, 24]),
        (Examples(80), [10, 20, 24]),
        (Steps(100), [24]),
        (None, [24]),
    ],
    ids=str,
)
def test_evaluations_and_saves_come_at_any_ratio(tmp_path, every, steps):
    run = small_run(tmp_path, evals=evals(every=every), save=Save(every=every, keep=99, best=False))
    directory = train(run, told=OFF).directory
    assert [row["step"] for row in rows(directory, "eval")] == steps
    assert Checkpoints(directory / "checkpoints").steps() == steps


def test_several_evaluations_have_rhythms_of_their_own(tmp_path):
    run = small_run(
        tmp_path,
        evals={
            "a": Eval(stream=Ordered(source=Numbers(size=9), batch=4), every=Steps(4)),
            "b": Eval(stream=Ordered(source=Numbers(size=20), batch=8), every=Epochs(1), losses=False),
            "c": Eval(stream=Ordered(source=Numbers(size=3), batch=8), every=None),
        },
    )
    found = {}
    directory = train(run, told=OFF).directory
    for row in rows(directory, "eval"):
        found.setdefault(row["split"], []).append(row["step"])
    assert found == {"a": [4, 8, 12, 16, 20, 24], "b": [6, 12, 18, 24], "c": [24]}
    assert {p.name for p in (directory / "evals").iterdir()} == {"a.json", "b.json", "c.json"}
    assert "loss" not in json.loads((directory / "evals" / "b.json").read_text())["values"]


def test_saves_by_minutes(tmp_path):
    often = train(small_run(tmp_path, evals={}, save=Save(every=Minutes(1e-9), keep=99)), told=OFF).directory
    assert Checkpoints(often / "checkpoints").steps() == list(range(1, 25))
    seldom = train(small_run(tmp_path, evals={}, save=Save(every=Minutes(60), keep=99)), told=OFF).directory
    assert Checkpoints(seldom / "checkpoints").steps() == [24]


def test_milestones_stay(tmp_path):
    save = Save(every=Steps(2), keep=1, milestones=Epochs(1), best=False)
    directory = train(small_run(tmp_path, evals={}, save=save), told=OFF).directory
    assert Checkpoints(directory / "checkpoints").steps() == [6, 12, 18, 24]


def test_milestones_that_are_named_are_saved_and_stay(tmp_path):
    """Also where `save.every` would make no checkpoint."""
    run = small_run(tmp_path, evals={}, save=Save(every=Steps(5), keep=1, best=False))
    run = change(run, {"save.milestones": ["epochs:1", "steps:13"]})
    assert run.save.milestones == (Epochs(1), Steps(13))
    directory = train(run, told=OFF).directory
    assert Checkpoints(directory / "checkpoints").steps() == [6, 13, 24]


# ------------------------------------------------------------------------------------------------------------ best


@pytest.mark.parametrize("monitor", ["min loss", "max loss", "max accuracy", "min val/loss"])
def test_the_best_checkpoint_is_kept_whatever_comes_after_it(tmp_path, monitor):
    run = small_run(
        tmp_path,
        evals=evals(every=Steps(1), monitor=Monitor.parse(monitor)),
        save=Save(every=Steps(1), keep=1),
    )
    report = train(run, told=OFF)
    name = monitor.split()[1].removeprefix("val/")
    values = [row["values"][name] for row in rows(report.directory, "eval")]
    best = max(values) if monitor.startswith("max") else min(values)
    assert (report.best, report.best_step) == (best, values.index(best) + 1)  # the first of equals
    checkpoints = Checkpoints(report.directory / "checkpoints")
    assert checkpoints.best() == report.best_step
    assert checkpoints.verify(report.best_step) == ""
    assert checkpoints.steps() == sorted({report.best_step, 24})
    assert [row["step"] for row in rows(report.directory, "eval") if row["best"]][-1] == report.best_step


def test_patience_ends_a_run_and_its_last_step_is_saved(tmp_path):
    run = small_run(
        tmp_path,
        evals=evals(every=Steps(1), monitor=Monitor("max", "loss"), patience=3),
        save=Save(every=Steps(50)),
        length=Epochs(50),
    )
    report = train(run, told=OFF)
    assert report.best_step is not None
    assert report.step == report.best_step + 3 < 300
    assert report.stopped == "3 evaluations without a better loss"
    assert Checkpoints(report.directory / "checkpoints").latest() == report.step
    before = end_of(report.directory)
    again = resume(report.directory, trust=True, told=OFF)  # it is over, and stays so
    assert (again.step, again.stopped) == (report.step, report.stopped)
    assert not end_of(report.directory).differs(before)


def test_a_run_that_patience_ended_is_the_same_after_an_interruption(tmp_path):
    from tests.lives import Crash, crash_at, crash_in_evaluation, only

    def run(out):
        return small_run(
            out,
            evals=evals(every=Steps(2), monitor=Monitor("max", "loss"), patience=3),
            save=Save(every=Steps(2)),
            length=Epochs(50),
        )

    whole = train(run(tmp_path / "a"), told=OFF)
    for name, loop in (
        ("b", crash_at(whole.step)),
        ("c", crash_in_evaluation(whole.step)),
        ("d", crash_at(whole.step - 1)),
    ):
        with pytest.raises(Crash):
            train(run(tmp_path / name), drive=loop, told=OFF)
        report = resume(only(tmp_path / name), trust=True, told=OFF)
        assert (report.step, report.stopped) == (whole.step, whole.stopped)
        assert not end_of(report.directory).differs(end_of(whole.directory))


class Broken(SmallModule):
    def forward(self, batch):
        losses = super().forward(batch)
        return (
            losses if self.training else Losses({"ce": losses.terms["ce"] * float("nan")}, {}, losses.count)
        )


@dataclass(frozen=True)
class BrokenSpec(Small):
    def build(self):
        return Broken(self)


def test_a_monitored_nan_is_never_best_and_counts_for_patience(tmp_path):
    run = small_run(
        tmp_path, task=BrokenSpec(), evals=evals(every=Steps(2), monitor=Monitor("min", "loss"), patience=2)
    )
    report = train(run, told=OFF)
    assert (report.best, report.best_step, report.step) == (None, None, 4)
    assert math.isnan(report.values["val"]["loss"])
    again = resume(report.directory, trust=True, told=OFF)  # a NaN in the ledger comes back from its file
    assert again.step == 4


# ------------------------------------------------------------------------------------------------- averages, frozen


def test_the_average_is_evaluated_without_swapping(tmp_path):
    states = []

    def loop(launch):
        before = {n: t.clone() for n, t in launch.task.state_dict().items()}
        drive_until(launch, 6)
        trained = {n: t.clone() for n, t in launch.task.state_dict().items()}
        value = launch.evaluate("val").values["loss"]
        states.append((before, trained, value, launch.engine.average.module, launch.engine.best_module))
        assert all(torch.equal(t, trained[n]) for n, t in launch.task.state_dict().items())

    def drive_until(launch, stop):
        for step in launch.engine.steps():
            launch.after(step)
            if step.index == stop:
                break

    report = train(small_run(tmp_path, how=How(precision="fp32", ema=Ema(decay=0.5))), drive=loop, told=OFF)
    ((_, trained, value, average, used),) = states
    assert used is average and report.task is average
    assert value == pytest.approx(_loss_of(average, 20), rel=1e-6)
    raw = SmallModule(Small())
    raw.load_state_dict(trained)
    assert abs(value - _loss_of(raw, 20)) > 1e-4
    plain = small_run(tmp_path, how=How(precision="fp32", ema=Ema(decay=0.5, evaluate=False)))
    assert train(plain, told=OFF).values["val"]["loss"] != report.values["val"]["loss"]


def test_frozen_parts_stay_as_they_were(tmp_path):
    states = []

    def loop(launch):
        states.append({n: t.clone() for n, t in launch.task.state_dict().items()})
        drive(launch)

    run = small_run(
        tmp_path,
        rules=(Rule(name=r"^net\.0", frozen=True),),
        how=How(precision="fp32", frozen_norms=r"net\.1"),
    )
    report = train(run, drive=loop, told=OFF)
    same = {n for n, t in report.task.state_dict().items() if torch.equal(t, states[0][n])}
    assert {"net.0.weight", "net.0.bias", "net.1.running_mean", "net.1.running_var"} <= same
    assert {"net.1.weight", "net.4.weight"}.isdisjoint(same)


# ------------------------------------------------------------------------------------------------- what a task sees


class Curious(SmallModule):
    """Its loss in evaluation is where training stands."""

    def forward(self, batch):
        losses = super().forward(batch)
        if self.training:
            return losses
        share = batch.progress.step / batch.progress.total
        return Losses({"share": share}, {}, losses.count)


@dataclass(frozen=True)
class CuriousSpec(Small):
    def build(self):
        return Curious(self)


def test_losses_of_an_evaluation_know_where_training_stands(tmp_path):
    directory = train(small_run(tmp_path, task=CuriousSpec()), told=OFF).directory
    assert [row["values"]["loss"] for row in rows(directory, "eval")] == [0.25, 0.5, 0.75, 1.0]


@dataclass(frozen=True, kw_only=True)
class Noting(Numbers):
    """Some of its samples have something to say."""

    def fetch(self, index: int) -> Sample:
        return super().fetch(index).replace(notes=(f"skipped n{index}",) if index % 4 == 0 else ())


@dataclass(frozen=True)
class NotingSpec(Small):
    def collate(self, samples, key):
        batch = super().collate(samples, key)
        batch.notes = tuple(note for s in samples for note in s.notes)
        return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_data_side_notes_is_told_once(tmp_path, capsys, workers):
    run = small_run(
        tmp_path, task=NotingSpec(), train=Shuffled(source=Noting(size=60), batch=8, transform=(Jitter(),)),
        evals={"val": Eval(stream=Ordered(source=Noting(size=66), batch=8))},
    )  # fmt: skip
    from visloom import change

    report = train(change(run, {"host.workers": workers}), told=Telling(screen="plain"))
    text = (report.directory / "log.txt").read_text()
    assert [text.count(f"skipped n{i}\n") for i in range(0, 66, 4)] == [1] * 17
    said = capsys.readouterr().out
    assert said.count("warning: skipped n") == 10
    assert "17 samples were not used as they are; log.txt lists them" in said


# ----------------------------------------------------------------------------------------------------- what it says


def test_the_header_says_what_runs_where_on_what(tmp_path, capsys):
    run = small_run(tmp_path, rules=(Rule(name=r"^net\.0", frozen=True),), seed=7)
    report = train(run, told=Telling(screen="plain"))
    said = capsys.readouterr().out
    header = " ".join(said.partition("step 4/24")[0].split())
    for part in (
        "small",
        "task Small, 3 classes",
        "data train 50; val 20",
        "model 129 parameters + 312 frozen",
        "optimizer SGD lr 0.1, constant schedule",
        "device cpu (1 threads",
        "float32, N",
        "seed 7",
        f"run {report.directory}",
        "length 4 epochs = 24 steps of 8 samples (1 epoch = 6 steps)",
        "shown means since the last log point",
        "task: Small ...",
    ):
        assert part in header, part
    closing = said.rpartition("done")[2]
    assert "4 epochs (24 steps)" in closing
    assert f"{report.directory}@{report.best_step} (best), {report.directory}@24 (last)" in closing
    assert f"visloom predict {report.directory}" in closing


def test_speed_leaves_out_set_up_saves_and_evaluations(tmp_path, monkeypatch):
    import time

    original = Checkpoints.save

    def slow_save(self, *args, **more):
        time.sleep(0.3)
        return original(self, *args, **more)

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    directory = train(small_run(tmp_path), told=OFF).directory
    points = [row for row in read(directory / "speed.jsonl") if row["kind"] == "point"]
    assert sum(row["steps"] for row in points) == 24
    saves = [row for row in read(directory / "speed.jsonl") if row["kind"] == "save"]
    assert sum(row["seconds"] for row in saves) > 0.3 * len(saves)
    assert sum(row["seconds"] for row in points) < 0.3 * len(saves)


def test_a_sample_that_cannot_be_read_in_training_names_itself_and_leaves_the_run_to_be_resumed(tmp_path):
    run = small_run(
        tmp_path,
        train=Shuffled(source=Numbers(size=50, broken=33), batch=8, transform=(Jitter(),), shuffle=False),
    )
    with pytest.raises(DataError, match=r"sample 33: OSError: this picture is broken"):
        train(run, told=OFF)
    (directory,) = tmp_path.iterdir()
    assert (directory / "run.json").is_file()
    assert (directory / "lock").read_text() == ""


def test_the_engine_alone_needs_no_directory(tmp_path):
    # what the driver adds is around the engine, not inside
    from tests.small import small_engine

    engine = small_engine(total=3)
    assert isinstance(engine, Engine)
    assert [step.index for step in engine.steps()] == [1, 2, 3]
    assert not list(tmp_path.iterdir())
    assert isinstance(engine.task.net, nn.Sequential)
    assert isinstance(next(iter(small_engine(total=1).feed.open())), Rows)
