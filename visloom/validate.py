"""Validate: all that can be known to be wrong with a run before a file is opened or a network is built.

Types and single numbers are checked where values are made (`coerce.py`, the classes themselves). Here stands
what needs the whole value or the libraries that it names: monitors, optimizers and their options, third-party
calls, batches and how they divide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visloom import slots
from visloom.coerce import coerce
from visloom.errors import ConfigError
from visloom.paths import is_object
from visloom.place import Place, did_you_mean, join, nearest, one_of
from visloom.run import Call, Eval, Optim, Run


def validate(run: Run) -> None:
    """Check a whole run; returns nothing. Imports torch, and the libraries of third-party calls.

    Raises:
        ConfigError: names the setting, what is wrong, and what to do.
    """
    coerce(run, Run, Place(root=run))  # types, for runs that Python made without asking
    check_evals(run)
    _check_batch(run)
    _check_optim(run.optim, Place("optim"))
    for path, call in calls(run):
        from visloom.calls import check_call

        check_call(call, Place(path))


def calls(value: Any, path: str = "") -> Iterator[tuple[str, Call]]:
    """Yield every Call inside a value with its dotted path."""
    if isinstance(value, Call):
        yield path, value
    parts: dict[str, Any] = {}
    if is_object(value):
        parts = {field.name: getattr(value, field.name) for field in slots.settable(value)}
    elif isinstance(value, Mapping):
        parts = {str(name): item for name, item in value.items()}
    elif isinstance(value, list | tuple):
        parts = {str(number): item for number, item in enumerate(value)}
    for name, item in parts.items():
        yield from calls(item, join(path, name))


# ------------------------------------------------------------------------------------------------ evaluations


def check_evals(run: Run) -> None:
    """Check that at most one evaluation has a monitor, and that it names a value which is reported.

    A task without classes takes them from the data and has no metrics before: then the name is not checked,
    and this is to be called again with the classes.

    Raises:
        ConfigError: names the evaluation and what it reports.
    """
    monitored = [name for name, each in run.evals.items() if each.monitor is not None]
    if len(monitored) > 1:
        places = [f"evals.{name}.monitor" for name in monitored]
        problem = f"one evaluation decides which checkpoint is best, but {one_of(places, 'and')} are set"
        raise Place("evals").error(problem, f"remove one: {places[-1]}=null")
    for name, each in run.evals.items():
        at = Place("evals").child(name)
        if each.patience and each.monitor is None:
            problem = "counts evaluations without a better monitored value, but there is no monitor"
            raise at.child("patience").error(problem, f"set {at.path}.monitor")
        if each.monitor is not None and run.task.classes:
            _check_monitor(name, each, reported_values(run), at.child("monitor"))


def _check_monitor(name: str, each: Eval, reported: list[str], at: Place) -> None:
    if each.monitor is None:
        return
    wanted = each.monitor.name.removeprefix(f"{name}/")
    is_loss = wanted == "loss" or wanted.startswith("loss/")
    if wanted in reported or (is_loss and each.losses):  # a loss's terms are known only to the module
        return
    reported = [*reported, *(["loss"] if each.losses else [])]
    near = did_you_mean(f"{each.monitor.mode} {option}" for option in nearest(wanted, reported))
    losses = f"losses are reported where evals.{name}.losses is true" if is_loss else ""
    said = f"it reports {one_of(reported, 'and')}"
    raise at.error(f"this evaluation reports no {wanted!r}", near, losses, said)


def reported_values(run: Run) -> list[str]:
    """Return the names that the metrics of a run's task report.

    Raises:
        ConfigError: the task's `metrics()` fails, or does not return named metrics.
    """
    try:
        return [name for metric in run.task.metrics().values() for name in metric.names]
    except ConfigError as error:
        raise Place(error.path or "task").error(str(error)) from error
    except Exception as error:
        problem = f"{type(run.task).__name__}.metrics() failed: {type(error).__name__}: {error}"
        raise Place("task").error(problem, "it returns a dict of metrics, each with `names`") from error


# ----------------------------------------------------------------------------------- batches and optimizers


def _check_batch(run: Run) -> None:
    """The stream's batch is divided among micro-batches: every part of it, where it has parts."""
    parts = run.how.accumulate
    for path, value, _ in slots.walk(run.train):
        if path[-1] == "batch" and isinstance(value, int) and value % parts:
            at = Place("train")
            for name in path:
                at = at.child(name)
            problem = f"{value} samples cannot be divided into how.accumulate={parts} micro-batches"
            raise at.error(problem, f"take a multiple of {parts}: {value - value % parts + parts}, say")


def _check_optim(optim: Optim, at: Place) -> None:
    from visloom.optim_names import accepted_options, checked_options, find

    try:
        make = find(optim.name, at.path)
        accepted = accepted_options(make)
        options = checked_options(optim, at.path, make, accepted)
    except ConfigError as error:
        unknown = ".options." in error.path and "no such option" in str(error)
        inherited = f"{at.path}.options={{}} drops all options" if unknown else ""
        raise Place(error.path).error(str(error).removeprefix(f"{error.path}: "), inherited) from error
    decays = accepted is None or "weight_decay" in accepted
    if optim.weight_decay and not decays:
        problem = f"{optim.name} has no weight decay"
        raise at.child("weight_decay").error(problem, f"set {at.path}.weight_decay=0")
    if ":" not in optim.name:
        decay = {"weight_decay": optim.weight_decay} if decays else {}
        _try_options(optim, make, {"lr": optim.lr, **decay, **options}, at.child("options"))
    if optim.rest is not None:
        _check_rest(optim, optim.rest, at.child("rest"))


def _try_options(optim: Optim, make: Any, keywords: dict[str, Any], at: Place) -> None:
    """Make the optimizer of one small matrix: its constructor checks the values of the options."""
    import torch

    try:
        make([torch.nn.Parameter(torch.zeros(2, 2))], **keywords)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in optim.options.items())
        raise at.error(f"{optim.name} refuses {given}: {error}") from error


def _check_rest(optim: Optim, rest: Optim, at: Place) -> None:
    if rest.rest is not None:
        raise at.child("rest").error("the optimizer of all other parameters has no rest of its own")
    if optim.name != "Muon" and ":" not in optim.name:
        problem = (
            f"belongs to an optimizer of matrices (Muon, or your own); {optim.name} takes all parameters"
        )
        raise at.error(problem, "use rules to set learning rates apart")
    _check_optim(rest, at)
