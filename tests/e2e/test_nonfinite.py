"""Non-finite gradients: stop, skip, go back; nothing broken is ever saved, and an interruption changes nothing."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

from tests.lives import OFF, Crash, crash_at, end_of, only, rows, signal_at
from tests.small import Small, small_run
from tests.worlds import Jitter, Numbers
from visloom.checkpoint import Checkpoints
from visloom.drive import Telling, branch, drive, resume, train
from visloom.errors import NonFiniteError, Preempted
from visloom.run import Ema, Eval, How, Log, Save
from visloom.stream import Ordered, Shuffled
from visloom.units import Monitor, NonFinite, Steps

BAD = ("n9", "n33")  # in steps 2, 5, 8, 11, ... of a stream in order: 6 steps an epoch, 8 samples a step


def run(out, policy, *, bad=BAD, precision="fp32", accumulate=1, **changes):
    """24 steps in order: n9 is in steps 2, 8, 14, 20 (from 1), n33 in 5, 11, 17, 23."""
    fields = {
        "task": Small(poison=bad),
        "train": Shuffled(source=Numbers(size=48), batch=8, transform=(Jitter(),), shuffle=False),
        "evals": {
            "val": Eval(
                stream=Ordered(source=Numbers(size=8), batch=8),
                every=Steps(3),
                monitor=Monitor("min", "loss"),
            )
        },
        "how": How(precision=precision, accumulate=accumulate, non_finite=policy, ema=Ema(decay=0.9)),
        "save": Save(every=Steps(4), keep=9),
        "log": Log(every=Steps(6), tensorboard=False, report=False, images=0),
    }
    return small_run(out, **{**fields, **changes})


def finite(directory):
    """Whether every tensor of every checkpoint is finite."""
    checkpoints = Checkpoints(directory / "checkpoints")
    return all(
        torch.isfinite(tensor).all()
        for step in checkpoints.steps()
        for part in checkpoints.load(step).tensors.values()
        for tensor in part.values()
    )


def listed(directory):
    return [row["step"] for row in json.loads((directory / "nonfinite.json").read_text())]


PRECISIONS = pytest.mark.parametrize(
    ("precision", "accumulate"), [("fp32", 1), ("bf16", 2), ("fp16", 1), ("fp16", 2)]
)


# ------------------------------------------------------------------------------------------------------------ stop


@PRECISIONS
def test_stop_names_the_samples_and_saves_nothing_after(tmp_path, precision, accumulate):
    with pytest.raises(NonFiniteError) as error:
        train(
            run(tmp_path, NonFinite("stop"), bad=("n33",), precision=precision, accumulate=accumulate),
            told=OFF,
        )
    directory = only(tmp_path)
    assert error.value.exit_code == 5
    told = str(error.value)
    some = "n32, n33, n34, n35" if accumulate == 1 else "n32, n34, n36, n38"
    assert f"step 5: the gradient was not finite (samples {some}, ...)" in told
    assert f"visloom branch {directory} how.non_finite=skip" in told
    assert Checkpoints(directory / "checkpoints").steps() == [3, 4]  # 3 was the best
    assert finite(directory)
    (row,) = json.loads((directory / "nonfinite.json").read_text())
    assert (row["step"], sorted(row["samples"])) == (5, [f"n{i}" for i in range(32, 40)])
    with pytest.raises(NonFiniteError):  # it is a function of the run: trying again changes nothing
        resume(directory, trust=True, told=OFF)
    report = branch(directory, {"how.non_finite": NonFinite("skip")}, trust=True, told=OFF)
    assert report.step == 24
    assert finite(report.directory)


def test_an_evaluation_does_not_hide_a_bad_step(tmp_path):
    # the flags were read, and thrown away, before each evaluation
    with pytest.raises(NonFiniteError, match="step 2: "):
        train(
            run(
                tmp_path,
                NonFinite("stop"),
                save=Save(every=None),
                log=Log(every=Steps(24), images=0, report=False),
            ),
            told=OFF,
        )
    assert not rows(only(tmp_path), "eval")


def test_ignore_does_reach_the_weights(tmp_path):
    # the mutant of this file: without the policies the poison works
    directory = train(run(tmp_path, NonFinite("ignore")), told=OFF).directory
    assert not finite(directory)
    assert math.isnan(rows(directory, "train")[0]["values"]["loss"])


# ------------------------------------------------------------------------------------------------------------ skip


@PRECISIONS
def test_skip_goes_on_and_tells(tmp_path, precision, accumulate, capsys):
    value = run(tmp_path, NonFinite("skip"), precision=precision, accumulate=accumulate)
    directory = train(value, told=Telling(screen="plain")).directory
    bad = [2, 5, 8, 11, 14, 17, 20, 23]
    assert finite(directory)  # batch-norm statistics and the average too
    assert listed(directory) == bad
    assert [step for row in rows(directory, "skipped") for step in row["steps"]] == bad
    assert [row["step"] for row in rows(directory, "skipped")] == [6, 12, 18, 24]  # at log points
    assert end_of(directory).data["ledger"]["bad"] == [step - 1 for step in bad]
    assert "passed over 2 update(s) (2, 5): the gradient was not finite" in capsys.readouterr().out
    for row in rows(directory, "train") + rows(directory, "epoch") + rows(directory, "eval"):
        assert math.isfinite(row["values"]["loss"])  # one bad step does not hide the others


def test_values_of_a_window_with_skipped_steps_are_those_of_the_others(tmp_path):
    skipping = run(tmp_path, NonFinite("skip"), bad=("n9",), log=Log(every=Steps(1), images=0, report=False))
    each = {row["step"]: row["values"]["loss"] for row in rows(train(skipping, told=OFF).directory, "train")}
    assert sorted(set(range(1, 25)) - each.keys()) == [2, 8, 14, 20]
    window = run(tmp_path, NonFinite("skip"), bad=("n9",))
    for row in rows(train(window, told=OFF).directory, "train"):
        mine = [value for step, value in each.items() if row["step"] - 6 < step <= row["step"]]
        assert row["values"]["loss"] == pytest.approx(sum(mine) / len(mine), rel=1e-6)


# -------------------------------------------------------------------------------------------------------- rollback


@PRECISIONS
def test_rollback_passes_over_and_ends_finite(tmp_path, precision, accumulate, capsys):
    value = run(tmp_path, NonFinite("rollback", 9), precision=precision, accumulate=accumulate)
    report = train(value, told=Telling(screen="plain"))
    directory = report.directory
    bad = [2, 5, 8, 11, 14, 17, 20, 23]
    assert report.step == 24
    assert finite(directory)
    assert listed(directory) == bad
    end = end_of(directory).data
    assert end["skipped"] == [step - 1 for step in bad]
    assert end["ledger"]["rollbacks"] == 8
    assert sorted(step for row in rows(directory, "skipped") for step in row["steps"]) == bad
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"step 2: the gradient was not finite \(samples n8, [^)]*\); back to step 0, passing over 1", said
    )
    assert re.search(r"step 11: the gradient was not finite \(samples n32, [^)]*\); back to step (8|9)", said)
    assert all(math.isfinite(row["values"]["loss"]) for row in rows(directory, "train"))
    assert [row["step"] for row in rows(directory, "eval")] == list(range(3, 25, 3))


def test_rollback_takes_no_update_that_skip_would_not_take(tmp_path):
    ends = [
        end_of(train(run(tmp_path, policy), told=OFF).directory)
        for policy in (NonFinite("skip"), NonFinite("rollback", 9))
    ]
    # the average, too, stands still while a step is passed over
    names = [n for n in ends[0].tensors if n.startswith(("model/", "optim/"))]
    assert names and all(ends[0].tensors[n] == ends[1].tensors[n] for n in names)


def test_a_bad_last_step_still_ends_with_a_save_and_an_evaluation(tmp_path):
    value = run(tmp_path, NonFinite("rollback", 2), bad=("n41",), length=Steps(6))
    report = train(value, told=OFF)
    assert report.step == 6
    assert Checkpoints(report.directory / "checkpoints").latest() == 6
    assert [row["step"] for row in rows(report.directory, "eval")] == [3, 6]
    assert [row["step"] for row in rows(report.directory, "train")] == [6]


def test_rollbacks_come_to_an_end(tmp_path):
    with pytest.raises(NonFiniteError, match="step 11: "):
        train(run(tmp_path, NonFinite("rollback", 3)), told=OFF)
    assert finite(only(tmp_path))
    assert listed(only(tmp_path)) == [2, 5, 8, 11]


@pytest.mark.parametrize("policy", [NonFinite("skip"), NonFinite("rollback", 9)], ids=str)
@pytest.mark.parametrize("at", [1, 2, 4, 5, 6, 9, 11, 12, 23, 24])
@pytest.mark.parametrize("how", [crash_at, signal_at])
def test_policies_survive_an_interruption(tmp_path, policy, at, how, reference):
    with pytest.raises((Crash, Preempted)):
        train(run(tmp_path, policy), drive=how(at), told=OFF)
    resume(only(tmp_path), trust=True, told=OFF)
    assert not end_of(only(tmp_path)).differs(reference[str(policy)])
    assert finite(only(tmp_path))
    assert listed(only(tmp_path)) == [2, 5, 8, 11, 14, 17, 20, 23]


@pytest.fixture(scope="module")
def reference(module_path):
    """How the two policies end when nothing interrupts them."""
    policies = NonFinite("skip"), NonFinite("rollback", 9)
    return {
        str(p): end_of(train(run(module_path / str(p).replace(":", "-"), p), told=OFF).directory)
        for p in policies
    }


def test_a_signal_after_a_bad_step_saves_nothing_broken_and_says_so(tmp_path):
    # the rollback that the save asks for went past everybody
    with pytest.raises(Preempted, match=r"not saved \(step 5: .*the last checkpoint is of step 4"):
        train(run(tmp_path, NonFinite("rollback", 9), bad=("n33",)), drive=signal_at(5), told=OFF)
    assert Checkpoints(only(tmp_path) / "checkpoints").latest() == 4
    report = resume(only(tmp_path), trust=True, told=OFF)
    assert report.step == 24 and finite(report.directory)


def test_the_scaler_survives_an_interruption(tmp_path):
    whole = end_of(train(run(tmp_path / "a", NonFinite("skip"), precision="fp16"), told=OFF).directory)
    assert whole.data["scaler"]["scale"] < 2**16  # it has fallen with each bad step
    with pytest.raises(Crash):
        train(run(tmp_path / "b", NonFinite("skip"), precision="fp16"), drive=crash_at(15), told=OFF)
    resume(only(tmp_path / "b"), trust=True, told=OFF, drive=drive)
    assert not end_of(only(tmp_path / "b")).differs(whole)
