"""Pixel metrics against the template's recorded answers, scikit-learn's matrix, and their own edges."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visloom.errors import ConfigError
from visloom.tasks.segment import PixelMetrics, SegmentBatch
from visloom.tasks.segment.metrics import confusion, summary


def batch_of(mask: torch.Tensor, sizes=None) -> SegmentBatch:
    count, height, width = mask.shape
    return SegmentBatch(
        ids=tuple(str(i) for i in range(count)), image=torch.zeros(count, height, width, 3, dtype=torch.uint8),
        mask=mask.to(torch.int16), sizes=sizes or ((height, width),) * count,
    )  # fmt: skip


def measured(
    predicted: torch.Tensor, mask: torch.Tensor, classes: int, background: str = ""
) -> dict[str, float]:
    metric = PixelMetrics([str(i) for i in range(classes)], background)
    metric.update({"mask": list(predicted.to(torch.uint8))}, batch_of(mask))
    return metric.compute()


def test_recorded_cases(shared):
    for case in json.loads((shared / "parity/seg_metrics.json").read_text()):
        predicted = torch.tensor(case["pred"]).reshape(case["shape"])
        target = torch.tensor(case["target"]).reshape(case["shape"])
        target[target == case["ignore"]] = -1
        metric = PixelMetrics([str(i) for i in range(case["C"])])
        metric.update({"mask": list(predicted.to(torch.uint8))}, batch_of(target))
        matrix = metric.state()["matrix"]
        assert int(matrix.sum()) == case["labeled"]
        assert int(matrix.diagonal().sum()) == case["correct"]
        hits = matrix.diagonal().double()
        assert hits.tolist() == case["inter"]
        assert (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).double().tolist() == case["union"]
        values = metric.compute()
        assert values["pixel_accuracy"] == pytest.approx(case["pix_acc"], abs=1e-12)
        assert values["miou_all"] == pytest.approx(case["miou_all"], abs=1e-12)
        assert values["miou"] == pytest.approx(case["miou_present"], abs=1e-12)


def test_absent_classes_do_not_depress_the_mean():
    """Defect 25: 59 classes, 51 of them there; both means are reported."""
    mask = torch.tensor([[[0, 0, 1, 1]]])
    values = measured(torch.tensor([[[0, 0, 1, 0]]]), mask, 4)
    assert values["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["miou_all"] == pytest.approx((2 / 3 + 1 / 2) / 4)
    # a false alarm of an absent class costs the class that it should have been
    assert measured(torch.tensor([[[0, 3, 1, 1]]]), mask, 4)["miou"] == pytest.approx((1 / 2 + 1) / 2)


def test_counts_stay_exact_beyond_what_float32_counts():
    """Defect 26: the original's histogram stops at 2^24 pixels of a class."""
    count = 2**24 + 3
    truth = torch.zeros(1, 1, count, dtype=torch.int16)
    predicted = torch.zeros(1, count, dtype=torch.uint8)
    predicted[0, 0] = 1
    metric = PixelMetrics(("a", "b"))
    for _ in range(2):
        metric.update({"mask": [predicted]}, batch_of(truth))
    assert metric.state()["matrix"].tolist() == [[2 * (count - 1), 2], [0, 0]]
    assert metric.state()["matrix"].dtype == torch.int64


@given(st.integers(0, 10_000), st.integers(2, 200))
def test_the_matrix_is_scikit_learns(seed, classes):
    from sklearn.metrics import confusion_matrix

    draws = np.random.default_rng(seed)
    truth, predicted = draws.integers(-1, classes, 60), draws.integers(0, classes, 60)
    ours = confusion(
        torch.tensor(truth, dtype=torch.int16), torch.tensor(predicted, dtype=torch.uint8), classes
    )
    known = truth >= 0
    theirs = confusion_matrix(truth[known], predicted[known], labels=range(classes)) if known.any() else 0
    assert (ours.numpy() == theirs).all()


def test_any_division_into_batches_and_processes_gives_the_same():
    torch.manual_seed(0)
    mask, predicted = torch.randint(-1, 5, (6, 4, 3)), torch.randint(0, 5, (6, 4, 3))
    whole = measured(predicted, mask, 5, "0")
    parts = []
    for rows in ([0, 3, 4], [1], [2, 5]):
        part = PixelMetrics([str(i) for i in range(5)], "0")
        part.update({"mask": list(predicted[rows].to(torch.uint8))}, batch_of(mask[rows]))
        parts.append(part)
    parts[1].merge([part.state() for part in parts])
    assert parts[1].compute() == whole


def test_padding_of_ragged_pictures_is_not_counted():
    mask = torch.full((2, 4, 4), -1)
    mask[0] = 1
    mask[1, :2, :3] = 0
    metric = PixelMetrics(("a", "b"))
    predicted = [torch.ones(4, 4, dtype=torch.uint8), torch.zeros(2, 3, dtype=torch.uint8)]
    metric.update({"mask": predicted}, batch_of(mask, ((4, 4), (2, 3))))
    assert metric.state()["matrix"].tolist() == [[6, 0], [0, 16]]


def test_foreground_leaves_the_background_out():
    values = measured(torch.tensor([[[0, 0, 1, 2, 2, 0]]]), torch.tensor([[[0, 1, 1, 2, 1, -1]]]), 3, "0")
    assert values["foreground_accuracy"] == pytest.approx(2 / 4)
    assert "foreground_accuracy" not in measured(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), 3)
    with pytest.raises(ConfigError, match="none of the classes"):
        PixelMetrics(("a", "b"), "c")


def test_frequency_weights_and_mean_accuracy():
    matrix = [[6, 2], [1, 1]]
    values = summary(matrix)
    assert values["fwiou"] == pytest.approx((8 * 6 / 9 + 2 * 1 / 4) / 10)
    assert values["mean_accuracy"] == pytest.approx((6 / 8 + 1 / 2) / 2)


def test_nothing_labelled_is_nan_not_zero():
    values = measured(torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1), 3)
    assert all(math.isnan(value) for value in values.values())


def test_tables_of_the_report():
    metric = PixelMetrics(("sky", "road", "never"))
    metric.update({"mask": [torch.tensor([[0, 1]])]}, batch_of(torch.tensor([[[0, 0]]])))
    tables = metric.tables()
    assert tables["confusion"]["matrix"] == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert tables["per_class"]["rows"][0] == ["sky", 1.0, 0.5, "100.00 %", 0.5]
    assert tables["per_class"]["rows"][2][-1] is None
