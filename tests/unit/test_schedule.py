"""Schedules against their formulas, torch's schedulers and recorded curves of the original systems."""

import itertools
import json
import math
import pickle
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visloom.errors import ConfigError
from visloom.schedule import (
    Constant,
    Cosine,
    CosineRestart,
    Curve,
    Cyclic,
    Exp,
    FlatCosine,
    Inv,
    Linear,
    Multistep,
    OneCycle,
    Poly,
    Progress,
    Schedule,
    Step,
    Warmup,
)
from visloom.units import Epochs, Steps


def curve(schedule: Schedule, base: float, total: int, per_epoch: int = 1) -> list[float]:
    return [schedule(base, Progress(step, total, per_epoch)) for step in range(total)]


def near(ours: list[float], theirs: list[float], tolerance: float = 1e-12) -> None:
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-16)


# --- torch


def torch_curve(make, base: float, total: int, key: str = "lr") -> list[float]:
    """The values that updates 0 .. total - 1 use when the scheduler is stepped after each."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "step() before optimizer.step()": there is nothing to optimize here
        scheduler = make(optimizer)
        values = []
        for step in range(total):
            values.append(float(optimizer.param_groups[0][key]))
            if step < total - 1:
                scheduler.step()
    return values


TORCH = torch.optim.lr_scheduler
PAIRS = {
    "StepLR": (lambda o: TORCH.StepLR(o, 7, 0.3), Step(Steps(7), 0.3)),
    "MultiStepLR": (lambda o: TORCH.MultiStepLR(o, [5, 20, 21]), Multistep((Steps(5), Steps(20), Steps(21)))),
    "ExponentialLR": (lambda o: TORCH.ExponentialLR(o, 0.9), Exp(0.9, Steps(1))),
    "PolynomialLR": (lambda o: TORCH.PolynomialLR(o, 40, 0.9), Poly(0.9)),
    "LinearLR": (lambda o: TORCH.LinearLR(o, 1.0, 0.01, 40), Linear(floor_ratio=0.01)),
    "CosineAnnealingLR": (lambda o: TORCH.CosineAnnealingLR(o, 40, 0.001), Cosine(0.001)),
    "warm restarts": (
        lambda o: TORCH.CosineAnnealingWarmRestarts(o, 20, eta_min=0.01),
        CosineRestart((Steps(20), Steps(20)), floor=0.01),
    ),
    "constant warmup": (
        lambda o: TORCH.ConstantLR(o, 0.25, 6),
        Warmup(Constant(), Steps(6), 0.25, "constant"),
    ),
    "linear warmup": (lambda o: TORCH.LinearLR(o, 0.25, 1.0, 6), Warmup(Constant(), Steps(6), 0.25)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_like_torch(name: str) -> None:
    make, ours = PAIRS[name]
    # torch multiplies the running value each step, which loses a few bits
    near(curve(ours, 0.1, 40), torch_curve(make, 0.1, 40))


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(2, 90),
    rise=st.floats(0.05, 0.5),
    shape=st.sampled_from(["cosine", "linear"]),
    three=st.booleans(),
    div=st.floats(1.5, 40),
)
def test_one_cycle_like_torch(total: int, rise: float, shape: str, three: bool, div: float) -> None:
    if abs(rise * total - 1) < 1e-9:  # torch divides by zero
        rise += 0.01

    def make(optimizer):
        return TORCH.OneCycleLR(
            optimizer,
            max_lr=0.4,
            total_steps=total,
            pct_start=rise,
            anneal_strategy="cos" if shape == "cosine" else "linear",
            div_factor=div,
            final_div_factor=100.0,
            three_phase=three,
        )

    ours = OneCycle(rise, div, 100.0, shape, three)
    near(curve(ours, 0.4, total), torch_curve(make, 0.4, total), 1e-10)
    momentum = OneCycle(rise, 0.85 / 0.95, 1.0, shape, three)
    near(curve(momentum, 0.85, total), torch_curve(make, 0.4, total, "momentum"), 1e-10)


def test_one_cycle_of_one_step() -> None:
    assert curve(OneCycle(), 1.0, 1) == [pytest.approx(1 / 25 / 1e4)]


# --- formulas that no fixture and no torch class covers


def test_flat_cosine() -> None:
    flat = FlatCosine(0.7, floor=0.01)
    values = curve(flat, 0.1, 20)
    assert values[:15] == [0.1] * 15  # the bend lies at 14, where the cosine still gives the base value
    near(values[14:], [0.01 + 0.045 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])


def test_flat_cosine_by_epoch_bends_at_an_epoch() -> None:
    values = curve(FlatCosine(0.7, by="epoch"), 0.1, 40, per_epoch=4)  # 10 epochs, bend at epoch 7
    assert values[:28] == [0.1] * 28
    near(values[28:], [0.05 * (1 + math.cos(math.pi * (e - 7) / 3)) for e in (7, 8, 9) for _ in range(4)])


def test_linear_after_warmup_ends_at_zero() -> None:
    triangle = Warmup(Linear(0), Steps(4), start=0.0)
    assert triangle(1.0, Progress(0, 10, 1)) == 0.0
    assert triangle(1.0, Progress(2, 10, 1)) == pytest.approx(0.8 * 0.5)
    assert triangle(1.0, Progress(4, 10, 1)) == 0.6
    assert triangle(1.0, Progress(9, 10, 1)) == pytest.approx(0.1)


def test_cyclic_gamma_draws_peaks_to_the_base() -> None:
    cyclic = Cyclic(peak=5.0, low=1.0, times=4, rise=0.5, shape="linear", gamma=0.5)
    peaks = [max(curve(cyclic, 1.0, 40)[i : i + 10]) for i in (0, 10, 20, 30)]
    near(peaks, [5.0, 3.0, 2.0, 1.5])


def test_steps_left_over_begin_another_cycle() -> None:
    values = curve(Cyclic(times=3), 0.1, 11)  # cycles of 3 steps, two left over
    near(values[9:], values[:2])


def test_step_floor() -> None:
    assert curve(Step(Steps(1), 0.1, floor=0.005), 0.1, 4) == pytest.approx([0.1, 0.01, 0.005, 0.005])


def test_epoch_and_step_marks_mix() -> None:
    assert (
        curve(Multistep((Epochs(2), Steps(3)), 0.5), 1.0, 10, per_epoch=4) == [1] * 3 + [0.5] * 5 + [0.25] * 2
    )


def test_a_fraction_of_an_epoch_is_a_length() -> None:
    assert (
        curve(Warmup(Constant(), Epochs(0.5), 0.5, "constant"), 1.0, 8, per_epoch=4) == [0.5] * 2 + [1.0] * 6
    )


# --- lag


LAGS = {
    # system: (schedule, total, {update: value of a base of 1})
    "mmcv": (Poly(0.9), 10, {0: 1.0, 1: 0.9**0.9, 9: 0.1**0.9}),
    "template": (Poly(0.9, lag=-1), 10, {0: 0.9**0.9, 8: 0.1**0.9, 9: 0.0}),
    "upernet": (Poly(0.9, lag=1), 10, {0: 1.0, 1: 1.0, 2: 0.9**0.9, 9: 0.2**0.9}),
    "maskrcnn": (Multistep((Steps(5),)), 10, {4: 1.0, 5: 0.1}),
    "maskrcnn do_train": (Multistep((Steps(5),), lag=-1), 10, {3: 1.0, 4: 0.1}),
}


@pytest.mark.parametrize("system", LAGS)
def test_lag(system: str) -> None:
    schedule, total, expected = LAGS[system]
    for step, value in expected.items():
        assert schedule(1.0, Progress(step, total, 1)) == pytest.approx(value, rel=1e-12, abs=0), (
            system,
            step,
        )


def test_upernet_recorded_values() -> None:
    values = [Poly(0.9, lag=1)(0.02, Progress(step, 200_000, 5000)) for step in range(4)]
    near(values[:3], [0.02, 0.02, 0.0199999099999775], 1e-12)
    assert values[3] == pytest.approx(0.01999982, abs=1e-9)


def test_lag_of_a_warmup_moves_the_inner_schedule_too() -> None:
    warm = Warmup(Poly(1.0), Steps(4), start=0.0, lag=-1)
    assert warm(1.0, Progress(0, 10, 1)) == pytest.approx(0.25 * 0.9)
    assert warm(1.0, Progress(9, 10, 1)) == 0.0
    with pytest.raises(ValueError, match="set it on one"):
        Warmup(Poly(1.0, lag=-1), Steps(4), lag=-1)


# --- recorded curves


def test_template_curves(shared: Path) -> None:
    cases = json.loads((shared / "parity/seg_schedules.json").read_text())
    assert len(cases) == 6
    momentum = OneCycle(div=0.85 / 0.95, final_div=1, ends="total", lag=-1)
    for case in cases:
        warm = case["kw"].get("warmup_epochs")
        schedule: Schedule
        if case["name"] == "OneCycle":
            schedule = OneCycle(ends="total", lag=-1)
        elif warm:
            schedule = Warmup(Poly(0.9), Epochs(warm), start=0.0, of="base", lag=-1)
        else:
            schedule = Poly(0.9, lag=-1)
        total = case["epochs"] * case["iters"]
        trace = list(zip(*case["trace"], strict=True))
        for column, base in ((0, 0.01), (1, 0.001)):
            near(curve(schedule, base, total, case["iters"]), list(trace[column]))
        if case["name"] == "OneCycle":
            near(curve(momentum, 0.85, total, case["iters"]), list(trace[2]))


def test_maskrcnn_curve(shared: Path) -> None:
    with np.load(shared / "parity/da_math.npz") as record:
        values = record["lr"]
    schedule = Warmup(Multistep((Steps(50_000),)), Steps(500), 1 / 3)
    ours = [schedule(0.001, Progress(step, 60_001, 1)) for step in range(0, 60_001, 50)]
    np.testing.assert_allclose(ours, values, rtol=1e-7)


# --- properties

units = st.one_of(st.integers(1, 60).map(Steps), st.floats(0.1, 8).map(Epochs))
share = st.floats(0.0, 1.0)
floor = st.one_of(
    st.floats(0, 0.5).map(lambda x: {"floor": x}), share.map(lambda x: {"floor_ratio": x}), st.just({})
)
common = st.fixed_dictionaries({"by": st.sampled_from(["step", "epoch"]), "lag": st.integers(-2, 3)})
decays = st.one_of(
    st.builds(lambda u, g, c: Step(u, g, **c), units, st.floats(0.01, 1), common),
    st.builds(lambda u, g, c: Multistep((u,), g, **c), units, st.floats(0.01, 1), common),
    st.builds(lambda u, g, c: Exp(g, u, **c), units, st.floats(0.01, 1), common),
    st.builds(lambda u, g, c: Inv(g, 0.75, u, **c), units, st.floats(0, 2), common),
    st.builds(lambda p, f, c: Poly(p, **f, **c), st.floats(0.2, 3), floor, common),
    st.builds(lambda f, c: Linear(**f, **c), floor, common),
    st.builds(lambda f, c: Cosine(**f, **c), floor, common),
    st.builds(lambda s, f, c: FlatCosine(s, **f, **c), st.floats(0, 0.99), floor, common),
)
cycles = st.one_of(
    st.builds(
        lambda p, n, r, c: Cyclic(p, 0.01, n, r, **c),
        st.floats(1, 9),
        st.integers(1, 9),
        st.floats(0, 0.9),
        common,
    ),
    st.builds(
        lambda r, t, e, c: OneCycle(r, three_phase=t, ends=e, **c),
        st.floats(0, 0.5),
        st.booleans(),
        st.sampled_from(["last", "total"]),
        common,
    ),
)
runs = st.tuples(st.integers(1, 60), st.integers(1, 13))


@settings(max_examples=150, deadline=None)
@given(schedule=decays, run=runs)
def test_decays_fall_from_base_and_stay_in_bounds(schedule: Curve, run: tuple[int, int]) -> None:
    values = curve(schedule, 1.0, *run)
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(values))
    if schedule.lag >= 0:
        assert values[0] == pytest.approx(1.0)


@settings(max_examples=150, deadline=None)
@given(schedule=cycles, run=runs)
def test_cycles_stay_in_bounds(schedule: Curve, run: tuple[int, int]) -> None:
    top = schedule.peak if isinstance(schedule, Cyclic) else 1.0
    values = curve(schedule, 1.0, *run)
    assert all(math.isfinite(value) and 0 <= value <= top * (1 + 1e-12) for value in values)


@settings(max_examples=150, deadline=None)
@given(schedule=st.one_of(decays, cycles), run=runs, base=st.floats(1e-6, 10), data=st.data())
def test_a_value_depends_on_its_arguments_alone(schedule: Curve, run, base: float, data) -> None:
    """Any order of calls, any copy of the schedule: the same bits; one base does not disturb another."""
    forward = curve(schedule, base, *run)
    order = data.draw(st.permutations(range(run[0])))
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    for step in order:
        copy(base * 2, Progress(step, *run))
        assert copy(base, Progress(step, *run)) == forward[step]


@settings(max_examples=100, deadline=None)
@given(schedule=st.one_of(decays, cycles), run=runs)
def test_by_epoch_is_fixed_during_an_epoch(schedule: Curve, run: tuple[int, int]) -> None:
    total, per_epoch = run
    values = curve(replace(schedule, by="epoch", lag=0), 1.0, total, per_epoch)
    for epoch in range(0, total, per_epoch):
        assert len(set(values[epoch : epoch + per_epoch])) == 1
    if not isinstance(schedule, FlatCosine):  # its bend moves to an epoch
        at_begin = curve(replace(schedule, by="step", lag=0), 1.0, total, per_epoch)[::per_epoch]
        assert values[::per_epoch] == at_begin


@settings(max_examples=150, deadline=None)
@given(
    inner=decays,
    length=st.integers(1, 40),
    start=st.floats(0.01, 1),
    shape=st.sampled_from(["constant", "linear", "exp"]),
    of=st.sampled_from(["inner", "base"]),
    run=runs,
)
def test_warmup_is_continuous_and_then_gone(inner, length, start, shape, of, run) -> None:
    inner = replace(inner, lag=0)
    warm = Warmup(inner, Steps(length), start, shape, of)
    values, plain = curve(warm, 1.0, *run), curve(inner, 1.0, *run)
    assert values[length:] == plain[length:]
    assert values[0] == pytest.approx(start)
    factors = [v / (p if of == "inner" else 1.0) for v, p in zip(values, plain, strict=True) if p > 1e-9]
    if of == "inner":
        assert all(f <= 1 + 1e-12 for f in factors)
    if shape == "linear" and of == "inner":
        jump = (1 - start) / length
        assert all(abs(b - a) <= jump + 1e-9 for a, b in itertools.pairwise(factors))
    if shape == "constant":
        assert factors[: min(length, len(factors))] == pytest.approx([start] * min(length, len(factors)))


def test_periods_must_cover_the_run() -> None:
    schedule = CosineRestart((Steps(10), Epochs(2)))
    assert schedule(1.0, Progress(0, 18, 4)) == 1.0
    with pytest.raises(ConfigError, match="steps:10, epochs:2 cover 18 steps, but the run has 19") as caught:
        schedule(1.0, Progress(0, 19, 4))
    assert caught.value.path == "schedule.periods"


BAD = {
    "gamma": lambda: Step(Steps(1), 0.0),
    "marks must rise": lambda: Multistep((Steps(5), Steps(3))),
    "floor or floor_ratio": lambda: Cosine(0.1, floor_ratio=0.1),
    "by must be": lambda: Poly(by="iter"),  # type: ignore[arg-type]
    "lag is a whole": lambda: Poly(lag=0.5),  # type: ignore[arg-type]
    "power": lambda: Poly(0.0),
    "start is a share": lambda: FlatCosine(1.0),
    "one number per period": lambda: CosineRestart((Steps(1), Steps(2)), (1.0,)),
    "at least one length": lambda: CosineRestart(()),
    "times": lambda: Cyclic(times=0),
    "rise": lambda: OneCycle(1.1),
    "shape must be": lambda: OneCycle(shape="cos"),  # type: ignore[arg-type]
    "start is a factor": lambda: Warmup(Constant(), Steps(1), 2.0),
    "start must be positive": lambda: Warmup(Constant(), Steps(1), 0.0, "exp"),
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_options_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_a_schedule_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Halves(Schedule):
        def __call__(self, base: float, at: Progress) -> float:
            return base / (at.step + 1)

    assert curve(Warmup(Halves(), Steps(2), 0.5, "constant"), 1.0, 4) == [0.5, 0.25, 1 / 3, 0.25]
    with pytest.raises(TypeError, match="must define __call__"):
        Schedule()(1.0, Progress(0, 1, 1))
    with pytest.raises(TypeError, match="must define value"):
        Curve()(1.0, Progress(0, 1, 1))


def test_cycles_round_down() -> None:
    values = curve(Cyclic(peak=2.0, rise=0.4), 1.0, 7)  # 2.8 steps up are 2
    assert values.index(max(values)) == 2
    assert values[2] == 2.0
