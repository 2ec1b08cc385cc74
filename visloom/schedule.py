"""Schedules: what turns a base learning rate (or momentum) into the value that one update uses.

A schedule is a pure function of `(base, Progress)`. It has no state, so nothing is saved and a resumed run
cannot get it wrong: the engine calls it before each update and assigns the result. Each schedule is a frozen
dataclass and so its own config: `Warmup(Poly(0.9), Steps(500))`.

Two options are common to all curves, because the systems that people come from differ in little else:

`by`: "step" follows the progress smoothly; "epoch" evaluates the formula at the first step of the running
epoch, so that the value is fixed during an epoch.

`lag`: the value used by update t (0-based) is f(t - lag), with t - lag clamped at 0. f(0) is the base value.

    system                          lag   because
    mmcv, mmcls                       0   the hook assigns before the update
    torch, scheduler.step() last      0   update t runs after t scheduler steps
    CenterFusion                      0   changed between epochs
    maskrcnn-benchmark                0   scheduler.step() after the update
    maskrcnn-benchmark, do_train     -1   scheduler.step() before the update
    PyTorch-segmentation template    -1   steps before the update: the first update never sees the base value,
                                          the last one of Poly has learning rate 0
    UPerNet (unifiedparsing)         +1   set after the update from the index of the update just done: the
                                          first two updates both use the base value

A schedule of momentum is the same object; its base is SGD's `momentum` or the first of Adam's `betas`. In
mmcv a warmup of momentum divides by the factor that it multiplies the learning rate by (momentum 0.9 with
ratio 0.5 starts at 1.8, which diverges); `Warmup` multiplies, unless its `compat` is set.
`visloom/convert/mmcls_schedules.py` turns mmcv's lr_config and momentum_config into these schedules.

A learning rate that falls linearly to zero after a warmup is `Warmup(Linear(0), length)`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from visloom.errors import ConfigError
from visloom.units import Epochs, Steps, to_steps


class Progress(NamedTuple):
    """Where a run stands just before an update. (A tuple, because one is made every step.)

    step: updates already done, 0 .. total - 1.  total: updates of the whole run.
    steps_per_epoch: updates of one pass over the training stream.
    """

    step: int
    total: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Schedule:
    """A pure function `(base, Progress) -> value`. One of your own is a frozen dataclass with `__call__`."""

    def __call__(self, base: float, at: Progress) -> float:
        """Return the value that the update at this progress uses."""
        raise TypeError(f"{type(self).__name__} must define __call__(base, at)")


@dataclass(frozen=True)
class Constant(Schedule):
    """base. (mmcv: fixed.)"""

    def __call__(self, base: float, at: Progress) -> float:
        """Return base."""
        return base


@dataclass(frozen=True, kw_only=True)
class Curve(Schedule):
    """A schedule given by a formula over the step p; subclasses write the formula as `value`.

    lag: p = max(0, step - lag); see the table at the top of this file.
    by: "epoch" moves p to the first step of its epoch.
    Raises ValueError for options out of range, as all curves do.
    """

    lag: int = 0
    by: Literal["step", "epoch"] = "step"

    def __post_init__(self) -> None:
        _one_of("by", self.by, "step", "epoch")
        _require(type(self.lag) is int, f"lag is a whole number of updates, got {self.lag!r}")

    def __call__(self, base: float, at: Progress) -> float:
        """Return the value that the update at this progress uses."""
        step = max(0, at.step - self.lag)
        if self.by == "epoch":
            step -= step % at.steps_per_epoch
        return self.value(base, at if step == at.step else at._replace(step=step))

    def value(self, base: float, at: Progress) -> float:
        """Return f(p) with p = at.step."""
        raise TypeError(f"{type(self).__name__} must define value(base, at)")


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _one_of(name: str, value: str, *allowed: str) -> None:
    _require(value in allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _steps(length: Steps | Epochs, at: Progress) -> int:
    return to_steps(length, at.steps_per_epoch, 1)


def _fraction(at: Progress) -> float:
    """Share of the run that is done; 1 past its end, so that no curve rises or turns complex there."""
    return min(1.0, at.step / at.total)


def _anneal(shape: str, start: float, end: float, fraction: float) -> float:
    if shape == "linear":
        return start + (end - start) * fraction
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * fraction))


# --- decays without an end


@dataclass(frozen=True)
class Step(Curve):
    """base * gamma ** (p // every), never below `floor`. (torch StepLR; mmcv step with one number.)"""

    every: Steps | Epochs
    gamma: float = 0.1
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gamma > 0, f"gamma must be positive, got {self.gamma}")

    def value(self, base: float, at: Progress) -> float:
        return max(self.floor, base * math.pow(self.gamma, at.step // _steps(self.every, at)))


@dataclass(frozen=True)
class Multistep(Curve):
    """base * gamma ** (number of marks <= p), never below `floor`.

    A mark holds at the step it names: with `at=(Epochs(30),)` the 31st epoch is the first that is lower.
    Source: torch MultiStepLR; mmcv step with a list; maskrcnn-benchmark WarmupMultiStepLR.
    """

    at: tuple[Steps | Epochs, ...]
    gamma: float = 0.1
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gamma > 0, f"gamma must be positive, got {self.gamma}")
        for unit in (Steps, Epochs):
            marks = [mark.n for mark in self.at if isinstance(mark, unit)]
            _require(marks == sorted(marks), f"the marks must rise, got {', '.join(map(str, self.at))}")

    def value(self, base: float, at: Progress) -> float:
        marks = sorted(_steps(mark, at) for mark in self.at)
        return max(self.floor, base * math.pow(self.gamma, bisect_right(marks, at.step)))


@dataclass(frozen=True)
class Exp(Curve):
    """base * gamma ** (p / per). (torch ExponentialLR; mmcv exp.)

    mmcv by epoch is `Exp(gamma, Epochs(1), by="epoch")`; `Exp(gamma, Epochs(1))` falls as fast, but smoothly.
    """

    gamma: float
    per: Steps | Epochs = Epochs(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gamma > 0, f"gamma must be positive, got {self.gamma}")

    def value(self, base: float, at: Progress) -> float:
        return base * math.pow(self.gamma, at.step / _steps(self.per, at))


@dataclass(frozen=True)
class Inv(Curve):
    """base * (1 + gamma * p / per) ** -power. (Caffe inv; mmcv inv.)"""

    gamma: float
    power: float = 1.0
    per: Steps | Epochs = Steps(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gamma >= 0, f"gamma must not be negative, got {self.gamma}")

    def value(self, base: float, at: Progress) -> float:
        return base * math.pow(1.0 + self.gamma * at.step / _steps(self.per, at), -self.power)


# --- decays to a floor


@dataclass(frozen=True, kw_only=True)
class Decay(Curve):
    """A curve with an end value, given in one of two ways.

    floor: the end value itself.  floor_ratio: the end value as a share of base. At most one is set.
    """

    floor: float = 0.0
    floor_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.floor_ratio is None or self.floor == 0.0,
            f"set floor or floor_ratio, not both (floor={self.floor}, floor_ratio={self.floor_ratio})",
        )

    def end(self, base: float) -> float:
        """Return the end value."""
        return self.floor if self.floor_ratio is None else base * self.floor_ratio


@dataclass(frozen=True)
class Poly(Decay):
    """end + (base - end) * (1 - p / total) ** power. (DeepLab, PSPNet; mmcv poly; torch PolynomialLR.)"""

    power: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.power > 0, f"power must be positive, got {self.power}")

    def value(self, base: float, at: Progress) -> float:
        end = self.end(base)
        return end + (base - end) * math.pow(1.0 - _fraction(at), self.power)


@dataclass(frozen=True)
class Linear(Decay):
    """base + (end - base) * p / total. (mmcv LinearAnnealing.)"""

    floor: float = 0.0

    def value(self, base: float, at: Progress) -> float:
        return _anneal("linear", base, self.end(base), _fraction(at))


@dataclass(frozen=True)
class Cosine(Decay):
    """end + (base - end) * (1 + cos(pi * p / total)) / 2.

    Source: Loshchilov, Hutter, "SGDR", 2017; mmcv CosineAnnealing; torch CosineAnnealingLR, T_max = total.
    """

    floor: float = 0.0

    def value(self, base: float, at: Progress) -> float:
        return _anneal("cosine", base, self.end(base), _fraction(at))


@dataclass(frozen=True)
class FlatCosine(Decay):
    """base for the share `start` of the run, then a cosine to the end value. (mmcv FlatCosineAnnealing.)

    The bend lies at a whole step, or a whole epoch with `by="epoch"`: round(start * total).
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.start < 1, f"start is a share of the run, 0 <= start < 1, got {self.start}")

    def value(self, base: float, at: Progress) -> float:
        grain = at.steps_per_epoch if self.by == "epoch" else 1
        bend = round(self.start * (at.total / grain)) * grain
        if at.step <= bend or bend >= at.total:
            return base
        return _anneal("cosine", base, self.end(base), min(1.0, (at.step - bend) / (at.total - bend)))


@dataclass(frozen=True)
class CosineRestart(Decay):
    """A cosine per period: end + w * (base - end) * (1 + cos(pi * q)) / 2.

    q: share of the running period that is done.  w: that period's entry in `weights`; all 1 if empty.
    The periods must cover the run: ConfigError on the first call otherwise.
    Source: Loshchilov, Hutter, "SGDR", 2017; mmcv CosineRestart.
    """

    periods: tuple[Steps | Epochs, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.periods) > 0, "periods must name at least one length")
        _require(
            len(self.weights) in (0, len(self.periods)),
            f"weights needs one number per period: {len(self.periods)} periods, {len(self.weights)} weights",
        )

    def value(self, base: float, at: Progress) -> float:
        ends = list(accumulate(_steps(period, at) for period in self.periods))
        if ends[-1] < at.total:
            raise ConfigError(
                f"CosineRestart: the periods {', '.join(map(str, self.periods))} cover {ends[-1]} steps, but "
                f"the run has {at.total}; add a period or make the last one longer",
                path="schedule.periods",
            )
        i = min(bisect_right(ends, at.step), len(ends) - 1)
        begin = ends[i - 1] if i else 0
        end = self.end(base)
        weight = self.weights[i] if self.weights else 1.0
        done = min(1.0, (at.step - begin) / (ends[i] - begin))
        return end + weight * (_anneal("cosine", base, end, done) - end)


# --- up and down


@dataclass(frozen=True)
class Cyclic(Curve):
    """From base up to base * peak, then down to base * low, `times` times. (mmcv cyclic.)

    A cycle is total // times steps long and goes up for the first int(rise * cycle) of them; steps left over
    after the last cycle begin another.
    gamma: each cycle peaks closer to base, at base * (1 + (peak - 1) * gamma ** number of cycles done).
    For momentum the usual values are `peak=0.85 / 0.95, low=1.0`.
    """

    peak: float = 10.0
    low: float = 1e-4
    times: int = 1
    rise: float = 0.4
    shape: Literal["cosine", "linear"] = "cosine"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.times >= 1, f"times must be at least 1, got {self.times}")
        _require(0 <= self.rise < 1, f"rise is a share of the cycle, 0 <= rise < 1, got {self.rise}")
        _one_of("shape", self.shape, "cosine", "linear")

    def value(self, base: float, at: Progress) -> float:
        length = max(1, at.total // self.times)
        cycle, step = divmod(at.step, length)
        up = int(self.rise * length)
        top = base * (1.0 + (self.peak - 1.0) * math.pow(self.gamma, cycle))
        if step < up:
            return _anneal(self.shape, base, top, step / up)
        return _anneal(self.shape, top, base * self.low, (step - up) / (length - up))


@dataclass(frozen=True)
class OneCycle(Curve):
    """From base / div up to base, then down to base / div / final_div. Base is the peak (torch: max_lr).

    rise: share of the run that goes up (torch: pct_start).
    three_phase: come down to base / div in as many steps as it went up, then anneal to the end value.
    ends: "last": the last update has the end value and the peak lies at rise * total - 1 (torch OneCycleLR,
        mmcv 1.7 OneCycle); "total": one update more would have it and the peak lies at int(rise * total), as
        in the other schedules here (the template, with lag -1).
    length: of the whole cycle, where it is longer than the run, which then ends inside it (torch, mmcv:
        total_steps); None is the run's.
    For momentum set the optimizer's to the lowest value, 0.85: `OneCycle(div=0.85 / 0.95, final_div=1)`.
    Source: Smith, Topin, "Super-convergence", 2018.
    """

    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    shape: Literal["cosine", "linear"] = "cosine"
    three_phase: bool = False
    ends: Literal["last", "total"] = "last"
    length: Steps | Epochs | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.rise <= 1, f"rise is a share of the run, 0 <= rise <= 1, got {self.rise}")
        _require(self.div > 0 and self.final_div > 0, "div and final_div must be positive")
        _one_of("shape", self.shape, "cosine", "linear")
        _one_of("ends", self.ends, "last", "total")

    def value(self, base: float, at: Progress) -> float:
        first, last = base / self.div, base / self.div / self.final_div
        total = at.total if self.length is None else _steps(self.length, at)
        if total < at.total:
            raise ConfigError(
                f"OneCycle: its length of {self.length} is {total} steps, but the run has {at.total}; "
                "make it longer, or leave it out to take the run's",
                path="schedule.length",
            )
        if self.ends == "last":
            peak, end = self.rise * total - 1.0, total - 1.0
        else:
            peak, end = float(int(self.rise * total)), float(total)
        middle = [(peak, base), (2.0 * peak, first)] if self.three_phase else [(peak, base)]
        knots = [(0.0, first), *middle, (end, last)]
        for (x0, y0), (x1, y1) in pairwise(knots):
            if at.step <= x1 and x1 > x0:
                return _anneal(self.shape, y0, y1, (at.step - x0) / (x1 - x0))
        return last if self.rise < 1 else base


# --- warmup


@dataclass(frozen=True)
class Warmup(Curve):
    """`inner` times a factor that reaches 1 after `length`. With k = p / length and k < 1 the factor is

    constant: start    linear: 1 - (1 - k) * (1 - start)    exp: start ** (1 - k)

    of: what the factor multiplies until then: "inner", the schedule that is already running (mmcv,
        maskrcnn-benchmark), or "base" (timm; the template's Poly with warmup_epochs).
    compat: mmcv's warmup of momentum, which divides by the factor; a constant one leaves the momentum alone, at
        its first value or, where `inner` goes by epoch, at the epoch's.
    `lag` and `by` of the warmup hold for `inner` too, so `lag` is set on one of the two at most.
    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """

    inner: Schedule
    length: Steps | Epochs
    start: float = 0.1
    shape: Literal["constant", "linear", "exp"] = "linear"
    of: Literal["inner", "base"] = "inner"
    compat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("shape", self.shape, "constant", "linear", "exp")
        _one_of("of", self.of, "inner", "base")
        _require(0 <= self.start <= 1, f"start is a factor, 0 <= start <= 1, got {self.start}")
        _require(self.start > 0 or self.shape == "linear", f"start must be positive for shape {self.shape}")
        _require(self.start > 0 or not self.compat, "with compat, which divides, start must be positive")
        both = self.lag and getattr(self.inner, "lag", 0)
        _require(not both, "the lag of a warmup moves its inner schedule too: set it on one of the two")

    def value(self, base: float, at: Progress) -> float:
        length = _steps(self.length, at)
        if at.step >= length:
            return self.inner(base, at)
        value = base if self.of == "base" else self.inner(base, at)
        if self.compat and self.shape == "constant":
            if getattr(self.inner, "by", "step") == "epoch":
                return value
            return self.inner(base, Progress(0, at.total, at.steps_per_epoch))
        factor = self._factor(at.step / length)
        return value / factor if self.compat else value * factor

    def _factor(self, done: float) -> float:
        left = 1.0 - done
        if self.shape == "constant":
            return self.start
        if self.shape == "linear":
            return 1.0 - left * (1.0 - self.start)
        return math.pow(self.start, left)
