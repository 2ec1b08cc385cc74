"""The updates of a config of mmclassification: how many, by which optimizer, under which schedules and rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visloom.convert.mmcls import zoo
from visloom.convert.mmcls.reading import Reading
from visloom.convert.mmcls_rules import paramwise_rules
from visloom.convert.mmcls_schedules import lr_schedule, momentum_schedule
from visloom.errors import ConfigError
from visloom.run import Optim, Rule
from visloom.schedule import Schedule
from visloom.tasks.classify import Classify
from visloom.units import Epochs, Steps

_PLAIN_OPTIONS = ("type", "lr", "weight_decay", "paramwise_cfg", "constructor")


def length(read: Reading) -> tuple[Epochs | Steps, bool]:
    """How long, and whether what does not say counts epochs."""
    keys = read.keys
    kind = keys.take("runner.type", "length", "EpochBasedRunner")
    if kind not in ("EpochBasedRunner", "IterBasedRunner"):
        keys.refuse("runner.type", "there are EpochBasedRunner and IterBasedRunner")
    epochs, steps = keys.take("runner.max_epochs", "length"), keys.take("runner.max_iters", "length")
    total = keys.take("total_epochs", "length")
    if kind == "IterBasedRunner" or steps is not None:
        if steps is None:
            raise keys.error("runner.max_iters", "is missing")
        with keys.making("runner.max_iters"):
            return Steps(steps), kind != "IterBasedRunner"
    epochs = total if epochs is None else epochs
    if epochs is None:
        raise ConfigError(
            "the config says no length: neither runner.max_epochs nor total_epochs (a base is missing?)"
        )
    with keys.making("runner.max_epochs" if keys.get("runner.max_epochs") is not None else "total_epochs"):
        return Epochs(epochs), True


def optimizer(
    read: Reading, task: Classify, by_epoch: bool
) -> tuple[Optim, tuple[Rule, ...], Schedule, Schedule | None]:
    keys = read.keys
    config = keys.get("optimizer")
    if not isinstance(config, Mapping) or "type" not in config or "lr" not in config:
        raise keys.error("optimizer", "has no type or no lr (a base is missing?)")
    for option in keys.children("optimizer"):
        name = option.rpartition(".")[2]
        where = f"optim.{name}" if name in ("lr", "weight_decay") else f"optim.options.{name}"
        keys.take(option, {"type": "optim.name", "paramwise_cfg": "rules"}.get(name, where))
    if keys.get("optimizer.constructor", "DefaultOptimizerConstructor") == "DefaultOptimizerConstructor":
        keys.leave("optimizer.constructor", "rules say it all")
    else:
        keys.refuse("optimizer.constructor", "write its groups as rules")
    with keys.making("lr_config"):
        scheduled = lr_schedule(_mapping(read, "lr_config"), by_epoch=by_epoch, compat=read.compat)
    with keys.making("momentum_config"):
        momentum = momentum_schedule(_mapping(read, "momentum_config"), by_epoch=by_epoch, compat=read.compat)
    keys.take("lr_config", "schedule")
    keys.take("momentum_config", "momentum")
    read.notes += [*scheduled.notes, *(momentum.notes if momentum else ())]
    options = {name: value for name, value in config.items() if name not in _PLAIN_OPTIONS}
    if scheduled.base is not None:
        keys.take("lr_config.max_lr", "optim.lr")
        keys.leave("optimizer.lr", "OneCycle's max_lr is the peak")
    if momentum is not None and momentum.base is not None:
        options |= _base_momentum(read, str(config["type"]), options, momentum.base)
    decay = config.get("weight_decay")
    default = 0.01 if config["type"] == "AdamW" else 0.0
    with keys.making("optimizer"):
        optim = Optim(
            name=str(config["type"]),
            lr=config["lr"] if scheduled.base is None else scheduled.base,
            weight_decay=default if decay is None else decay,
            options=options,
        )
        rules = _rules(read, task, decay)
    return optim, rules, scheduled.schedule, momentum.schedule if momentum else None


def _rules(read: Reading, task: Classify, decay: float | None) -> tuple[Rule, ...]:
    """The rules that the optimizer's paramwise options mean."""
    options = read.keys.get("optimizer.paramwise_cfg")
    if not options:
        return ()
    found = paramwise_rules(options, _module(task), decay, names=_old_names(task), compat=read.compat)
    read.notes += found.notes
    return found.rules


def _base_momentum(read: Reading, optimizer: str, options: Mapping[str, Any], base: float) -> dict[str, Any]:
    """The option that OneCycle's base_momentum is: the first beta of Adam's kind, else the momentum."""
    name = "betas" if "betas" in options or optimizer.startswith(("Adam", "NAdam", "RAdam")) else "momentum"
    read.keys.take("momentum_config.base_momentum", f"optim.options.{name}")
    if name == "betas":
        return {name: (base, options.get(name, (0.9, 0.999))[1])}
    read.keys.leave("optimizer.momentum", "OneCycle's base_momentum is what it starts from")
    return {name: base}


def _mapping(read: Reading, key: str) -> Mapping[str, Any] | None:
    value = read.keys.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise read.keys.error(key, f"is a dict, got {value!r}")
    return value


def _module(task: Classify) -> Any:
    """The task's module, its tensors without values: rules look at names and layers only."""
    import torch
    from torch import nn

    with torch.device("meta"):
        holder = nn.Module()
        holder.net = task.net.build(max(2, len(task.classes)), task.channels)
    return holder


def _old_names(task: Classify) -> dict[str, str]:
    """The original's name of each parameter, which is what its custom keys are compared with."""
    return {
        name: zoo.old_name(task.net, name.removeprefix("net."))
        for name, _ in _module(task).named_parameters()
    }
