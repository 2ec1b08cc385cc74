"""Lengths with a unit, monitors, and `due`: the one predicate that decides whether it is time.

`Steps(500)`, `Epochs(2)`, `Examples(1_000_000)` and `Minutes(10)` are written `steps:500`, `epochs:2`,
`examples:1000000` and `minutes:10` in files and on the command line. A step is one optimizer update, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self


@dataclass(frozen=True)
class _Unit:
    """A positive number with a unit. Subclasses name the unit; `str` and `parse` are inverse."""

    n: float
    unit: ClassVar[str] = ""
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int | float) or not 0 < self.n < float("inf"):
            raise ValueError(f"{self.unit} must be a positive number, got {self.n!r}")
        if self.whole and self.n != int(self.n):
            raise ValueError(f"{self.unit} must be a whole number, got {self.n!r}")
        if self.n == int(self.n):
            object.__setattr__(self, "n", int(self.n))

    def __str__(self) -> str:
        return f"{self.unit}:{self.n}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n})"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unit:number`; raises ValueError that says what is wrong."""
        unit, colon, number = text.partition(":")
        if not colon or unit.strip() != cls.unit:
            raise ValueError(f"expected '{cls.unit}:<number>', got {text!r}")
        try:
            return cls(float(number.replace("_", "")))
        except ValueError as error:
            raise ValueError(f"expected '{cls.unit}:<number>', got {text!r} ({error})") from None


class Steps(_Unit):
    """A number of optimizer updates."""

    unit = "steps"
    whole = True


class Epochs(_Unit):
    """A number of passes over the training stream; fractions are allowed."""

    unit = "epochs"


class Examples(_Unit):
    """A number of training samples, counted with repetition."""

    unit = "examples"
    whole = True


class Minutes(_Unit):
    """Wall-clock minutes. May drive saves and logs, never anything that changes the weights."""

    unit = "minutes"


Length = Steps | Epochs | Examples


def to_steps(length: Length, steps_per_epoch: int, batch: int) -> int:
    """Return a length in optimizer updates, at least 1: the only place where units are resolved.

    Args:
        steps_per_epoch: updates in one pass over the training stream.
        batch: samples of one update (the global batch).
    """
    if isinstance(length, Epochs):
        return max(1, round(length.n * steps_per_epoch))
    if isinstance(length, Examples):
        return max(1, round(length.n / batch))
    return int(length.n)


def due(every: int | None, step: int, total: int, *, last: bool = True) -> bool:
    """Say whether something done every `every` steps is due after update number `step` (1-based) of `total`.

    `every=None` means only at the end; `last` adds the last update to the regular ones.
    """
    if step <= 0:
        return False
    if last and step == total:
        return True
    return every is not None and step % every == 0


@dataclass(frozen=True)
class Monitor:
    """Which value of an evaluation decides what is best: written `max accuracy` or `min loss`."""

    mode: Literal["max", "min"]
    name: str
    syntax: ClassVar[str] = "max NAME or min NAME"

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"a monitor is 'max NAME' or 'min NAME', got {self.mode!r}")

    def __str__(self) -> str:
        return f"{self.mode} {self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `max NAME` or `min NAME`; raises ValueError otherwise."""
        mode, _, name = text.strip().partition(" ")
        if mode not in ("max", "min") or not name.strip():
            raise ValueError(f"a monitor is 'max NAME' or 'min NAME', got {text!r}")
        return cls(mode, name.strip())  # type: ignore[arg-type]

    def better(self, value: float, best: float | None) -> bool:
        """Say whether `value` beats `best` (None: nothing yet). NaN never does."""
        if value != value:
            return False
        return best is None or (value > best if self.mode == "max" else value < best)


@dataclass(frozen=True)
class NonFinite:
    """What to do about a non-finite gradient: `stop`, `skip` the update, `rollback:N` (N returns to the last
    checkpoint at most, passing over the bad steps), or `ignore` (do not look)."""

    policy: Literal["stop", "skip", "rollback", "ignore"] = "stop"
    tries: int = 0
    syntax: ClassVar[str] = "stop, skip, ignore or rollback:N"

    def __post_init__(self) -> None:
        if self.policy not in ("stop", "skip", "rollback", "ignore"):
            raise ValueError(f"expected stop, skip, rollback:N or ignore, got {self.policy!r}")
        if (self.policy == "rollback") != (self.tries > 0):
            raise ValueError("rollback takes a number of tries (rollback:3); the others take none")

    def __str__(self) -> str:
        return f"rollback:{self.tries}" if self.policy == "rollback" else self.policy

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `stop`, `skip`, `ignore` or `rollback:N`; raises ValueError otherwise."""
        policy, colon, tries = text.strip().partition(":")
        if colon and not tries.isdigit():
            raise ValueError(f"expected rollback:N, got {text!r}")
        return cls(policy, int(tries) if colon else 0)  # type: ignore[arg-type]
