"""Resume and branch: a run that is interrupted anywhere ends with the bits of one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch

from tests.lives import (
    OFF,
    Crash,
    Mixing,
    crash_at,
    crash_in_evaluation,
    end_of,
    only,
    rows,
    signal_at,
    signal_in_evaluation,
)
from tests.small import small_run
from tests.worlds import Numbers
from visloom.bundle import prepare
from visloom.checkpoint import Checkpoints
from visloom.drive import Telling, branch, drive, resume, train
from visloom.errors import CheckpointError, ConfigError, Preempted
from visloom.log import read
from visloom.run import Clip, Ema, Eval, How, Optim, Rule, Save
from visloom.schedule import Cosine, Step
from visloom.stream import Ordered
from visloom.units import Epochs, Monitor, Steps


def rich(out, **changes):
    """Everything that a state can hold, and saves, evaluations and log points that fall together and apart.

    24 steps, 6 an epoch: log points at 4, 6, 8, 12, ...; saves at 5, 10, ...; evaluations at 3, 6, ... and 8, 16.
    """
    evals = {
        "val": Eval(
            stream=Ordered(source=Numbers(size=20), batch=8), every=Steps(3), monitor=Monitor("min", "loss")
        ),
        "part": Eval(stream=Ordered(source=Numbers(size=10), batch=4), every=Steps(8)),
    }
    how = How(precision="bf16", accumulate=2, ema=Ema(decay=0.9), clip=Clip(norm=1.0))
    return small_run(out, **{"task": Mixing(), "evals": evals, "how": how, "schedule": Cosine(), **changes})


@pytest.fixture(scope="module")
def whole(module_path):
    """A run that nothing interrupted."""
    return end_of(train(rich(module_path), told=OFF).directory)


POSITIONS = {
    2: "before the first save",
    4: "log point",
    5: "save point",
    6: "evaluation, log point, end of an epoch",
    7: "between",
    8: "two evaluations, one of them with an odd rhythm",
    15: "save point and evaluation",
    23: "one before the last",
    24: "the last step",
}


@pytest.mark.parametrize("at", POSITIONS, ids=POSITIONS.values())
@pytest.mark.parametrize("how", [crash_at, signal_at, crash_in_evaluation, signal_in_evaluation])
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, whole, how, at):
    in_evaluation = how in (crash_in_evaluation, signal_in_evaluation)
    if in_evaluation and at % 3 and at % 8 and at != 24:
        at = at // 3 * 3 + 3  # there is no evaluation
    with pytest.raises((Crash, Preempted)):
        train(rich(tmp_path), drive=how(at), told=OFF)
    directory = only(tmp_path)
    if how in (signal_at, signal_in_evaluation):
        assert Checkpoints(directory / "checkpoints").latest() == at
    workers = at % 3 if how is crash_at else 0
    report = resume(directory, {"host.workers": workers}, trust=True, told=OFF)
    assert report.directory == directory
    assert not end_of(directory).differs(whole)


def test_a_run_interrupted_all_the_time_ends_like_one_that_was_not(tmp_path, whole):
    with pytest.raises(Crash):
        train(rich(tmp_path, save=Save(every=Steps(1))), drive=crash_at(1), told=OFF)
    for step in range(2, 25):
        loop = crash_at(step) if step % 2 else signal_at(step)
        try:
            resume(only(tmp_path), {"host.workers": 2 * (step % 8 == 1)}, drive=loop, trust=True, told=OFF)
        except (Crash, Preempted):
            continue
    resume(only(tmp_path), trust=True, told=OFF)
    assert not end_of(only(tmp_path)).differs(whole)


def test_the_comparison_can_fail(tmp_path, whole):
    # the mutants of the tests above: another seed, one more augmentation, a dropped log line
    other = end_of(train(rich(tmp_path, seed=1), told=OFF).directory)
    assert {"step 24 != 24"}.isdisjoint(other.differs(whole))
    assert any(line.startswith("model/") for line in other.differs(whole))
    shorter = dataclasses.replace(whole, log=whole.log.rpartition(b"{")[0])
    assert [line[:9] for line in shorter.differs(whole)] == ["log.jsonl"]


MUTANTS = {
    "the meter is forgotten": ("visloom.meter.Meter.restore", lambda *a: None),
    "the data start anew": ("visloom.signals.Interruptible.open", None),
    "moments are forgotten": ("visloom.optim.Optimizers.load_state_by_name", lambda *a: None),
    "evaluations that were due are not caught up with": ("visloom.launch.Launch.catch_up", lambda self: []),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_part_of_a_resume_is_needed(tmp_path, whole, monkeypatch, mutant):
    at = {"evaluations that were due are not caught up with": 15}.get(mutant, 7)
    with pytest.raises(Preempted):
        train(rich(tmp_path), drive=signal_in_evaluation(at) if at == 15 else signal_at(at), told=OFF)
    place, instead = MUTANTS[mutant]
    if mutant == "the data start anew":
        from visloom.signals import Interruptible

        original = Interruptible.open
        instead = lambda self, start=0: original(self, 0)
    monkeypatch.setattr(place, instead)
    resume(only(tmp_path), trust=True, told=OFF)
    assert end_of(only(tmp_path)).differs(whole)


# --------------------------------------------------------------------------------------------- finished, longer


def test_resuming_a_finished_run_changes_nothing(tmp_path, whole):
    directory = train(rich(tmp_path), told=OFF).directory
    report = resume(directory, trust=True, told=OFF)
    assert (report.step, report.stopped) == (24, "")
    assert not end_of(directory).differs(whole)


def test_a_longer_length_goes_on_and_keeps_what_the_old_end_found(tmp_path):
    at_end = {
        "val": Eval(
            stream=Ordered(source=Numbers(size=20), batch=8), every=None, monitor=Monitor("min", "loss")
        )
    }
    directory = train(small_run(tmp_path / "a", evals=at_end), told=OFF).directory
    first = rows(directory, "eval")
    report = resume(directory, {"length": Epochs(6)}, trust=True, told=OFF)
    assert report.step == 36
    assert rows(directory, "eval")[0] == first[0]
    assert [row["step"] for row in rows(directory, "eval")] == [24, 36]
    best = min(rows(directory, "eval"), key=lambda row: row["values"]["loss"])
    assert (report.best, report.best_step) == (best["values"]["loss"], best["step"])
    assert Checkpoints(directory / "checkpoints").best() == best["step"]

    straight = end_of(train(small_run(tmp_path / "b", evals=at_end, length=Epochs(6)), told=OFF).directory)
    weights = {n: t for n, t in end_of(directory).tensors.items() if n.startswith(("model/", "optim/"))}
    assert weights.items() <= straight.tensors.items()
    lives = json.loads((directory / "provenance.json").read_text())["resumed"]
    assert lives[0]["step"] == 24
    assert lives[0]["changed"] == ["length: epochs:4 -> epochs:6"]


def test_a_length_that_is_over_already_is_refused(tmp_path):
    directory = train(small_run(tmp_path), told=OFF).directory
    with pytest.raises(ConfigError, match=r"step 24, past the run's length of 12 steps; set a longer length"):
        resume(directory, {"length": Steps(12)}, trust=True, told=OFF)


# ------------------------------------------------------------------------------------------------ what may change


@pytest.mark.parametrize(
    "edits",
    [
        ["optim.lr=0.2"],
        ["seed=3"],
        ["how.precision=bf16"],
        ["train.batch=4"],
        ["evals.val.patience=3", "seed=1"],
    ],
)
def test_a_resume_that_changes_the_run_is_told_to_branch(tmp_path, edits):
    with pytest.raises(Crash):
        train(small_run(tmp_path), drive=crash_at(7), told=OFF)
    before = end_of(only(tmp_path))
    name = edits[0].partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"(?s)only length, save, log and host may change.*{name}.*visloom branch"
    ):
        resume(only(tmp_path), edits, trust=True, told=OFF)
    assert not end_of(only(tmp_path)).differs(before)


def edit_by_hand(directory: Path, change) -> None:
    """Change run.json as an editor would."""
    file = directory / "run.json"
    made = json.loads(file.read_text())
    change(made)
    file.write_text(json.dumps(made))


BY_HAND = {
    "optim.lr: 0.1 -> 0.2": lambda made: made["optim"].update(lr=0.2),
    "seed: 0 -> 3": lambda made: made.update(seed=3),
    "optim.options.dampening: (none) -> 0.5": lambda made: made["optim"]["options"].update(dampening=0.5),
    "optim.options.momentum: 0.9 -> (none)": lambda made: made["optim"]["options"].pop("momentum"),
    "train.transform: [{kind: tests.worlds:Jitter}] -> []": lambda made: made["train"].update(transform=[]),
    "rules.0.lr: 0.5 -> 0.25": lambda made: made["rules"][0].update(lr=0.25),
    "evals.val: {": lambda made: made["evals"].update(other=made["evals"].pop("val")),
    "schedule: visloom.schedule:Constant -> visloom.schedule:Cosine": lambda made: made.update(
        schedule={"kind": "visloom.schedule:Cosine"}
    ),
}


@pytest.mark.parametrize("line", BY_HAND)
def test_a_run_json_that_was_edited_between_two_lives_is_refused_with_the_difference(tmp_path, line):
    with pytest.raises(Crash):
        train(small_run(tmp_path, rules=(Rule(name="net", lr=0.5),)), drive=crash_at(7), told=OFF)
    directory = only(tmp_path)
    before, text = end_of(directory), (directory / "run.json").read_text()
    edit_by_hand(directory, BY_HAND[line])
    with pytest.raises(CheckpointError, match=rf"(?s)run\.json.*step \d.*{re.escape(line)}.*visloom branch"):
        resume(directory, trust=True, told=OFF)
    assert not end_of(directory).differs(before)
    (directory / "run.json").write_text(text)
    assert resume(directory, trust=True, told=OFF).step == 24


def test_what_may_change_may_change_by_hand(tmp_path):
    with pytest.raises(Crash):
        train(small_run(tmp_path), drive=crash_at(7), told=OFF)
    directory = only(tmp_path)

    def change(made):
        made["length"] = "epochs:5"
        made["save"]["keep"] = 3
        made["log"]["every"] = "steps:3"
        made["host"]["workers"] = 1

    edit_by_hand(directory, change)
    assert resume(directory, trust=True, told=OFF).step == 30


def forget(directory: Path, *names: str) -> None:
    """Write the newest checkpoint again as if names of its data had not been thought of yet."""
    store = Checkpoints(directory / "checkpoints")
    state = store.load()
    assert state is not None
    for name in names:
        place = state.data
        *inner, last = name.split(".")
        for key in inner:
            place = place[key]
        del place[last]
    prepare(state)
    store.save(state, wait=True)


def test_a_checkpoint_of_an_older_version_resumes(tmp_path):
    # one that does not hold its run, and one made before a setting (with a default) existed
    whole = end_of(train(small_run(tmp_path / "whole"), told=OFF).directory)
    for number, name in enumerate(("run", "run.how.idle", "run.momentum", "run.evals.val.patience")):
        with pytest.raises(Crash):
            train(small_run(tmp_path / str(number)), drive=crash_at(7), told=OFF)
        directory = only(tmp_path / str(number))
        forget(directory, name)
        resume(directory, trust=True, told=OFF)
        assert not end_of(directory).differs(whole)


def test_save_log_and_host_may_change(tmp_path, whole):
    with pytest.raises(Crash):
        train(rich(tmp_path), drive=crash_at(7), told=OFF)
    edits = ["save.keep=5", "save.every=steps:2", "log.every=steps:3", "host.workers=1"]
    resume(only(tmp_path), edits, trust=True, told=OFF)
    end = end_of(only(tmp_path))
    weights = [n for n in whole.tensors if not n.startswith("meter/")]
    assert all(end.tensors[n] == whole.tensors[n] for n in weights)
    assert len(Checkpoints(only(tmp_path) / "checkpoints").steps()) >= 5


def test_a_resume_says_what_could_make_the_bits_differ(tmp_path, capsys):
    with pytest.raises(Crash):
        train(small_run(tmp_path), drive=crash_at(7), told=OFF)
    file = only(tmp_path) / "provenance.json"
    made = json.loads(file.read_text())
    made["versions"]["torch"] = "2.0.0"
    file.write_text(json.dumps(made))
    resume(only(tmp_path), trust=True, told=Telling(screen="plain"))
    assert "identical bits are not promised: torch: 2.0.0 -> " in capsys.readouterr().out


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(tmp_path, whole):
    with pytest.raises(Crash):
        train(rich(tmp_path, save=Save(every=None, best=False)), drive=crash_at(2), told=OFF)
    with pytest.raises(Crash):
        resume(only(tmp_path), drive=crash_at(5), trust=True, told=OFF)
    resume(only(tmp_path), trust=True, told=OFF)
    end = end_of(only(tmp_path))
    assert end.best is None
    assert not dataclasses.replace(end, data=whole.data, best=whole.best).differs(whole)


# -------------------------------------------------------------------------------------------- damaged checkpoints


def truncate(directory: Path, step: int) -> None:
    file = directory / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(tmp_path, whole, capsys):
    with pytest.raises(Crash):
        train(rich(tmp_path, save=Save(every=Steps(5), best=False)), drive=crash_at(18), told=OFF)
    truncate(only(tmp_path), 15)
    report = resume(only(tmp_path), trust=True, told=Telling(screen="plain"))
    said = capsys.readouterr().out
    assert "checkpoint step-00000015 is damaged: " in said
    assert "using step 10 instead" in said
    assert report.step == 24
    assert not dataclasses.replace(end_of(only(tmp_path)), best=whole.best).differs(whole)


def test_a_damaged_checkpoint_is_written_again_before_it_is_called_best(tmp_path):
    # it was marked as it lay there, because a directory of that step existed
    run = rich(tmp_path)
    with pytest.raises(Crash):
        train(run, drive=crash_at(8), told=OFF)
    checkpoints = Checkpoints(only(tmp_path) / "checkpoints")
    best = checkpoints.best()
    assert best is not None and best % 5 and best == checkpoints.latest()
    truncate(only(tmp_path), best)
    with pytest.raises(Crash):
        resume(only(tmp_path), drive=crash_at(8), trust=True, told=OFF)
    assert checkpoints.best() == best
    assert checkpoints.verify(best) == ""


def test_when_all_checkpoints_are_damaged_nothing_restarts_by_itself(tmp_path):
    with pytest.raises(Crash):
        train(small_run(tmp_path), drive=crash_at(18), told=OFF)
    directory = only(tmp_path)
    steps = Checkpoints(directory / "checkpoints").steps()
    assert len(steps) >= 2
    for step in steps:
        truncate(directory, step)
    log = (directory / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"(?s)every checkpoint is damaged.*step-00000015") as error:
        resume(directory, trust=True, told=OFF)
    assert all(f"step-{step:08d}" in str(error.value) for step in steps)
    assert (directory / "log.jsonl").read_bytes() == log


# ------------------------------------------------------------------------------------------------------- at a step


def test_resuming_from_an_earlier_step_forgets_the_future(tmp_path, whole):
    run = rich(tmp_path, save=Save(every=Steps(5), keep=9))
    directory = train(run, told=OFF).directory
    with pytest.raises(Crash):
        resume(f"{directory}@10", drive=crash_at(12), trust=True, told=OFF)
    assert Checkpoints(directory / "checkpoints").latest() in (10, 12)  # 12 where it is the best one
    resume(directory, trust=True, told=OFF)
    assert not end_of(directory).differs(whole)


def test_a_step_that_is_not_there_is_told_with_those_that_are(tmp_path):
    directory = train(small_run(tmp_path), told=OFF).directory
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 11; there are: .*20, 24"):
        resume(f"{directory}@11", trust=True, told=OFF)


# ---------------------------------------------------------------------------------------------------------- branch


def test_a_branch_is_a_new_run_from_that_state(tmp_path, capsys):
    directory = train(rich(tmp_path, save=Save(every=Steps(5), keep=9)), told=OFF).directory
    before = end_of(directory)
    report = branch(
        f"{directory}@10", ["optim.lr=0.01", "length=epochs:5"], trust=True, told=Telling(screen="plain")
    )
    assert f"branched from {directory} at step 10" in capsys.readouterr().out
    assert report.directory != directory
    assert report.step == 30
    assert not end_of(directory).differs(before)
    made = json.loads((report.directory / "provenance.json").read_text())
    assert made["parent"]["run"] == str(directory)
    assert made["parent"]["step"] == 10
    assert sorted(made["parent"]["changed"]) == ["length: epochs:4 -> epochs:5", "optim.lr: 0.1 -> 0.01"]
    assert json.loads((report.directory / "run.json").read_text())["optim"]["lr"] == 0.01
    log = read(report.directory / "log.jsonl")
    assert log[0]["step"] == 12 and log[-1]["step"] == 30
    # moments came along: without a change the branch ends like its parent
    twin = branch(f"{directory}@10", trust=True, told=OFF)
    same, parent = end_of(twin.directory), end_of(directory)
    weights = [n for n in parent.tensors if n.startswith(("model/", "optim/", "ema/"))]
    assert weights and all(same.tensors[n] == parent.tensors[n] for n in weights)
    assert same.tensors != end_of(report.directory).tensors
    # and what it calls best is its own
    evals = [row for row in rows(twin.directory, "eval") if row["split"] == "val"]
    assert twin.best == min(row["values"]["loss"] for row in evals)
    assert Checkpoints(twin.directory / "checkpoints").best() == twin.best_step


def test_a_branch_resumes_like_any_run(tmp_path):
    parent = train(rich(tmp_path / "a", save=Save(every=Steps(5), keep=9)), told=OFF).directory
    ends = []
    for name, loop in (("b", drive), ("c", crash_at(17)), ("d", crash_at(11))):  # 11: before its first save
        out = tmp_path / name
        try:
            branch(f"{parent}@10", {"host.out": str(out), "optim.lr": 0.05}, drive=loop, trust=True, told=OFF)
        except Crash:
            resume(only(out), trust=True, told=OFF)
        ends.append(end_of(only(out)))
    assert not ends[0].differs(ends[1])
    assert not ends[0].differs(ends[2])


def test_a_branch_may_change_the_optimizer_the_rules_and_the_average_and_says_so(tmp_path, capsys):
    directory = train(small_run(tmp_path), told=OFF).directory
    edits = {"optim": Optim(name="AdamW", lr=0.001), "how.ema": Ema(decay=0.5), "length": Epochs(5)}
    report = branch(directory, edits, trust=True, told=Telling(screen="plain"))
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: the optimizer starts without moments: the checkpoint was written with SGD" in said
    assert "warning: the average of the weights starts from the weights" in said
    assert report.step == 30

    rules = (Rule(name=r"net\.0", frozen=True),)
    frozen = branch(directory, {"rules": rules, "length": Epochs(5)}, trust=True, told=OFF)
    start = Checkpoints(directory / "checkpoints").load()
    assert start is not None
    assert torch.equal(frozen.task.net[0].weight, start.tensors["model"]["net.0.weight"])
    forget(frozen.directory, "run")
    edit_by_hand(frozen.directory, lambda made: made.update(rules=[]))
    with pytest.raises(CheckpointError, match=r"stand under other rules than the run's"):
        resume(frozen.directory, trust=True, told=OFF)


def test_a_branch_of_nothing_is_refused_and_leaves_no_directory(tmp_path):
    with pytest.raises(Crash):
        train(small_run(tmp_path), drive=crash_at(2), told=OFF)
    directory = only(tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint to branch from"):
        branch(directory, trust=True, told=OFF)
    assert [p.name for p in tmp_path.iterdir()] == [directory.name]


# ------------------------------------------------------------------------------------------------------------ init


def test_a_run_starts_from_the_best_weights_of_another_one(tmp_path):
    parent = train(rich(tmp_path), told=OFF)
    fine = rich(tmp_path, init={"model": str(parent.directory)}, name="fine")
    report = train(fine, drive=lambda launch: None, told=OFF)
    assert report.step == 0
    best = Checkpoints(parent.directory / "checkpoints").load(parent.best_step)
    for name, value in report.task.state_dict().items():
        assert torch.equal(value, best.tensors["ema"][name]), name
    made = json.loads((report.directory / "run.json").read_text())
    assert made["init"] == {"model": str(parent.directory)}


# ---------------------------------------------------------------------------------------------- a half turn, a drop


def test_a_signal_between_two_micro_batches_leaves_no_half_turn(tmp_path):
    # the first micro-batch had moved the batch-norm statistics that were saved
    how = How(precision="fp32", accumulate=2)
    whole = train(small_run(tmp_path / "a", how=how), told=OFF).directory

    def loop(launch):
        make, asked = launch.loader.plan.make, []

        def slow(step, micro, *args, **more):
            if (step, micro) == (7, 1) and not asked:
                asked.append(True)
                import signal

                os.kill(os.getpid(), signal.SIGTERM)
            return make(step, micro, *args, **more)

        launch.loader.plan.make = slow
        drive(launch)

    with pytest.raises(Preempted, match="SIGTERM received: saved at step 7"):
        train(small_run(tmp_path / "b", how=how), drive=loop, told=OFF)
    resume(only(tmp_path / "b"), trust=True, told=OFF)
    assert not end_of(only(tmp_path / "b")).differs(end_of(whole))


def test_a_drop_of_the_learning_rate_is_told_after_a_resume_too(tmp_path, capsys):
    run = small_run(tmp_path, schedule=Step(every=Epochs(2), gamma=0.1))
    train(run, told=Telling(screen="plain"))
    line = "learning rate 0.1 -> 0.01  after step 12 (epoch 2.00)"
    assert capsys.readouterr().out.count(line) == 1
    with pytest.raises(Preempted):
        train(run, drive=signal_at(12), told=Telling(screen="plain"))
    assert line not in capsys.readouterr().out
    resume(sorted(tmp_path.glob("small-*"))[-1], trust=True, told=Telling(screen="plain"))
    assert capsys.readouterr().out.count(line) == 1
