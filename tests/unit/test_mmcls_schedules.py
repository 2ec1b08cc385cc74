"""mmcv's lr_config and momentum_config as schedules: the recorded curves, and a runner of mmcv's kind, step by step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from visloom.convert.mmcls_schedules import Scheduled, lr_schedule, momentum_schedule
from visloom.errors import ConfigError
from visloom.schedule import Constant, Cosine, Multistep, Progress, Warmup
from visloom.units import Epochs, Steps


def curve(found: Scheduled, base: float, total: int, per_epoch: int) -> list[float]:
    base = base if found.base is None else found.base
    return [found.schedule(base, Progress(step, total, per_epoch)) for step in range(total)]


def near(ours: list[float], theirs: list[float]) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


# --- recorded curves


def test_recorded_learning_rates(shared: Path) -> None:
    record = json.loads((shared / "parity/mmcls_lr.json").read_text())
    assert len(record["curves"]) == 154
    for case in record["curves"].values():
        near(curve(lr_schedule(case["cfg"]), 0.1, 60, 6), case["lr"])
    assert len(record["iter_runner"]) == 2
    for case in record["iter_runner"].values():
        near(curve(lr_schedule(case["cfg"], by_epoch=False), 0.1, 60, 6), case["lr"])


def test_recorded_momenta(shared: Path) -> None:
    record = json.loads((shared / "parity/mmcls_lr.json").read_text())
    assert len(record["momentum"]) == 5
    for name, case in record["momentum"].items():
        exact = momentum_schedule(case["cfg"], compat=True)
        assert exact is not None
        near(curve(exact, 0.9, 60, 6), case["momentum"])
        right = momentum_schedule(case["cfg"])
        assert right is not None
        assert bool(right.notes) == ("warm" in name)
        if "warm" in name:  # theirs starts at 1.8 or does nothing; ours rises from 0.45
            assert curve(right, 0.9, 60, 6)[0] == pytest.approx(0.45, rel=1e-12)
            assert max(curve(right, 0.9, 60, 6)) < 0.9
        else:
            near(curve(right, 0.9, 60, 6), case["momentum"])


# --- an independent account of what mmcv does: a runner that sets a value at the events at which its hooks do


def cosine(start: float, end: float, share: float, weight: float = 1.0) -> float:
    return end + 0.5 * weight * (start - end) * (math.cos(math.pi * share) + 1)


def linear(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def phases(cfg: dict, what: str, total: int) -> list[tuple[float, str, str]]:
    """OneCycle: where each phase ends, and the names of its values."""
    rise = cfg.get("pct_start", 0.3)
    low, high = ("first", "peak") if what == "lr" else ("max", "base")
    last = "last" if what == "lr" else "max"
    if cfg.get("three_phase", False):
        ends = [(rise * total - 1, low, high), (2 * rise * total - 2, high, low), (total - 1, low, last)]
    else:
        ends = [(rise * total - 1, low, high), (total - 1, high, last)]
    return ends


def regular(cfg: dict, what: str, base: float, epoch: int, step: int, epochs: int, steps: int) -> float:
    """The value without warmup."""
    by_epoch = cfg.get("by_epoch", cfg["policy"] not in ("cyclic", "OneCycle"))
    p, top = (epoch, epochs) if by_epoch else (step, steps)
    own, ratio = cfg.get(f"min_{what}"), cfg.get(f"min_{what}_ratio")
    end = base * ratio if ratio is not None else own
    match cfg["policy"]:
        case "fixed":
            return base
        case "step":
            if isinstance(cfg["step"], int):
                times = p // cfg["step"]
            else:
                times = next((i for i, mark in enumerate(cfg["step"]) if p < mark), len(cfg["step"]))
            value = base * cfg.get("gamma", 0.1 if what == "lr" else 0.5) ** times
            return value if own is None else max(value, own)
        case "exp":
            return base * cfg["gamma"] ** p
        case "poly":
            low = cfg.get("min_lr", 0.0)
            return (base - low) * (1 - p / top) ** cfg.get("power", 1.0) + low
        case "inv":
            return base * (1 + cfg["gamma"] * p) ** -cfg.get("power", 1.0)
        case "CosineAnnealing":
            return cosine(base, end, p / top)
        case "LinearAnnealing":
            return linear(base, end, p / top)
        case "FlatCosineAnnealing":
            start = round(top * cfg.get("start_percent", 0.75))
            return base if p - start < 0 else cosine(base, end, (p - start) / (top - start))
        case "CosineRestart":
            begin = 0
            for period, weight in zip(cfg["periods"], cfg.get("restart_weights", [1]), strict=True):
                if p < begin + period:
                    return cosine(base, end, min((p - begin) / period, 1), weight)
                begin += period
            raise AssertionError(p)
        case "cyclic":
            ratios = cfg.get("target_ratio", (10, 1e-4) if what == "lr" else (0.85 / 0.95, 1))
            high, low = ratios if isinstance(ratios, tuple) else (ratios, ratios / 1e5)
            whole = steps // cfg.get("cyclic_times", 1)
            up = int(cfg.get("step_ratio_up", 0.4) * whole)
            anneal = linear if cfg.get("anneal_strategy", "cos") == "linear" else cosine
            scale = cfg.get("gamma", 1) ** (step // whole)
            high = 1 - scale + high * scale
            at = step % whole
            if at < up:
                return anneal(base, base * high, at / up)
            return anneal(base * high, base * low, (at - up) / (whole - up))
        case "OneCycle":
            anneal = linear if cfg.get("anneal_strategy", "cos") == "linear" else cosine
            if what == "lr":
                first = cfg["max_lr"] / cfg.get("div_factor", 25)
                values = {"first": first, "peak": first * cfg.get("div_factor", 25)}
                values["last"] = first / cfg.get("final_div_factor", 1e4)
            else:
                values = {"max": cfg.get("max_momentum", 0.95), "base": cfg.get("base_momentum", 0.85)}
            begin = 0.0
            for stop, a, b in phases(cfg, what, cfg.get("total_steps", steps)):
                if step <= stop:
                    return anneal(values[a], values[b], (step - begin) / (stop - begin))
                begin = stop
            raise AssertionError(step)
        case other:
            raise AssertionError(other)


def runner(
    cfg: dict, what: str, base: float, epochs: int, per_epoch: int, right: bool = False
) -> list[float]:
    """The value in force at each iteration: set before an epoch, and before an iteration, as the hooks do.

    right: a warmup of momentum multiplies, as one of the learning rate does.
    """
    steps = epochs * per_epoch
    by_epoch = cfg.get("by_epoch", cfg["policy"] not in ("cyclic", "OneCycle"))
    until = cfg.get("warmup_iters", 0) * (per_epoch if cfg.get("warmup_by_epoch") else 1)
    shape, ratio = cfg.get("warmup"), cfg.get("warmup_ratio", 0.1 if what == "lr" else 0.9)
    in_force, seen = base, []
    for step in range(steps):
        epoch = step // per_epoch
        usual = regular(cfg, what, base, epoch, step, epochs, steps)
        if by_epoch and step % per_epoch == 0:
            in_force = usual
        if shape is None or step >= until:
            in_force = usual
        else:
            left = 1 - step / until
            factor = {"constant": ratio, "linear": 1 - left * (1 - ratio), "exp": ratio**left}[shape]
            if what == "lr" or right:
                in_force = usual * factor
            elif shape != "constant":  # their list of momenta is empty there: nothing is set
                in_force = usual / factor
        seen.append(in_force)
    return seen


positive = st.floats(0.01, 0.99)


def ends(what: str):
    return st.one_of(
        st.fixed_dictionaries({f"min_{what}": st.floats(0, 0.05)}),
        st.fixed_dictionaries({f"min_{what}_ratio": st.floats(0, 1)}),
    )


def optional(**options):
    return st.fixed_dictionaries({}, optional=options)


def joined(policy: str, *parts):
    return st.tuples(*parts).map(
        lambda found: {"policy": policy, **{k: v for p in found for k, v in p.items()}}
    )


def policies(what: str):
    shared = [
        joined(
            "step",
            st.fixed_dictionaries(
                {"step": st.one_of(st.integers(1, 20), st.lists(st.integers(1, 40), max_size=4))}
            ),
            optional(**{"gamma": st.floats(0.05, 1), f"min_{what}": st.floats(0, 0.05)}),
        ),
        joined("CosineAnnealing", ends(what)),
        joined("LinearAnnealing", ends(what)),
        joined(
            "cyclic",
            optional(
                target_ratio=st.one_of(st.floats(1, 20), st.tuples(st.floats(0.1, 20), st.floats(0, 2))),
                cyclic_times=st.integers(1, 5),
                step_ratio_up=st.floats(0, 0.99),
                anneal_strategy=st.sampled_from(["cos", "linear"]),
                gamma=st.floats(0.1, 1),
            ),
        ),
    ]
    one_cycle = {
        "pct_start": st.floats(0.05, 0.95),
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "three_phase": st.booleans(),
    }
    if what == "momentum":
        own = {"base_momentum": st.floats(0.1, 0.9), "max_momentum": st.floats(0.9, 0.99)}
        return st.one_of(*shared, joined("OneCycle", optional(**one_cycle, **own)))
    own = {
        "div_factor": st.floats(1, 50),
        "final_div_factor": st.floats(1, 1e5),
        "total_steps": st.integers(70, 200),
    }
    return st.one_of(
        *shared,
        st.just({"policy": "fixed"}),
        joined("exp", st.fixed_dictionaries({"gamma": st.floats(0.3, 1.1)})),
        joined("poly", optional(power=st.floats(0, 4), min_lr=st.floats(0, 0.2))),
        joined("inv", st.fixed_dictionaries({"gamma": st.floats(0, 2)}), optional(power=st.floats(0, 2))),
        joined("FlatCosineAnnealing", ends(what), optional(start_percent=st.floats(0, 1))),
        joined(
            "CosineRestart",
            ends(what),
            st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 2)), min_size=1, max_size=4).map(
                lambda rows: {
                    "periods": [a for a, _ in rows] + [70],
                    "restart_weights": [b for _, b in rows] + [1],
                }
            ),
        ),
        joined(
            "OneCycle", st.fixed_dictionaries({"max_lr": st.floats(0.01, 1)}), optional(**one_cycle, **own)
        ),
    )


def warmups(what: str):
    by_epoch = {"warmup_by_epoch": st.booleans()} if what == "lr" else {}
    return st.one_of(
        st.just({}),
        st.tuples(
            st.fixed_dictionaries(
                {"warmup": st.sampled_from(["constant", "linear", "exp"]), "warmup_iters": st.integers(1, 15)}
            ),
            optional(warmup_ratio=st.floats(0.01, 1), **by_epoch),
        ).map(lambda pair: {**pair[0], **pair[1]}),
    )


def configs(what: str):
    def with_unit(pair):
        cfg, by_epoch = pair
        if by_epoch is None or (by_epoch and cfg["policy"] in ("cyclic", "OneCycle")):
            return cfg
        return {**cfg, "by_epoch": by_epoch}

    whole = st.tuples(policies(what), warmups(what)).map(lambda pair: {**pair[0], **pair[1]})
    return st.tuples(whole, st.sampled_from([None, True, False])).map(with_unit)


@settings(max_examples=150)
@given(cfg=configs("lr"), epochs=st.integers(1, 12), per_epoch=st.integers(1, 5))
def test_any_lr_config(cfg: dict, epochs: int, per_epoch: int) -> None:
    assume(cfg["policy"] != "cyclic" or epochs * per_epoch >= cfg.get("cyclic_times", 1))
    if cfg["policy"] == "OneCycle":  # a phase of no length divides by zero there
        total, rise = cfg.get("total_steps", epochs * per_epoch), cfg.get("pct_start", 0.3)
        assume(min(abs(rise * total - 1), abs((1 - rise) * total)) > 1e-3)
        assume(not cfg.get("three_phase") or abs(2 * rise * total - 2 - total + 1) > 1e-3)
    found = lr_schedule(cfg, compat=True)
    base = 0.1 if found.base is None else found.base
    near(curve(found, 0.1, epochs * per_epoch, per_epoch), runner(cfg, "lr", base, epochs, per_epoch))
    rising = not isinstance(cfg.get("step"), list) or cfg["step"] == sorted(cfg["step"])
    if rising:
        assert lr_schedule(cfg) == found  # in learning rates nothing else of the original is wrong


@settings(max_examples=120)
@given(cfg=configs("momentum"), epochs=st.integers(1, 12), per_epoch=st.integers(1, 5))
def test_any_momentum_config(cfg: dict, epochs: int, per_epoch: int) -> None:
    total = epochs * per_epoch
    assume(cfg["policy"] != "cyclic" or total >= cfg.get("cyclic_times", 1))
    if cfg["policy"] == "OneCycle":
        assume(
            cfg.get("warmup") != "constant"
        )  # what is in force then is the optimizer's, which it has changed
        rise = cfg.get("pct_start", 0.3)
        assume(min(abs(rise * total - 1), abs((1 - rise) * total)) > 1e-3)
        assume(not cfg.get("three_phase") or abs(2 * rise * total - 2 - total + 1) > 1e-3)
    if cfg["policy"] == "cyclic" and cfg.get("warmup") == "constant":
        assume(int(cfg.get("step_ratio_up", 0.4) * (total // cfg.get("cyclic_times", 1))) > 0)
    found = momentum_schedule(cfg, compat=True)
    assert found is not None
    assume(not isinstance(cfg.get("step"), list) or cfg["step"] == sorted(cfg["step"]))
    base = 0.9 if found.base is None else found.base
    near(curve(found, 0.9, total, per_epoch), runner(cfg, "momentum", base, epochs, per_epoch))
    right = momentum_schedule(cfg)
    assert right is not None
    near(curve(right, 0.9, total, per_epoch), runner(cfg, "momentum", base, epochs, per_epoch, right=True))


# --- what a schedule is made of, and what is refused


def test_published_configs_become_readable_schedules() -> None:
    assert lr_schedule({"policy": "step", "step": [100, 150]}).schedule == Multistep(
        (Epochs(100), Epochs(150)), by="epoch"
    )
    warm = {"warmup": "linear", "warmup_iters": 2500, "warmup_ratio": 0.25}
    cosine = lr_schedule({"policy": "CosineAnnealing", "min_lr": 0, **warm})
    assert cosine == Scheduled(Warmup(Cosine(by="epoch"), Steps(2500), 0.25))
    assert lr_schedule(None) == Scheduled(Constant())
    assert momentum_schedule(None) is None
    assert lr_schedule({"policy": "OneCycle", "max_lr": 0.5}).base == 0.5


def test_marks_that_do_not_rise_are_refused_unless_compat_asks_for_them() -> None:
    cfg = {"policy": "step", "step": [7, 3, 9]}
    with pytest.raises(ConfigError, match="must rise"):
        lr_schedule(cfg)
    found = curve(lr_schedule(cfg, compat=True), 1.0, 12, 1)
    near(found, runner(cfg, "lr", 1.0, 12, 1))
    assert found[5] == 1.0
    assert found[7] == pytest.approx(0.01)  # the mark at 3 waited for the one at 7


BAD = {
    "policy 'Cosine'": {"policy": "Cosine"},
    "did you mean": {"policy": "CosineAnneling", "min_lr": 0},
    "exactly one of them is given, got none": {"policy": "CosineAnnealing"},
    "got min_lr and min_lr_ratio": {"policy": "CosineAnnealing", "min_lr": 0, "min_lr_ratio": 0.1},
    "step is missing": {"policy": "step"},
    "lr_config.step is a whole number": {"policy": "step", "step": [3, 0]},
    "lr_config.gama is no option of the policy Exp": {"policy": "exp", "gamma": 0.9, "gama": 1},
    "by_epoch must be false": {"policy": "cyclic", "by_epoch": True},
    "warmup is constant, linear or exp": {"policy": "fixed", "warmup": "lin", "warmup_iters": 3},
    "warmup_iters is a whole number above 0": {"policy": "fixed", "warmup": "linear"},
    "warmup_ratio is above 0": {"policy": "fixed", "warmup": "linear", "warmup_iters": 3, "warmup_ratio": 0},
    "restart_weights needs one number": {"policy": "CosineRestart", "periods": [3, 4], "min_lr": 0},
    "for each group": {"policy": "OneCycle", "max_lr": [0.1, 0.2]},
    "is a dict with a policy": {"step": [3]},
    "gamma must be positive": {"policy": "exp", "gamma": -1},
    "gamma is a number, got True": {"policy": "exp", "gamma": True},
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_configs_are_refused_by_name(message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lr_schedule(BAD[message])
    assert message in str(caught.value)
    assert caught.value.path.startswith("lr_config")


def test_momentum_has_fewer_policies() -> None:
    with pytest.raises(ConfigError, match="no policy 'poly' for the momentum"):
        momentum_schedule({"policy": "poly"})
    with pytest.raises(ConfigError, match="warmup_by_epoch is no option"):
        momentum_schedule({"policy": "step", "step": 3, "warmup_by_epoch": True})
    with pytest.raises(ConfigError, match="div_factor is no option"):
        momentum_schedule({"policy": "OneCycle", "div_factor": 3})


def test_a_one_cycle_shorter_than_the_run_is_an_error() -> None:
    found = lr_schedule({"policy": "OneCycle", "max_lr": 0.5, "total_steps": 20})
    with pytest.raises(ConfigError, match="length of steps:20"):
        curve(found, 0.1, 21, 1)


# --- schedules by epoch under a runner that counts iterations


@pytest.mark.parametrize(
    "policy", [{"policy": "poly"}, {"policy": "step", "step": [2], "warmup": "exp", "warmup_iters": 4}]
)
def test_a_runner_of_iterations_never_begins_an_epoch_in_the_original(policy: dict) -> None:
    config = {**policy, "by_epoch": True}
    theirs = lr_schedule(config, by_epoch=False, compat=True)  # seen with mmcv 1.2.5: the rate stays
    near(curve(theirs, 0.1, 12, 3), [0.1] * 12)
    ours = lr_schedule(config, by_epoch=False)
    assert "never" in " ".join(ours.notes)
    near(curve(ours, 0.1, 12, 3), curve(lr_schedule(config), 0.1, 12, 3))
    assert not lr_schedule(config, compat=True).notes
    plain = lr_schedule(policy, by_epoch=False, compat=True)
    near(curve(plain, 0.1, 12, 3), curve(lr_schedule({**policy, "by_epoch": False}), 0.1, 12, 3))


def test_there_a_momentum_goes_by_epoch_where_the_config_does_not_say() -> None:
    cosine = {"policy": "CosineAnnealing", "min_momentum": 0.1}
    for config in (cosine, {**cosine, "by_epoch": True}):
        theirs = momentum_schedule(config, by_epoch=False, compat=True)
        assert theirs is not None
        near(curve(theirs, 0.9, 12, 3), [0.9] * 12)
    ours = momentum_schedule(cosine, by_epoch=False)
    said = momentum_schedule({**cosine, "by_epoch": False}, by_epoch=False, compat=True)
    assert ours is not None and said is not None
    near(curve(ours, 0.9, 12, 3), curve(said, 0.9, 12, 3))
    cyclic = momentum_schedule({"policy": "cyclic"}, by_epoch=False, compat=True)
    assert cyclic is not None and curve(cyclic, 0.9, 12, 3)[2] < 0.9
