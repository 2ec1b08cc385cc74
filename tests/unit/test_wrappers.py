"""Sources made of sources: which sample stands where, by formulas of their own."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visloom.config import dump
from visloom.data.arrays import Arrays
from visloom.data.wrappers import Balanced, ClassBalanced, Concat, Repeat
from visloom.errors import ConfigError, DataError
from visloom.labels import balanced_weights, counts, presence
from visloom.sample import Sample
from visloom.stream import Ordered, Shuffled, Source, Split, rooted


@dataclass(frozen=True, kw_only=True)
class Plain(Source):
    """Samples of given labels (numbers, or rows of several), with no array in memory."""

    given: tuple = ()

    def count(self) -> int:
        return len(self.given)

    def fetch(self, index: int) -> Sample:
        return Sample(f"s{index}", np.full((2, 2, 3), index, np.uint8), self.given[index])

    def labels_all(self):
        if not self.given:
            return None
        return None if self.given and np.ndim(self.given[0]) else np.asarray(self.given, np.int64)

    def multilabels_all(self):
        return np.asarray(self.given) if self.given and np.ndim(self.given[0]) else None


def arrays(folder: Path, count: int, value: int, names: tuple[str, ...] = ("a", "b", "c")) -> Arrays:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((count, 2, 2, 3), np.uint8)
    return Arrays.write(folder, images + value, np.arange(count) % 3, names)


def test_concat(tmp_path: Path) -> None:
    a, b = arrays(tmp_path / "a", 4, 0), arrays(tmp_path / "b", 5, 100)
    both = Concat(parts=(a, Repeat(source=b, times=2)))
    assert len(both) == 14
    seen = [both.read(i) for i in range(14)]
    assert [int(s.image[0, 0, 0]) for s in seen] == [0, 1, 2, 3, *range(100, 105), *range(100, 105)]
    assert len({s.id for s in seen}) == 14
    assert (seen[4].id, seen[9].id) == ("1/images/000000", "1/images/000000#2")
    order = np.array([13, 0, 6, 2, 4])
    stacked = both.read_batch(order)
    assert stacked is not None
    for at, index in enumerate(order):
        one, same = stacked[at], seen[index]
        assert (one.id, one.label) == (same.id, same.label)
        np.testing.assert_array_equal(one.image, same.image)
    assert both.labels().tolist() == [s.label for s in seen]
    assert both.sizes().tolist() == [[2, 2]] * 14
    assert both.classes() == ("a", "b", "c")


def test_concat_of_other_classes_is_an_error(tmp_path: Path) -> None:
    both = Concat(parts=(arrays(tmp_path / "a", 4, 0), arrays(tmp_path / "b", 4, 0, ("a", "c", "b"))))
    with pytest.raises(ConfigError, match="have different classes"):
        len(both)


def test_parts_without_arrays_are_read_one_by_one(tmp_path: Path) -> None:
    both = Concat(parts=(arrays(tmp_path / "a", 4, 0), Plain(given=(0, 1))))
    assert both.read_batch(np.array([0, 5])) is None
    assert both.read(5).id == "1/s1"


rows = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(labels=rows, threshold=st.floats(0.01, 1.0))
def test_class_balanced_repeats_by_the_published_formula(labels: list[int], threshold: float) -> None:
    source = ClassBalanced(source=Plain(given=tuple(labels)), threshold=threshold)
    share = {label: n / len(labels) for label, n in Counter(labels).items()}
    expected = [
        i for i, label in enumerate(labels)
        for _ in range(math.ceil(max(1.0, math.sqrt(threshold / share[label]))))
    ]  # fmt: skip
    assert source.order().tolist() == expected
    assert len({source.read(i).id for i in range(len(source))}) == len(expected)


def test_class_balanced_takes_the_rarest_of_several_classes() -> None:
    targets = ((1, 0, 0), (1, 1, 0), (1, 0, -1), (0, 0, 0), *((1, 0, 0),) * 12)
    source = ClassBalanced(source=Plain(given=targets), threshold=0.5)
    factors = np.ones(16)
    factors[1] = math.sqrt(0.5 / (1 / 16))  # difficult ones do not count; a picture of nothing stands once
    np.testing.assert_allclose(source.factors(), factors)
    assert len(source) == 15 + 3


@given(labels=rows, power=st.floats(0, 1), key=st.integers(0, 3))
def test_balanced_repeats_until_even_and_loses_nothing(labels: list[int], power: float, key: int) -> None:
    source = Balanced(source=Plain(given=tuple(labels)), power=power, key=key)
    turns = Counter(source.order().tolist())
    assert set(turns) == set(range(len(labels)))
    per_class, most = Counter(labels), max(Counter(labels).values())
    for label, n in per_class.items():
        mine = [turns[i] for i, other in enumerate(labels) if other == label]
        assert sum(mine) == max(n, math.floor(most * (n / most) ** (1 - power) + 0.5))
        assert max(mine) - min(mine) <= 1  # no sample of a class stands much more often than another
    if power == 1:
        assert len({sum(turns[i] for i, o in enumerate(labels) if o == k) for k in per_class}) == 1


def test_which_samples_stand_once_more_is_drawn_by_the_key() -> None:
    labels = (0,) * 10 + (1,) * 7
    orders = {tuple(Balanced(source=Plain(given=labels), key=key).order().tolist()) for key in range(6)}
    assert len(orders) > 3


def test_streams_of_wrappers_are_functions_of_the_step(tmp_path: Path) -> None:
    source = Balanced(source=arrays(tmp_path, 7, 0))
    stream = Shuffled(source=source, batch=3)
    again = Shuffled(source=Balanced(source=arrays(tmp_path, 7, 0)), batch=3)
    for step in (0, 4, 11):
        one, other = stream.load(stream.tickets(step)), again.load(again.tickets(step))
        assert [s.id for s in one] == [s.id for s in other]
    assert stream.in_memory()
    ids = [s.id for step in range(3) for s in Ordered(source=source, batch=3).load(
        Ordered(source=source, batch=3).tickets(step))]  # fmt: skip
    assert len(set(ids)) == 9


def test_roots_reach_the_sources_inside() -> None:
    stream = rooted(
        Shuffled(source=Repeat(source=Concat(parts=(Arrays(root="a"), Arrays(root="b"))), times=2), batch=1),
        "/data",
    )
    inside = stream.source.source
    assert [part.root for part in inside.parts] == ["/data/a", "/data/b"]


def test_a_wrapper_is_written_down_and_read_again() -> None:
    from visloom.config import change
    from visloom.recipes.cifar10 import cifar10

    run = change(
        cifar10(), {"train.source": {"kind": "ClassBalanced", "source": {"kind": "Cifar"}, "threshold": 0.1}}
    )
    assert isinstance(run.train.source, ClassBalanced)
    assert dump(change(run, {})) == dump(run)


def test_what_makes_no_sense_is_refused() -> None:
    plain = Plain(given=(0, 1))
    with pytest.raises(ValueError, match="split stands in the source inside"):
        Repeat(source=plain, times=2, split=Split("head", 0.5))
    for wrong in (lambda: Repeat(source=plain, times=0), lambda: ClassBalanced(source=plain, threshold=0.0),
                  lambda: Balanced(source=plain, power=2.0), lambda: Concat(parts=())):  # fmt: skip
        with pytest.raises(ValueError, match=", got "):
            wrong()
    with pytest.raises(DataError, match="no single label per sample"):
        len(Balanced(source=Plain(given=((1, 0), (0, 1)))))


def test_counts_and_weights() -> None:
    source = Plain(given=(0, 0, 0, 2, -1))
    assert presence(source).sample.tolist() == [0, 1, 2, 3]
    assert counts(source, 3).tolist() == [3, 0, 1]
    assert balanced_weights([3, 0, 1]) == pytest.approx((4 / 6, 1.0, 2.0))
    assert counts(Plain(given=((1, 1, 0), (0, 1, -1))), 3).tolist() == [1, 2, 0]
    with pytest.raises(DataError, match="nothing to weight by"):
        balanced_weights([0, 0])


def test_labels_of_several_classes_in_arrays_are_counted(tmp_path: Path) -> None:
    rows = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], np.float32)
    source = Arrays.write(tmp_path, np.zeros((4, 2, 2, 3), np.uint8), rows)
    assert counts(source, 2).tolist() == [3, 2]
    assert counts(Concat(parts=(source, source)), 2).tolist() == [6, 4]
    with pytest.raises(DataError, match="does not know its labels"):
        counts(Plain(), 2)


def test_weights_agree_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.random.default_rng(0).integers(0, 5, 200) ** 2 % 5
    there = np.unique(labels)
    theirs = sk.compute_class_weight("balanced", classes=there, y=labels)
    ours = np.asarray(balanced_weights(np.bincount(labels, minlength=5)))
    np.testing.assert_allclose(ours[there], theirs)
