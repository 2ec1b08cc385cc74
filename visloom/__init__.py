"""Visloom: one training engine for five vision systems.

Everything public is one attribute away and loaded on first use, so that `import visloom` and `visloom --help`
do not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC = {
    "Run": "run", "Eval": "run", "Optim": "run", "Rule": "run", "How": "run", "Host": "run", "Save": "run", "Log": "run",
    "Steps": "units", "Epochs": "units", "Examples": "units", "Minutes": "units", "Monitor": "units",
    "Ema": "run", "Clip": "run", "Call": "run",
    "Shuffled": "stream", "Mixture": "stream", "Pair": "stream", "Ordered": "stream", "Source": "stream",
    "Split": "stream", "Ticket": "stream", "Sample": "sample",
    "TaskSpec": "task", "TaskModule": "module", "Metric": "metrics", "Losses": "task", "Batch": "task",
    "Engine": "engine", "Step": "engine", "due": "units",
    "change": "config", "load": "config", "dump": "config", "diff": "config",
    "turns": "drive", "train": "drive", "resume": "drive", "branch": "drive", "evaluate": "saved", "predict": "prediction",
    "fold": "keys",
}  # fmt: skip

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"visloom.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'visloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
