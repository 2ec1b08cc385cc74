"""The YAML files of maskrcnn-benchmark as values by dotted key. They are data: nothing in them is executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visloom.convert.common import Row
from visloom.convert.maskrcnn.defaults import DEFAULTS
from visloom.errors import ConfigError


@dataclass
class Config:
    """Values by dotted key, defaults where the file is silent; remembers which were asked for, and what was said."""

    file: Path
    values: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)

    def __call__(self, key: str, to: str) -> Any:
        """The value of a key, which goes to `to`."""
        if key in self.values:
            self.rows[key] = Row(key, "taken", to)
        return self.values.get(key, DEFAULTS[key])

    def refuse(self, key: str, note: str) -> None:
        """Say that a key that the file sets cannot be followed."""
        if key in self.values and self.values[key] != DEFAULTS[key]:
            self.rows[key] = Row(key, "not supported", note)
        elif key in self.values:
            self.rows[key] = Row(key, "not needed", "the default")


def read_yaml(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{file}: expected sections such as MODEL and SOLVER, found {type(found).__name__}")
    return found


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values by dotted key; texts that are Python literals as what they mean."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{key}.")
        else:
            found[key] = literal(value)
    return found


def literal(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "([{'\"-.0123456789":
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return tuple(value) if isinstance(value, list) else value


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)
