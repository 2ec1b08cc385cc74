"""The exponential moving average of a task's weights: a second module beside it, updated after the step.

Parameters are averaged, buffers are copied: averaging batch-norm statistics as well would lag twice.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from visloom.errors import ConfigError
from visloom.run import Ema


class Average:
    """Keeps the average of `task`, either in a copy of it or in one of its own sub-modules.

    With `into="student -> teacher"` the average of `task.student` is written into the frozen `task.teacher`: a
    teacher network is then an ordinary part of the task.
    """

    def __init__(self, task: nn.Module, ema: Ema) -> None:
        self.ema = ema
        source, target = task, None
        if ema.into is not None:
            names = [name.strip() for name in ema.into.split("->")]
            try:
                source, target = (task.get_submodule(name) for name in names)
            except (AttributeError, ValueError) as error:
                children = ", ".join(name for name, _ in task.named_children())
                raise ConfigError(
                    f"how.ema.into is 'student -> teacher' with two sub-modules of the task, got {ema.into!r} "
                    f"({error}); the task has: {children}",
                    path="how.ema.into",
                ) from None
        self.separate = target is None
        self.module = copy.deepcopy(task) if target is None else target
        self.module.requires_grad_(False)
        if not self.separate:
            self.module.load_state_dict(source.state_dict())
        self._from: list[Tensor] = [p for p in source.parameters() if p.is_floating_point()]
        self._to: list[Tensor] = [p for p in self.module.parameters() if p.is_floating_point()]
        if len(self._from) != len(self._to):
            raise ConfigError("how.ema.into names two sub-modules of different shape", path="how.ema.into")
        pairs = list(zip(source.buffers(), self.module.buffers(), strict=True))
        self._from_buffers: list[Tensor] = [a for a, _ in pairs]
        self._to_buffers: list[Tensor] = [b for _, b in pairs]

    def decay(self, step: int) -> float:
        """Weight of the old average at update `step` (0-based): min(decay, (1 + t) / (ramp + t))."""
        return min(self.ema.decay, (1 + step) / (self.ema.ramp + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights of update `step` (0-based) into the average."""
        if (step + 1) % self.ema.every:
            return
        torch._foreach_lerp_(self._to, self._from, 1.0 - self.decay(step // self.ema.every))
        if self._to_buffers:
            torch._foreach_copy_(self._to_buffers, self._from_buffers)
