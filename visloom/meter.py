"""Meter: means of losses and training metrics between log points, summed on the device and read only there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visloom import dist
from visloom.engine import Step
from visloom.live import with_sum

LOSS = "loss"
"""Name of the mean of what was minimised; its terms are "loss/NAME"."""


class Meter:
    """Adds the values of each step on the device; `read()` gives means and starts a new window.

    A term's mean is over the steps that had it; `loss` is the mean over all steps of what was minimised, which is
    less than the sum of those means where steps differ in their terms (several annotated sources).

    Steps whose update was skipped do not count: one NaN would hide the whole window. Every sum is part of the run's
    state, so a run that is killed between two log points logs the same means.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._skipped: dict[str, Tensor] = {}  # how many of the counted steps to leave out
        self._epoch: dict[str, list[float]] = {}  # name -> [sum, count] over the epoch, on the host

    def add(self, step: Step) -> None:
        """Take in the losses and logs of one step: tensors without a graph."""
        if step.losses:
            self._counts[LOSS] = self._counts.get(LOSS, 0) + 1
            if step.bad is not None:
                self._skip(LOSS, step.bad)
        for name, value in step.losses.items():
            self._take("loss/" + name, value, step.bad)
        for name, value in step.logs.items():
            self._take(name, value, step.bad)
        if step.grad_norm is not None:
            self._take("grad_norm", step.grad_norm, step.bad)

    def _take(self, key: str, value: Tensor, bad: Tensor | None) -> None:
        if bad is not None:
            value = value.masked_fill(bad, 0.0)
            self._skip(key, bad)
        total = self._sums.get(key)
        if total is not None:
            total.add_(value)
            self._counts[key] += 1
        else:
            self._sums[key] = value.float().clone()
            self._counts[key] = 1

    def _skip(self, key: str, bad: Tensor) -> None:
        self._skipped[key] = self._skipped[key] + bad if key in self._skipped else bad.float()

    def read(self) -> dict[str, float]:
        """Return the means since the last read, over all processes; waits for the device."""
        names = sorted(self._sums)
        if not names:
            return {}
        device = self._sums[names[0]].device
        zero = torch.zeros((), device=device)
        names.append(LOSS)
        both = [*(self._sums.get(n, zero) for n in names), *(self._skipped.get(n, zero) for n in names)]
        values = torch.stack(dist.mean(both)).tolist()
        totals, skipped = dict(zip(names, values)), dict(zip(names, values[len(names) :]))
        totals[LOSS] = with_sum({n: v for n, v in totals.items() if n.startswith("loss/")})[LOSS]
        means = {}
        for name in names:
            count = self._counts.get(name, 0) - skipped[name]
            if count <= 0:
                continue
            means[name] = totals[name] / count
            epoch = self._epoch.setdefault(name, [0.0, 0.0])
            epoch[0] += totals[name]
            epoch[1] += count
        self._sums.clear()
        self._counts.clear()
        self._skipped.clear()
        return means

    def read_epoch(self) -> dict[str, float]:
        """Return the means over the epoch up to the last `read()`, and start a new epoch."""
        means = {name: total / count for name, (total, count) in self._epoch.items()}
        self._epoch.clear()
        return means

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the sums of all processes (tensors) and the counts (JSON); all processes call it."""
        own = {f"sum/{name}": value for name, value in self._sums.items()}
        own |= {f"skipped/{name}": value for name, value in self._skipped.items()}
        if dist.world().size > 1:
            own = {name: value.cpu() for name, value in own.items()}
        everyone = dist.gather(own)
        tensors = {
            f"{rank}/{name}": value for rank, part in enumerate(everyone) for name, value in part.items()
        }
        return tensors, {
            "world": len(everyone),
            "counts": dict(self._counts),
            "epoch": {k: list(v) for k, v in self._epoch.items()},
        }

    def restore(self, tensors: dict[str, Tensor], data: dict[str, Any], device: torch.device) -> None:
        """Continue from a state; at another number of processes each goes on with the mean of all."""
        world, here = int(data.get("world", 1)), dist.world()
        ranks = [here.rank] if world == here.size else list(range(world))
        self._sums.clear()
        self._skipped.clear()
        for full, value in tensors.items():
            rank, kind, name = full.split("/", 2)
            if int(rank) in ranks:
                into = self._sums if kind == "sum" else self._skipped
                share = value.to(device) / len(ranks)
                into[name] = into[name] + share if name in into else share
        self._counts = dict(data.get("counts", {}))
        self._epoch = {name: list(value) for name, value in data.get("epoch", {}).items()}


def split_names(means: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Split what a Meter reads into loss terms (without their prefix) and training metrics."""
    losses = {name.removeprefix("loss/"): value for name, value in means.items() if name.startswith("loss/")}
    return losses, {name: value for name, value in means.items() if not name.startswith("loss/")}
