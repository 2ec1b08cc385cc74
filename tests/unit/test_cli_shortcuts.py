"""--limit, --overfit and --dry-run as edits of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.small import Small, small_run
from tests.worlds import Jitter, Numbers
from visloom import shortcuts
from visloom.errors import ConfigError, ContractError, UsageError
from visloom.run import Eval, How
from visloom.schedule import Constant, Cosine
from visloom.stream import Mixture, Ordered, Pair, Shuffled, Split
from visloom.units import Epochs, Steps


def ids(source):
    return {source.read(i).id for i in range(len(source))}


@given(
    size=st.integers(1, 60), count=st.integers(1, 70), limit=st.none() | st.integers(1, 60),
    keep=st.sampled_from([None, "head", "tail"]), share=st.floats(0.1, 0.9), seed=st.integers(0, 3),
)  # fmt: skip
def test_a_limited_source_is_a_part_of_what_it_was(size, count, limit, keep, share, seed):
    source = Numbers(size=size, limit=limit, split=None if keep is None else Split(keep, share, seed))
    if len(source) == 0:
        return
    run = small_run("out", train=Shuffled(source=source, batch=1))
    cut = shortcuts.limited(run, count).train.source
    assert len(cut) == min(count, len(source))
    if (
        limit is None
    ):  # with a limit of its own, the recipe's first samples need not be those of the permutation
        assert ids(cut) <= ids(source)


def test_a_limit_spreads_over_classes_that_come_in_order():
    @dataclass(frozen=True, kw_only=True)
    class Sorted(Numbers):
        def labels_all(self):
            return np.repeat([0, 1, 2, 3], self.size // 4)

    run = small_run("out", train=Shuffled(source=Sorted(size=400), batch=8))
    labels = shortcuts.limited(run, 40).train.source.labels()
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_training_and_validation_halves_of_one_split_stay_apart():
    head, tail = Numbers(size=50, split=Split("head", 0.8)), Numbers(size=50, split=Split("tail", 0.8))
    run = small_run(
        "out",
        train=Shuffled(source=head, batch=8),
        evals={"val": Eval(stream=Ordered(source=tail, batch=8))},
    )
    cut = shortcuts.limited(run, 6)
    train, val = ids(cut.train.source), ids(cut.evals["val"].stream.source)
    assert len(train) == len(val) == 6
    assert train <= ids(head) and val <= ids(tail) and not train & val


def test_batches_shrink_to_what_is_left_and_divide_into_micro_batches():
    run = small_run("out", train=Shuffled(source=Numbers(size=50), batch=8), how=How(accumulate=2))
    assert shortcuts.limited(run, 5).train.batch == 4
    assert shortcuts.limited(run, 20).train.batch == 8
    keep = replace(run, train=replace(run.train, tail="keep"))
    assert shortcuts.limited(keep, 5).train.batch == 8


def test_every_source_of_a_mixture_and_a_pair_is_limited():
    part = Shuffled(source=Numbers(size=50), batch=8)
    for stream in (Mixture(parts=(part, part)), Pair(source=part, target=Mixture(parts=(part, part)))):
        cut = shortcuts.limited(small_run("out", train=stream), 4).train
        assert [len(leaf.source) for leaf in cut.leaves()] == [4] * len(stream.leaves())
        assert len(cut.tickets(0)) <= 8


def test_a_source_of_ones_own_without_a_limit_is_refused_in_words():
    @dataclass(frozen=True)
    class Own:
        def __len__(self):
            return 3

        def read(self, index):
            raise AssertionError("not needed")

    with pytest.raises(ConfigError, match="Own has no `limit`"):
        shortcuts.limited(small_run("out", train=Shuffled(source=Own(), batch=2)), 2)


def test_overfit_trains_and_evaluates_on_the_same_plain_samples():
    run = small_run("out", schedule=Cosine())
    made = shortcuts.overfit(run, 5)
    assert made.train.transform == ()  # those of the evaluation
    assert ids(made.train.source) == ids(made.evals["val"].stream.source)
    assert len(made.train.source) == 5 and made.train.batch == 5
    assert made.length == Steps(shortcuts.OVERFIT_STEPS) and made.schedule == Constant()
    assert made.name == "small-overfit" and made.task == run.task and made.optim == run.optim


def test_overfit_keeps_what_the_user_gave():
    run = small_run("out", schedule=Cosine(), length=Epochs(7))
    made = shortcuts.overfit(run, 5, ["length", "schedule", "evals"])
    assert made.length == Epochs(7) and made.schedule == Cosine()
    assert made.evals["val"].every == run.evals["val"].every


@pytest.mark.parametrize("work", [shortcuts.limited, shortcuts.overfit])
def test_zero_samples_are_a_usage_error(work):
    with pytest.raises(UsageError):
        work(small_run("out"), 0)


# --------------------------------------------------------------------------------------------------- rehearsal


def test_a_rehearsal_does_everything_and_keeps_nothing(tmp_path):
    seen = shortcuts.rehearse(small_run(tmp_path / "runs"))
    assert seen.total == 24 and seen.step_seconds > 0 and seen.checkpoint_bytes > 1000
    assert not (tmp_path / "runs").exists()
    assert "Nothing was kept" in str(seen)


def test_a_rehearsal_leaves_other_runs_alone(tmp_path):
    (tmp_path / "runs" / "small-007").mkdir(parents=True)
    shortcuts.rehearse(small_run(tmp_path / "runs"))
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["small-007"]


@dataclass(frozen=True)
class NoPicture(Small):
    """Draws nothing that can be saved or shown."""

    def draw(self, image, prediction, truth=None):
        raise ContractError("draw is broken")


def test_a_rehearsal_meets_what_training_would_meet(tmp_path):
    with pytest.raises(ContractError, match="draw is broken"):
        shortcuts.rehearse(small_run(tmp_path, task=NoPicture()))
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_says_that_runs_cannot_be_made_there(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out"):
        shortcuts.rehearse(small_run(tmp_path / "file"))


def test_evaluation_transforms_reach_overfit_training():
    run = small_run("out")
    plain = replace(run.evals["val"], stream=replace(run.evals["val"].stream, transform=(Jitter(),)))
    run = replace(run, train=replace(run.train, transform=()), evals={"val": plain})
    assert shortcuts.overfit(run, 4).train.transform == (Jitter(),)
