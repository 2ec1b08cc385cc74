"""Checks of arguments that transforms and sources share: each raises ValueError with what was expected and
given.

Messages begin with the name of the argument: settings files then report them at its place in the run.
"""

from __future__ import annotations

from typing import Any


def require(condition: bool, expected: str, got: Any) -> None:
    """Raise ValueError "<expected>, got <got>" unless the condition holds."""
    if not condition:
        raise ValueError(f"{expected}, got {got!r}")


def is_number(value: Any) -> bool:
    """Say whether a value is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def size_pair(name: str, value: Any) -> tuple[int, int]:
    """Return (height, width) of a size that is one whole number or two; raise ValueError otherwise."""
    pair = (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
    good = (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in pair)
    )
    require(good, f"{name} is a positive whole number or (height, width)", value)
    return pair[0], pair[1]


def factor_range(name: str, value: float | tuple[float, float], center: float) -> tuple[float, float]:
    """Return (low, high): a number v means center - v to center + v (not below 0 around 1), a pair itself."""
    if is_number(value):
        require(value >= 0, f"{name} is 0 or more, or (low, high)", value)  # type: ignore[operator]
        low, high = center - value, center + value  # type: ignore[operator]
        return (max(0.0, low), high) if center else (low, high)
    good = isinstance(value, tuple | list) and len(value) == 2 and all(is_number(v) for v in value)
    require(good and value[0] <= value[1], f"{name} is a number or (low, high)", value)  # type: ignore[index]
    return float(value[0]), float(value[1])  # type: ignore[index]
