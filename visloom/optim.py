"""Optimizers: built by name from a Run, driven by the engine, saved by parameter name.

`build_optimizer(module, optim, rules)` freezes what the rules freeze and makes one parameter group per
distinct setting. A group carries plain keys: `name`, `names`, `base_lr`, `base_momentum` and torch's own;
`set_lr` and `set_momentum` write the value of the next update into them. Fused kernels are the default
wherever torch has one that works for these parameters: they are fast, and they skip an update on the device
(`found_inf`) without asking the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visloom.errors import CheckpointError, ConfigError, ContractError
from visloom.optim_names import REFUSED, accepted_options, checked_options, find, wants_fused
from visloom.rules import Resolved, diff_resolved, kinds, resolve_rules, resolved_to_json, table
from visloom.run import Optim, Rule
from visloom.schedule import Progress, Schedule

__all__ = [
    "Optimizers",
    "Resolved",
    "build_optimizer",
    "diff_resolved",
    "kinds",
    "resolve_rules",
    "resolved_to_json",
    "set_lr",
    "set_momentum",
    "table",
]

Group = dict[str, Any]

# Group keys that the config and the engine decide: they are no state, so a checkpoint does not hold them.
_OURS = {"name", "names", "base_lr", "base_momentum"}
_DECIDED = _OURS | {"params", "param_names", "lr", "initial_lr", "weight_decay"}


# --- each step


def set_lr(groups: Iterable[MutableMapping[str, Any]], schedule: Schedule, at: Progress) -> dict[str, float]:
    """Write the learning rate of the next update into each group; returns it by group name."""
    values = {}
    for group in groups:
        group["lr"] = values[group["name"]] = schedule(group["base_lr"], at)
    return values


def set_momentum(groups: Iterable[MutableMapping[str, Any]], schedule: Schedule, at: Progress) -> None:
    """Write the momentum of the next update into each group: SGD's `momentum`, else the first of `betas`.

    Raises ConfigError if no group has one.
    """
    found = False
    for group in groups:
        base = group["base_momentum"]
        if base is None:
            continue
        found = True
        if "momentum" in group:
            group["momentum"] = schedule(base, at)
        else:
            group["betas"] = (schedule(base, at), *group["betas"][1:])
    if not found:
        raise ConfigError(
            "this optimizer has neither momentum nor betas to schedule; remove it", path="momentum"
        )


def _base_momentum(group: Mapping[str, Any]) -> float | None:
    value = group["momentum"] if "momentum" in group else group.get("betas")
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return float(value) if isinstance(value, int | float) else None


# --- the holder


class Optimizers:
    """The torch optimizers of a run (one, or two where matrices have their own), stepped as one.

    Args:
        parts: torch optimizers with disjoint parameters. Groups get the keys `name`, `base_lr` and
            `base_momentum` where they lack them, so a plain `Optimizers([torch.optim.SGD(...)])` works.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        self.groups: list[Group] = [group for part in self.parts for group in part.param_groups]
        for i, group in enumerate(self.groups):
            group.setdefault("name", f"group{i}" if len(self.groups) > 1 else "base")
            group.setdefault("base_lr", group["lr"])
            group.setdefault("base_momentum", _base_momentum(group))
        self.prepare()

    @property
    def supports_found_inf(self) -> bool:
        """Whether each part skips its update on the device when its attribute `found_inf` is a tensor of 1.

        That is torch.amp's contract: a fused optimizer marks itself by `_step_supports_amp_scaling` and reads
        `found_inf` in `step()`. SGD with dampening is the exception, see `prepare`.
        """
        return all(getattr(part, "_step_supports_amp_scaling", False) for part in self.parts) and not any(
            _starts_from_gradient(part, group) for part in self.parts for group in part.param_groups
        )

    def prepare(self) -> None:
        """Make the momentum buffers that fused SGD would make in its first step, as zeros; idempotent.

        Fused SGD allocates them without a value and fills them in the kernel: if that first step is skipped
        they keep what lay in memory, and if a parameter has its first gradient later than another one, the
        step raises. Zeros give the same weights as no buffer unless there is dampening, which the first step
        leaves out.
        """
        for part in self.parts:
            if not isinstance(part, torch.optim.SGD):
                continue
            for group in part.param_groups:
                if group["fused"] and group["momentum"] and not group["dampening"]:
                    for p in group["params"]:
                        if "momentum_buffer" not in part.state[p]:
                            part.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def step(self) -> None:
        """Take one update."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_by_name(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as (tensors, plain): tensors by "parameter name/key", the rest JSON-able.

        The tensors are the optimizer's own, not copies. State that an optimizer keeps in its groups stands
        under "@group name/key". Raises ContractError for state that is neither a tensor nor a plain value,
        and for parameters that `model` does not have.
        """
        names = {id(p): name for name, p in model.named_parameters()}
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        host: list[str] = []
        for part in self.parts:
            for owner, p, state in self._entries(part, names):
                for key, value in state.items():
                    full = f"{owner}/{_checked_key(part, owner, key, value)}"
                    if isinstance(value, Tensor):
                        tensors[full] = value.detach()
                        if p is not None and p.device.type != "cpu" and value.device.type == "cpu":
                            host.append(full)
                    else:
                        values[full] = value
        parts = [
            {"optimizer": _title(part), "parameters": [names[id(p)] for p in _parameters(part)]}
            for part in self.parts
        ]
        return tensors, {"parts": parts, "tensors": sorted(tensors), "values": values, "host": host}

    def load_state_by_name(
        self, model: nn.Module, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
    ) -> None:
        """Restore what `state_by_name` returned, bit for bit; dtypes stay, devices follow the parameters.

        Raises CheckpointError if optimizers, parameters or tensors differ; then nothing has been changed.
        """
        names = {id(p): name for name, p in model.named_parameters()}
        self._compare(names, plain)
        _compare_names("optimizer tensors", plain["tensors"], tensors)
        places = {
            names[id(p)]: (part, group, p)
            for part in self.parts
            for group in part.param_groups
            for p in group["params"]
        }
        groups = {f"@{group['name']}": group for group in self.groups}
        entries = [
            (*full.rpartition("/")[::2], full, v) for full, v in (*plain["values"].items(), *tensors.items())
        ]
        lost = sorted({owner for owner, *_ in entries} - places.keys() - groups.keys())
        if lost:
            raise CheckpointError(
                f"the checkpoint has optimizer state that finds no owner: {', '.join(lost)}"
            )
        host = set(plain["host"])
        for part in self.parts:
            part.state.clear()
        for owner, key, full, value in entries:
            if owner in groups:
                groups[owner][key] = value.clone() if isinstance(value, Tensor) else value
                continue
            part, group, p = places[owner]
            placed = _placed(value, p, key, group, full in host) if isinstance(value, Tensor) else value
            part.state[p][key] = placed
        self.prepare()

    def _entries(
        self, part: torch.optim.Optimizer, names: Mapping[int, str]
    ) -> Iterator[tuple[str, Tensor | None, Mapping[str, Any]]]:
        """Yield (owner, its parameter or None for a group, its state)."""
        for p, state in part.state.items():
            if id(p) not in names:
                raise ContractError(
                    f"{_title(part)} keeps state for something that is no parameter of the task"
                )
            yield names[id(p)], p, state
        configured = _DECIDED | {
            key for base in type(part).__mro__[:-1] for key in inspect.signature(base).parameters
        }
        for group in part.param_groups:
            yield f"@{group['name']}", None, {key: v for key, v in group.items() if key not in configured}

    def _compare(self, names: Mapping[int, str], plain: Mapping[str, Any]) -> None:
        saved = [part["optimizer"] for part in plain["parts"]]
        now = [_title(part) for part in self.parts]
        if saved != now:
            raise CheckpointError(
                f"the checkpoint was written with {' and '.join(saved)}, this run uses {' and '.join(now)}; "
                "start a branch with fresh moments, or keep the optimizer",
                path="optim.name",
            )
        for part, old in zip(self.parts, plain["parts"], strict=True):
            _compare_names(
                f"parameters of {_title(part)}", old["parameters"], [names[id(p)] for p in _parameters(part)]
            )


def _parameters(part: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (p for group in part.param_groups for p in group["params"])


def _title(part: torch.optim.Optimizer) -> str:
    return type(part).__name__


def _starts_from_gradient(part: torch.optim.Optimizer, group: Mapping[str, Any]) -> bool:
    return isinstance(part, torch.optim.SGD) and bool(group["momentum"] and group["dampening"])


def _checked_key(part: torch.optim.Optimizer, owner: str, key: Any, value: Any) -> str:
    if not isinstance(key, str) or "/" in key:
        raise ContractError(
            f"{_title(part)} keeps state under {key!r} for {owner}; expected a string without '/'"
        )
    if not isinstance(value, Tensor | bool | int | float | str | None):
        raise ContractError(
            f"{_title(part)} keeps a {type(value).__name__} under {key!r} for {owner}; a checkpoint holds "
            "tensors, numbers, strings, booleans and None, so give each nested value a key of its own"
        )
    return key


def _compare_names(what: str, saved: Iterable[str], now: Iterable[str]) -> None:
    before, after = set(saved), set(now)
    missing, extra = sorted(before - after), sorted(after - before)
    if missing or extra:
        lines = [f"{what} differ between the checkpoint and this run"]
        lines += [f"  only in the checkpoint: {name}" for name in missing]
        lines += [f"  only here: {name}" for name in extra]
        raise CheckpointError("\n".join(lines))


def _placed(value: Tensor, p: Tensor, key: str, group: Mapping[str, Any], host: bool) -> Tensor:
    """A copy where the optimizer expects it: beside its parameter, in its memory layout if of its shape.

    Counters (`step`) live on the host unless the optimizer is fused or capturable, as in torch's
    load_state_dict.
    """
    device = p.device
    if host or (key == "step" and not (group.get("fused") or group.get("capturable"))):
        device = torch.device("cpu")
    if value.shape == p.shape:  # fused kernels walk parameter and moments side by side
        return torch.empty_like(p, dtype=value.dtype, device=device, requires_grad=False).copy_(value)
    return value.detach().to(device, copy=True)


# --- building


def build_optimizer(module: nn.Module, optim: Optim, rules: Sequence[Rule] = ()) -> Optimizers:
    """Freeze what the rules freeze and return the optimizers of everything else.

    Call it when `module` is on its device and in its memory format.

    Raises:
        ConfigError: an unknown optimizer or option, a number out of range, a rule that does not fit.
        ContractError: a callable of the user's that returns no optimizer or loses parameters.
    """
    rows = resolve_rules(module, optim, rules)
    parameters = dict(module.named_parameters())
    if optim.rest is not None:
        _check_rest(optim, optim.rest)
    elif optim.names != ".*":
        raise ConfigError(
            "optim.names shares matrices out to optim.rest, which is not set", path="optim.names"
        )
    settings = [(optim, "optim")] + ([(optim.rest, "optim.rest")] if optim.rest is not None else [])
    parts = []
    for i, (one, path) in enumerate(settings):
        mine = [row for row in rows if row.part == i and not row.frozen]
        if mine:
            parts.append(_build(one, path, mine, parameters))
        elif i == 0:
            message = f"{optim.name} gets no parameter: no trainable matrix has a name with {optim.names!r}"
            raise ConfigError(f"{message}; all would go to optim.rest", path="optim.names")
    trained = [id(p) for part in parts for p in _parameters(part)]
    expected = [id(parameters[row.name]) for row in rows if not row.frozen]
    if sorted(trained) != sorted(expected):
        raise ContractError(
            f"the optimizer holds {len(trained)} parameters and the task {len(expected)} to train: "
            f"{optim.name} must keep the groups that it is given"
        )
    for row in rows:
        if row.frozen:
            parameters[row.name].requires_grad_(False)
    return Optimizers(parts)


def _check_rest(optim: Optim, rest: Optim) -> None:
    if rest.rest is not None:
        raise ConfigError(
            "optim.rest takes all other parameters; it has no rest of its own", path="optim.rest.rest"
        )
    if optim.name != "Muon" and ":" not in optim.name:
        raise ConfigError(
            f"optim.rest belongs to an optimizer of matrices (Muon, or a callable of yours); {optim.name} "
            "takes all parameters: use rules to set learning rates apart",
            path="optim.rest",
        )


def _build(
    optim: Optim, path: str, rows: Sequence[Resolved], parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    make = find(optim.name, path)
    accepted = accepted_options(make)
    options = checked_options(optim, path, make, accepted)
    if optim.name == "Muon":
        flat = [row.name for row in rows if parameters[row.name].ndim < 2]
        if flat:
            raise ConfigError(
                f"Muon steps matrices and convolution filters, but {len(flat)} parameters are vectors "
                f"({flat[0]} is the first); give optim.rest an optimizer for all others",
                path=f"{path}.rest",
            )
    groups: dict[str, Group] = {}
    for row in rows:
        fresh = {"params": [], "names": [], "name": row.group, "lr": row.base_lr, "base_lr": row.base_lr}
        group = groups.setdefault(row.group, fresh)
        group["params"].append(parameters[row.name])
        group["names"].append(row.name)
        if accepted is None or "weight_decay" in accepted:
            group["weight_decay"] = row.weight_decay
        elif row.weight_decay:
            raise ConfigError(f"{optim.name} has no weight decay; {row.name} asks for one", path=path)
    keywords = {"lr": optim.lr, **options}
    if accepted is None or "weight_decay" in accepted:
        keywords["weight_decay"] = optim.weight_decay
    if wants_fused(make, accepted, options, [parameters[row.name] for row in rows]):
        keywords["fused"] = True
    ordered = sorted(groups.values(), key=lambda group: group["name"] not in ("base", "rest"))
    try:
        made = make(ordered, **keywords)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{optim.name} cannot be built with {keywords}: {error}", path=path) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ContractError(
            f"{optim.name} returned a {type(made).__name__}; expected a torch.optim.Optimizer",
            path=f"{path}.name",
        )
    for name, reason in REFUSED.items():
        if isinstance(made, getattr(torch.optim, name)):
            raise ConfigError(reason, path=f"{path}.name")
    return made
