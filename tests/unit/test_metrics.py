"""Metrics: exact counts, merging that is independent of the split, and the numbers of an independent formula."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visloom.errors import ConfigError, DataError
from visloom.metrics import Confusion, Metric, TopK, hard_labels, majority, merge_sums, merge_tables


@dataclass
class Labelled:
    """All that these metrics read of a batch."""

    label: torch.Tensor


def answers(scores: np.ndarray) -> dict[str, torch.Tensor]:
    table = torch.from_numpy(scores)
    return {"probabilities": table, "label": table.max(1).indices}


def draw(seed: int, samples: int, classes: int, missing: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random((samples, classes)).astype(np.float32)
    label = rng.integers(0, classes, samples)
    label[rng.random(samples) < missing] = -1
    return scores, label


def fed(metric: Metric, scores: np.ndarray, label: np.ndarray) -> Metric:
    metric.update(answers(scores), Labelled(torch.from_numpy(label)))
    return metric


def test_both_keep_the_protocol_and_name_their_values_before_any_data() -> None:
    for metric in (TopK((1, 5), classes=10), Confusion(("a", "b"))):
        assert isinstance(metric, Metric)
        assert set(metric.names) == set(metric.compute())
    assert TopK((1, 3, 5), classes=10).names == ("accuracy", "top3", "top5")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(6, 30), samples=st.integers(1, 200))
def test_top_k_is_the_rank_of_the_label(seed: int, classes: int, samples: int) -> None:
    scores, label = draw(seed, samples, classes)
    found = fed(TopK((1, 2, 5), classes=classes), scores, label).compute()
    known = label >= 0
    if not known.any():
        assert all(np.isnan(value) for value in found.values())
        return
    order = np.argsort(-scores, axis=1, kind="stable")
    for name, k in (("accuracy", 1), ("top2", 2), ("top5", 5)):
        expected = (order[known, :k] == label[known, None]).any(1).mean()
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_top_k_of_a_constant_answer_is_chance_and_of_nan_is_zero() -> None:
    label = np.arange(1000) % 10
    constant = np.full((1000, 10), 0.1, np.float32)
    assert fed(TopK((5,), classes=10), constant, label).compute() == {"top5": 0.5}
    broken = np.full((1000, 10), np.nan, np.float32)
    assert fed(TopK((5,), classes=10), broken, label).compute() == {"top5": 0.0}


@pytest.mark.parametrize(
    ("ks", "classes", "words"),
    [
        ((1, 5), 4, "top-5 of 4 classes"),
        ((5,), 5, "top-5 of 5 classes"),
        ((0,), 5, "top-0"),
        ((), 5, "one or more"),
    ],
)
def test_a_top_k_that_says_nothing_is_a_config_error(ks: tuple[int, ...], classes: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TopK(ks, classes=classes)
    assert caught.value.path == "task.topk"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), samples=st.integers(1, 120))
def test_confusion_agrees_with_scikit_learn(seed: int, classes: int, samples: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    scores, label = draw(seed, samples, classes)
    metric = fed(Confusion([f"c{i}" for i in range(classes)]), scores, label)
    known = label >= 0
    truth, guess = label[known], scores.argmax(1)[known]
    names = list(range(classes))
    tables = metric.tables()
    matrix = sk.confusion_matrix(truth, guess, labels=names) if known.any() else np.zeros((classes, classes))
    assert np.array_equal(tables["confusion"]["matrix"], matrix)
    per_class = [[0.0] * classes] * 3 + [[0] * classes]
    if known.any():
        per_class = sk.precision_recall_fscore_support(truth, guess, labels=names, zero_division=0)
    rows = tables["per_class"]["rows"]
    for column, expected in enumerate(per_class, start=1):
        assert [row[column] for row in rows] == pytest.approx(list(expected), abs=1e-12)
    found = metric.compute()
    assert found == pytest.approx(
        {name: np.mean(per_class[i]) for i, name in enumerate(metric.names)}, abs=1e-12
    )


def test_macro_values_by_hand_with_an_empty_class() -> None:
    # truth a a a b, answered a a b b; class c never occurs and counts as 0
    scores = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    metric = fed(Confusion(("a", "b", "c")), scores, np.array([0, 0, 0, 1]))
    assert metric.compute() == pytest.approx(
        {"precision": (1 + 1 / 2 + 0) / 3, "recall": (2 / 3 + 1 + 0) / 3, "f1": (0.8 + 2 / 3 + 0) / 3}
    )
    assert metric.tables()["per_class"]["columns"] == ["class", "precision", "recall", "f1", "samples"]
    assert metric.tables()["per_class"]["rows"][2] == ["c", 0.0, 0.0, 0.0, 0]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    samples=st.integers(1, 80),
    cuts=st.lists(st.integers(0, 80), max_size=4),
    processes=st.integers(1, 4),
)
def test_any_split_into_batches_and_processes_gives_the_same_bits(
    seed: int, samples: int, cuts: list[int], processes: int
) -> None:
    scores, label = draw(seed, samples, 7)
    for make in (lambda: TopK((1, 3), classes=7), lambda: Confusion("abcdefg")):
        whole = fed(make(), scores, label)
        ranks = [make() for _ in range(processes)]
        edges = sorted({0, samples, *(min(cut, samples) for cut in cuts)})
        for i, (start, stop) in enumerate(pairwise(edges)):
            fed(ranks[i % processes], scores[start:stop], label[start:stop])
        states = [rank.state() for rank in ranks]
        for rank in ranks:  # every process merges the same states and reports the same
            rank.merge(states)
            assert repr(rank.compute()) == repr(whole.compute())
            assert rank.tables() == whole.tables()


def test_soft_labels_count_by_their_largest_entry_and_empty_ones_not_at_all() -> None:
    soft = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.0, 0.0]])
    assert hard_labels(soft).tolist() == [1, 0, -1]
    assert hard_labels(torch.tensor([2, -1])).tolist() == [2, -1]


def test_counts_stay_exact_beyond_float32() -> None:
    metric = Confusion(("a", "b"))
    metric.merge([{"matrix": torch.tensor([[2**24, 0], [0, 0]])}, {"matrix": torch.tensor([[1, 0], [0, 0]])}])
    assert metric.tables()["confusion"]["matrix"][0][0] == 2**24 + 1


def test_merging_refuses_strangers_and_repeats() -> None:
    with pytest.raises(ValueError, match="different names"):
        merge_sums([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
    with pytest.raises(ValueError, match="at least one"):
        merge_sums([])
    assert list(merge_tables([{"b": 1, "d": 2}, {"a": 3}])) == ["a", "b", "d"]
    with pytest.raises(DataError, match="'b' was evaluated twice"):
        merge_tables([{"b": 1}, {"b": 1}])


def test_merging_leaves_the_states_alone() -> None:
    state = {"n": torch.tensor([1])}
    assert merge_sums([state, state])["n"].item() == 2
    assert state["n"].item() == 1


def test_majority_names_the_commonest_class() -> None:
    assert majority([0, 1, 1, -1, 2], ("cat", "dog", "eel")) == ("dog", 0.5)
    assert majority([1, 0], ("cat", "dog")) == ("cat", 0.5)
    with pytest.raises(DataError, match="no"):
        majority([-1, -1], ("cat", "dog"))


def test_importing_metrics_does_not_import_torch() -> None:
    code = "import sys, visloom.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
