"""mmcv's lr_config and momentum_config as schedules: `lr_schedule(config)`, `momentum_schedule(config)`.

    there                                here
    fixed, Fixed                         Constant
    step                                 Step (one number) or Multistep (a list)
    exp, inv, poly                       Exp, Inv, Poly
    CosineAnnealing, LinearAnnealing     Cosine, Linear
    FlatCosineAnnealing, CosineRestart   FlatCosine, CosineRestart
    cyclic, OneCycle                     Cyclic, OneCycle
    warmup, warmup_iters, ...            Warmup around it
    by_epoch                             by="epoch" or "step", and lengths in Epochs or Steps

All options of mmcv 1.2.5 to 1.7.2. What the original gets wrong is right here, and as there with `compat=True`:

* a warmup of momentum divides by the factor, and one of a constant factor does nothing; here it multiplies
* marks of a step policy that do not rise: a mark after a higher one waits for it; here they are an error
* a runner that counts iterations never begins an epoch, so what goes by epoch stays at its first value, and a momentum
  goes by epoch where its config does not say; here epochs are what they are, and both go by iteration

Two things hold with `compat` too: an unknown option is an error that names the nearest one, and OneCycle's peak
becomes the optimizer's value (`base`), where rules still multiply it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from visloom.errors import ConfigError
from visloom.place import did_you_mean, nearest, one_of
from visloom.schedule import (
    Constant,
    Cosine,
    CosineRestart,
    Cyclic,
    Exp,
    FlatCosine,
    Inv,
    Linear,
    Multistep,
    OneCycle,
    Poly,
    Schedule,
    Step,
    Warmup,
)
from visloom.units import Epochs, Steps


class Scheduled(NamedTuple):
    """A schedule that does what an old config says.

    base: the value it starts from where that is not the optimizer's own (OneCycle's peak), else None.
    notes: what the user should know.
    """

    schedule: Schedule
    base: float | None = None
    notes: tuple[str, ...] = ()


def lr_schedule(
    config: Mapping[str, Any] | None, *, by_epoch: bool = True, compat: bool = False
) -> Scheduled:
    """Return the schedule of an lr_config; None is a constant learning rate.

    Args:
        by_epoch: what holds where the config does not say: True for EpochBasedRunner, False for IterBasedRunner.
        compat: the original's mistakes too; see the top of this file.

    Raises:
        ConfigError: an unknown policy or option, a missing one, a value out of range.
    """
    if config is None:
        return Scheduled(Constant())
    return _Reader(config, "lr", by_epoch, compat).scheduled()


def momentum_schedule(
    config: Mapping[str, Any] | None, *, by_epoch: bool = True, compat: bool = False
) -> Scheduled | None:
    """Return the schedule of a momentum_config, or None for none; arguments and errors as for `lr_schedule`."""
    return None if config is None else _Reader(config, "momentum", by_epoch, compat).scheduled()


_ANY: Any = object()
_WARMUP = ("warmup", "warmup_iters", "warmup_ratio")


class _Reader:
    """Reads one config: `what` is "lr" or "momentum", which is how its options and complaints begin."""

    def __init__(
        self, config: Mapping[str, Any], what: Literal["lr", "momentum"], by_epoch: bool, compat: bool
    ) -> None:
        self.what, self.path, self.compat = what, f"{what}_config", compat
        if not isinstance(config, Mapping) or not isinstance(config.get("policy"), str):
            raise ConfigError(f"{self.path} is a dict with a policy, got {config!r}", path=self.path)
        self.config = config
        self.notes: list[str] = []
        self.base: float | None = None
        self.policy = self._policy()
        iterations = not by_epoch
        if (
            compat and what == "momentum"
        ):  # IterBasedRunner tells the learning rate's hook alone what it counts
            by_epoch = True
        self.epochs = self._by_epoch(by_epoch)
        self.never = iterations and self.epochs
        self.by: Literal["step", "epoch"] = "epoch" if self.epochs else "step"

    def scheduled(self) -> Scheduled:
        """Check every option and build."""
        make, options = _POLICIES[self.policy]
        if self.what == "momentum":
            options = _MOMENTUM[self.policy]
        known = {"policy", "by_epoch", *_WARMUP, *(o.replace("{}", self.what) for o in options)}
        if self.what == "lr":
            known.add("warmup_by_epoch")
        for name in self.config:
            if name not in known:
                near = did_you_mean(nearest(str(name), known))
                raise self.error(str(name), f"is no option of the policy {self.policy}", near)
        schedule = self._warm(self._built(lambda: make(self)))
        if self.never:
            if self.compat:
                schedule = Constant()
            else:
                self.notes.append(
                    f"{self.path} goes by epoch; mmcv's runner of iterations never begins one, so its value stays"
                )
        return Scheduled(schedule, self.base, tuple(self.notes))

    def _policy(self) -> str:
        """The policy in mmcv's own spelling: names in lower case get a capital, others stay."""
        given = str(self.config["policy"])
        name = given.title() if given == given.lower() else given
        known = [policy for policy in _POLICIES if self.what == "lr" or policy in _MOMENTUM]
        if name not in known:
            near = nearest(name, known)
            said = f"mmcv has no policy {given!r} for the {self.what}; it has {one_of(known, 'and')}"
            raise self.error("policy", said, did_you_mean(near))
        return name

    def _by_epoch(self, default: bool) -> bool:
        by_iteration = self.policy in ("Cyclic", "OneCycle")
        value = self.option("by_epoch", default and not by_iteration)
        if not isinstance(value, bool):
            raise self.error("by_epoch", f"is true or false, got {value!r}")
        if value and by_iteration:
            raise self.error("by_epoch", f"must be false: {self.policy} goes by iteration")
        return value

    # ---- options

    def error(self, name: str, problem: str, advice: str = "") -> ConfigError:
        path = f"{self.path}.{name}"
        return ConfigError("\n  ".join(line for line in (f"{path} {problem}", advice) if line), path=path)

    def option(self, name: str, default: Any = _ANY) -> Any:
        if name in self.config:
            return self.config[name]
        if default is _ANY:
            raise self.error(name, f"is missing: the policy {self.policy} needs it")
        return default

    def number(self, name: str, default: Any = _ANY) -> float:
        value = self.option(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"is a number, got {value!r}")
        return float(value)

    def whole(self, name: str, default: Any = _ANY) -> int:
        return self._whole(name, self.option(name, default))

    def _whole(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.error(name, f"is a whole number above 0, got {value!r}")
        return value

    def wholes(self, name: str) -> tuple[int, ...]:
        value = self.option(name)
        if not isinstance(value, list | tuple):
            raise self.error(name, f"is a list of whole numbers above 0, got {value!r}")
        return tuple(self._whole(name, one) for one in value)

    def length(self, count: int) -> Steps | Epochs:
        return Epochs(count) if self.epochs else Steps(count)

    def floors(self) -> dict[str, Any]:
        """The end value: exactly one of min_lr and min_lr_ratio, as mmcv asks."""
        own, ratio = f"min_{self.what}", f"min_{self.what}_ratio"
        given = [name for name in (own, ratio) if self.config.get(name) is not None]
        if len(given) != 1:
            raise self.error(
                own, f"or {ratio}: exactly one of them is given, got {' and '.join(given) or 'none'}"
            )
        return {"floor" if given[0] == own else "floor_ratio": self.number(given[0])}

    def annealing(self) -> Literal["cosine", "linear"]:
        value = self.option("anneal_strategy", "cos")
        if value not in ("cos", "linear"):
            raise self.error("anneal_strategy", f"is cos or linear, got {value!r}")
        return "cosine" if value == "cos" else "linear"

    def target(self, low: tuple[float, float]) -> tuple[float, float]:
        """target_ratio: (peak, low), or the peak alone for a low of its 100,000th part."""
        value = self.option("target_ratio", low)
        pair = value if isinstance(value, list | tuple) else (value,)
        if len(pair) not in (1, 2) or any(
            isinstance(v, bool) or not isinstance(v, int | float) for v in pair
        ):
            raise self.error("target_ratio", f"is one number or two, got {value!r}")
        return float(pair[0]), float(pair[1]) if len(pair) == 2 else pair[0] / 1e5

    def peak(self, name: str, default: Any = _ANY) -> float:
        value = self.option(name, default)
        if isinstance(value, list | tuple | dict):
            raise self.error(
                name, "for each group of parameters is not supported: give one number, and use rules"
            )
        return self.number(name, default)

    def _built(self, make: Callable[[], Schedule]) -> Schedule:
        """Build; what a schedule refuses is a complaint about the config."""
        try:
            return make()
        except ValueError as error:
            raise ConfigError(f"{self.path}: policy {self.policy}: {error}", path=self.path) from error

    def _warm(self, inner: Schedule) -> Schedule:
        shape = self.option("warmup", None)
        if shape is None:
            return inner
        if shape not in ("constant", "linear", "exp"):
            near = did_you_mean(nearest(str(shape), ("constant", "linear", "exp")))
            raise self.error("warmup", f"is constant, linear or exp, got {shape!r}", near)
        count = self.whole("warmup_iters", 0)
        start = self.number("warmup_ratio", 0.1 if self.what == "lr" else 0.9)
        if not 0 < start <= 1:
            raise self.error("warmup_ratio", f"is above 0 and at most 1, got {start}")
        momentum = self.what == "momentum"
        if momentum and not self.compat:
            self.notes.append("the warmup of the momentum multiplies; mmcv's divides, which takes it above 1")
        length = Epochs(count) if self.option("warmup_by_epoch", False) else Steps(count)
        return Warmup(inner, length, start, shape, compat=momentum and self.compat)


# --- policies: each a function of the config's reader, with the names of its options


def _step(read: _Reader) -> Schedule:
    floor = read.option(f"min_{read.what}", None)
    gamma = read.number("gamma", 0.1 if read.what == "lr" else 0.5)
    limits: dict[str, Any] = {
        "gamma": gamma,
        "floor": 0.0 if floor is None else read.number(f"min_{read.what}"),
    }
    if isinstance(read.option("step"), list | tuple):
        marks = read.wholes("step")
        if read.compat:
            marks = tuple(accumulate(marks, max))
        return Multistep(tuple(map(read.length, marks)), **limits, by=read.by)
    return Step(read.length(read.whole("step")), **limits, by=read.by)


def _poly(read: _Reader) -> Schedule:
    power, floor = read.number("power", 1.0), read.number("min_lr", 0.0)
    return Constant() if power == 0 else Poly(power, floor=floor, by=read.by)


def _flat(read: _Reader) -> Schedule:
    start, floors = read.number("start_percent", 0.75), read.floors()
    return Constant() if start == 1 else FlatCosine(start, **floors, by=read.by)


def _restart(read: _Reader) -> Schedule:
    weights = read.option("restart_weights", [1])
    periods = read.wholes("periods")
    if not isinstance(weights, list | tuple) or len(weights) != len(periods):
        raise read.error("restart_weights", f"needs one number per period ({len(periods)}), got {weights!r}")
    weights = tuple(float(weight) for weight in weights)
    return CosineRestart(tuple(map(read.length, periods)), weights, **read.floors(), by=read.by)


def _cyclic(read: _Reader) -> Schedule:
    peak, low = read.target((10.0, 1e-4) if read.what == "lr" else (0.85 / 0.95, 1.0))
    times, rise = read.whole("cyclic_times", 1), read.number("step_ratio_up", 0.4)
    return Cyclic(peak, low, times, rise, read.annealing(), read.number("gamma", 1.0))


def _one_cycle(read: _Reader) -> Schedule:
    rise, shape, three = read.number("pct_start", 0.3), read.annealing(), read.option("three_phase", False)
    if read.what == "momentum":
        read.base = read.peak("base_momentum", 0.85)
        return OneCycle(rise, read.base / read.peak("max_momentum", 0.95), 1.0, shape, three)
    read.base = read.peak("max_lr")
    total = None if read.option("total_steps", None) is None else Steps(read.whole("total_steps"))
    div, final = read.number("div_factor", 25.0), read.number("final_div_factor", 1e4)
    return OneCycle(rise, div, final, shape, three, length=total)


_POLICIES: dict[str, tuple[Callable[[_Reader], Schedule], tuple[str, ...]]] = {
    "Fixed": (lambda read: Constant(), ()),
    "Step": (_step, ("step", "gamma", "min_{}")),
    "Exp": (lambda read: Exp(read.number("gamma"), read.length(1), by=read.by), ("gamma",)),
    "Poly": (_poly, ("power", "min_lr")),
    "Inv": (
        lambda read: Inv(read.number("gamma"), read.number("power", 1.0), read.length(1), by=read.by),
        ("gamma", "power"),
    ),
    "CosineAnnealing": (lambda read: Cosine(**read.floors(), by=read.by), ("min_{}", "min_{}_ratio")),
    "LinearAnnealing": (lambda read: Linear(**read.floors(), by=read.by), ("min_{}", "min_{}_ratio")),
    "FlatCosineAnnealing": (_flat, ("start_percent", "min_{}", "min_{}_ratio")),
    "CosineRestart": (_restart, ("periods", "restart_weights", "min_{}", "min_{}_ratio")),
    "Cyclic": (_cyclic, ("target_ratio", "cyclic_times", "step_ratio_up", "anneal_strategy", "gamma")),
    "OneCycle": (
        _one_cycle,
        ("max_lr", "total_steps", "pct_start", "anneal_strategy", "div_factor", "final_div_factor", "three_phase"),
    ),
}  # fmt: skip
_MOMENTUM: dict[str, tuple[str, ...]] = {
    **{policy: _POLICIES[policy][1] for policy in ("Step", "CosineAnnealing", "LinearAnnealing", "Cyclic")},
    "OneCycle": ("base_momentum", "max_momentum", "pct_start", "anneal_strategy", "three_phase"),
}
