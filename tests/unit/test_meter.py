"""Meter: means over a window of steps that need not have the same terms."""

from __future__ import annotations

import pytest
import torch

from visloom.engine import Step
from visloom.meter import Meter, split_names


def step(losses: dict[str, float], bad: bool | None = None, **logs: float) -> Step:
    tensors = [{k: torch.tensor(v) for k, v in values.items()} for values in (losses, logs)]
    flag = None if bad is None else torch.tensor(bad)
    return Step(1, 1.0, *tensors, {"base": 0.1}, None, 0.0, 0.0, (), flag)


def test_a_term_is_averaged_over_the_steps_that_had_it_and_the_loss_over_all():
    meter = Meter()
    for losses in ({"object": 1.0}, {"object": 3.0}, {"scene": 4.0, "part": 2.0}, {"scene": 6.0}):
        meter.add(step(losses))
    losses, logs = split_names(meter.read())
    assert losses == {"object": 2.0, "scene": 5.0, "part": 2.0}
    assert logs == {"loss": (1 + 3 + 6 + 6) / 4}  # the sum of the three means would be 9


def test_skipped_and_passed_over_steps_count_neither_for_terms_nor_for_the_loss():
    meter = Meter()
    for one in (
        step({"a": 1.0}, False),
        step({"a": float("nan"), "b": 1.0}, True),
        step({}),
        step({"b": 5.0}, False),
    ):
        meter.add(one)
    assert meter.read() == {"loss/a": 1.0, "loss/b": 5.0, "loss": 3.0}
    meter.add(step({"a": float("nan")}, True))
    assert meter.read() == {}


def test_the_epoch_is_the_mean_over_its_steps_whatever_the_windows():
    meter, values = Meter(), [1.0, 2.0, 6.0]
    for window in (values[:1], values[1:]):
        for value in window:
            meter.add(step({"a": value}, accuracy=value / 10))
        meter.read()
    assert meter.read_epoch() == pytest.approx({"loss/a": 3.0, "loss": 3.0, "accuracy": 0.3})
    assert meter.read_epoch() == {}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_window_goes_on_from_a_state(cut):
    steps = [
        step({"a": 1.0}, False),
        step({"b": 2.0}, True),
        step({"b": 4.0}, False),
        step({"a": 2.0, "b": 1.0}, False),
    ]
    whole, first, then = Meter(), Meter(), Meter()
    for one in steps:
        whole.add(one)
    for one in steps[:cut]:
        first.add(one)
    then.restore(*first.state(), torch.device("cpu"))
    for one in steps[cut:]:
        then.add(one)
    assert then.read() == whole.read()
