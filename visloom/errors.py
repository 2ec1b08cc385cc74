"""Every error a user can cause, with the exit code that the command line gives it.

A message names the place (file, key or sample), what was expected, what was found and what to do.
"""

from __future__ import annotations


class VisloomError(Exception):
    """An error whose message is meant for the user: printed without a traceback.

    `exit_code` is what the command line returns: 2 usage, 3 config, 4 data, 5 non-finite, 6 a process of several
    was lost, 75 preempted.
    """

    exit_code = 1


class UsageError(VisloomError):
    """The command line was used wrongly."""

    exit_code = 2


class ConfigError(VisloomError):
    """A recipe, an overlay or a setting is wrong. `path` is the dotted place inside the run."""

    exit_code = 3

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ContractError(ConfigError):
    """A user's class does not do what its protocol asks: names the method, what came back, what was expected."""


class CheckpointError(ConfigError):
    """No checkpoint can be used, or one does not belong to this run."""


class DirectoryInUse(ConfigError):
    """Another process holds the run directory; names its pid and host."""


class DataError(VisloomError):
    """A data set or one of its samples is wrong. The message names the file or the sample."""

    exit_code = 4


class NonFiniteError(VisloomError):
    """A loss or a gradient was not finite and the policy says stop."""

    exit_code = 5


class ProcessLost(VisloomError):
    """Another process of the job died or hangs; names it. `told`: it failed by itself, and says why."""

    exit_code = 6

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


class Preempted(VisloomError):
    """A signal asked the run to end: its state is saved and `visloom resume` goes on from it."""

    exit_code = 75
