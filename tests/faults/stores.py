"""States whose values tell their step, and children that are killed while they save them."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from visloom import faults
from visloom.checkpoint import State


def make(step: int, note: str = "") -> State:
    """A state whose values tell its step."""
    group = {"w": torch.full((50, 7), float(step)), "n": torch.tensor(step)}
    return State(step, {"model": group, "optim": {"w": group["w"] + 1}}, {"step_again": step, "note": note})


def right(state: State | None) -> bool:
    """Whether a state is wholly that of one step."""
    if state is None:
        return False
    want = make(state.step)
    return state.data["step_again"] == state.step and all(
        torch.equal(tensor, state.tensors[stem][name])
        for stem, group in want.tensors.items()
        for name, tensor in group.items()
    )


def silent(sentence: str) -> None:
    """Fail: nothing should have been passed over."""
    raise AssertionError(sentence)


def killed(work: Callable[[], None], orders: str) -> int:
    """Run `work` in a child process under fault orders; return the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            faults.arm(orders)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status)
