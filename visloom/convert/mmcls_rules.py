"""mmcv's paramwise options as rules: `paramwise_rules(options, module, weight_decay)`.

    there                 here
    custom_keys           Rule(name=...) with learning rate and decay, the longest key first
    norm_decay_mult       Rule(kind="norm", weight_decay=...)
    dwconv_decay_mult     Rule(kind="dwconv", weight_decay=...), before that of biases even if it is 1
    bias_decay_mult       Rule(kind="bias", weight_decay=...)
    bias_lr_mult          Rule(kind="bias", lr=...)
    dcn_offset_lr_mult    Rule(kind="dcn_offset", lr=...)
    bypass_duplicate      nothing: a parameter with two names stands once, always

What the original gets wrong is right here; `compat=True` gives exactly its groups:

* a misspelt option is ignored there: an error here, with `compat` too
* a custom key that no name holds is ignored: an error here. A key may begin with a dot ("at the begin of a part of
  a name"), but there the name of the first part has none before it, so `.backbone` never matches; here it does
* a convolution of a one-channel picture counts as depthwise; here it does not
* a depthwise convolution in one or three dimensions does not; here it does
* `conv_offset` is looked for below deformable convolutions of mmcv only; here beside torchvision's as well
* of a parameter with two names, only the first is compared with the custom keys; here each of them
* a bias is a parameter called `bias`; here those of attention (`in_proj_bias`) are too, and norms that libraries
  write themselves are norms

Source: mmcv 1.2.5, DefaultOptimizerConstructor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from visloom.errors import ConfigError
from visloom.place import did_you_mean, nearest
from visloom.rules import is_deformable, kinds, resolve_rules
from visloom.run import Optim, Rule

DECAYS = ("norm_decay_mult", "dwconv_decay_mult", "bias_decay_mult")
OPTIONS = ("custom_keys", "bias_lr_mult", *DECAYS, "dcn_offset_lr_mult", "bypass_duplicate")
MULTIPLIERS = ("lr_mult", "decay_mult")
PATH = "optimizer.paramwise_cfg"


class ParamwiseRules(NamedTuple):
    """Rules that do what paramwise options say, and what the user should know of them."""

    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = ()


class _Key(NamedTuple):
    """A custom key, its multipliers, and the parameters (by their first names) that it holds for."""

    key: str
    lr: float
    decay: float
    chosen: tuple[str, ...]


def paramwise_rules(
    options: Mapping[str, Any] | None,
    module: nn.Module,
    weight_decay: float | None,
    *,
    names: Mapping[str, str] | None = None,
    compat: bool = False,
) -> ParamwiseRules:
    """Return the rules that paramwise options mean for a module.

    Args:
        options: the `paramwise_cfg` of an optimizer; None or {} is no rule.
        module: what is trained. Rules that nothing matches are left out, as the original does.
        weight_decay: of the optimizer; None if its config names none.
        names: the original's name of each parameter, by its name in `module`: custom keys are compared with those.
        compat: the original's groups, its mistakes included; see the top of this file.

    Raises:
        ConfigError: an unknown option, a value out of range, a decay without weight decay, a key that no name holds.
    """
    if not options:
        return ParamwiseRules(())
    given = dict(options)
    _check(given, weight_decay)
    tree = _Tree(module, names or {}, first_only=compat)
    notes: list[str] = []
    keys = list(_custom(given.get("custom_keys", {}), tree, compat, notes))
    rules = [*_key_rules(keys, tree, weight_decay), *_kind_rules(given, module, weight_decay)]
    if not compat:
        if given.keys() & {"dwconv_decay_mult", "bias_decay_mult"}:
            notes += [
                f"{name} has one input channel; mmcv takes it for a depthwise convolution"
                for name, owner in module.named_modules()
                if _depthwise_there(owner) and owner.in_channels == 1
            ]
        return ParamwiseRules(tuple(rules), tuple(notes))
    wanted = dict(_settings(given, module, {key.key: key for key in keys}, tree))
    if not _agree(rules, module, weight_decay, wanted):
        rules = _spelled_out(wanted, tree, weight_decay)
    return ParamwiseRules(tuple(rules), tuple(notes))


# --- options


def _check(options: Mapping[str, Any], weight_decay: float | None) -> None:
    for name, value in options.items():
        if name not in OPTIONS:
            near = did_you_mean(nearest(str(name), OPTIONS))
            raise _error(name, "is no paramwise option of mmcv, which would ignore it", near)
        if name == "custom_keys":
            _check_keys(value, weight_decay)
        elif name == "bypass_duplicate":
            if not isinstance(value, bool):
                raise _error(name, f"is true or false, got {value!r}")
        else:
            _check_factor(name, value)
        if name in DECAYS and weight_decay is None:
            raise _error(name, "multiplies the optimizer's weight_decay, which its config does not name")


def _check_keys(keys: Any, weight_decay: float | None) -> None:
    if not isinstance(keys, Mapping):
        raise _error("custom_keys", f"is a dict of dicts, got {type(keys).__name__}")
    for key, entry in keys.items():
        place = f"custom_keys.{key}"
        if not isinstance(key, str) or not key or not isinstance(entry, Mapping):
            raise _error(place, "is a text with a dict of lr_mult and decay_mult")
        for name, value in entry.items():
            if name not in MULTIPLIERS:
                near = did_you_mean(nearest(str(name), MULTIPLIERS))
                raise _error(f"{place}.{name}", "is none of lr_mult and decay_mult", near)
            _check_factor(f"{place}.{name}", value)
            if name == "decay_mult" and weight_decay is None:
                raise _error(f"{place}.{name}", "multiplies a weight_decay that the optimizer's config lacks")


def _check_factor(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise _error(name, f"is a number that is not negative, got {value!r}")


def _error(name: Any, problem: str, advice: str = "") -> ConfigError:
    path = f"{PATH}.{name}"
    return ConfigError("\n  ".join(line for line in (f"{path} {problem}", advice) if line), path=path)


# --- custom keys


class _Tree:
    """The parameters of a module: by each of their names, which stand for which first name, and the original's names.

    first_only: compare keys with the first name of a parameter only, and as the original writes it.
    """

    def __init__(self, module: nn.Module, names: Mapping[str, str], *, first_only: bool) -> None:
        first = {id(p): name for name, p in module.named_parameters()}
        self.first = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}
        self.old = {name: names.get(name, name) for name in self.first}
        self.first_only = first_only

    def held(self, key: str) -> tuple[str, ...]:
        """First names of the parameters whose names hold a key, in order."""
        found = (first for name, first in self.first.items() if self._holds(key, name, first))
        return tuple(dict.fromkeys(found))

    def _holds(self, key: str, name: str, first: str) -> bool:
        old = self.old[name]
        if self.first_only:
            return name == first and key in (old if "." in old else f".{old}")
        return key in f".{old}"

    def pattern(self, chosen: Collection[str], key: str = "") -> str:
        """A regular expression that is found in the names of these parameters and of no others."""
        wanted = set(chosen)
        plain = re.escape(key.removeprefix("."))
        for simple in (f"(^|\\.){plain}" if key.startswith(".") else plain,) if plain else ():
            if {first for name, first in self.first.items() if re.search(simple, name)} == wanted:
                return simple
        parts: list[str] = []
        covered: set[str] = set()
        for name in self.first:
            if self.first[name] in wanted and name == self.first[name] and name not in covered:
                prefix, members = self._widest(name, wanted)
                parts.append(re.escape(prefix))
                covered.update(members)
        return f"^({'|'.join(parts)})(\\.|$)" if len(parts) > 1 else f"^{parts[0]}(\\.|$)"

    def _widest(self, name: str, wanted: set[str]) -> tuple[str, list[str]]:
        """The shortest begin of a name below which nothing is unwanted, and what stands below it."""
        pieces = name.split(".")
        for depth in range(1, len(pieces) + 1):
            prefix = ".".join(pieces[:depth])
            members = [n for n in self.first if n == prefix or n.startswith(f"{prefix}.")]
            if all(self.first[n] in wanted for n in members):
                return prefix, members
        return name, [name]


def _custom(
    keys: Mapping[str, Mapping[str, float]], tree: _Tree, compat: bool, notes: list[str]
) -> Iterator[_Key]:
    """The custom keys in the order in which they are tried."""
    for key in sorted(sorted(keys), key=len, reverse=True):
        chosen = tree.held(key)
        if not chosen and not compat:
            near = nearest(key, dict.fromkeys(tree.old.values()))
            raise _error(f"custom_keys.{key}", "is in no parameter's name", did_you_mean(near))
        if not chosen:
            notes.append(f"custom key {key!r} is in no parameter's name, so it sets nothing")
            continue
        if key.startswith(".") and not any(key in tree.old[name] for name in chosen) and not compat:
            notes.append(
                f"custom key {key!r} sets {len(chosen)} parameters here; mmcv does not find it, as the names "
                "begin without a dot"
            )
        yield _Key(key, float(keys[key].get("lr_mult", 1.0)), float(keys[key].get("decay_mult", 1.0)), chosen)


# --- rules


def _times(decay: float | None, factor: float) -> float | None:
    return None if decay is None else decay * factor


def _key_rules(keys: Sequence[_Key], tree: _Tree, decay: float | None) -> list[Rule]:
    return [
        Rule(name=tree.pattern(key.chosen, key.key), lr=key.lr, weight_decay=_times(decay, key.decay))
        for key in keys
    ]


def _kind_rules(options: Mapping[str, Any], module: nn.Module, decay: float | None) -> list[Rule]:
    """One rule per option that changes something."""
    there = {kind for found in kinds(module).values() for kind in found}
    factor = {name: float(options.get(name, 1.0)) for name in OPTIONS if name.endswith("_mult")}
    rules = []
    if "norm" in there and factor["norm_decay_mult"] != 1:
        rules.append(Rule(kind="norm", weight_decay=_times(decay, factor["norm_decay_mult"])))
    if "dwconv" in there and (factor["dwconv_decay_mult"] != 1 or factor["bias_decay_mult"] != 1):
        rules.append(Rule(kind="dwconv", weight_decay=_times(decay, factor["dwconv_decay_mult"])))
    if "bias" in there and factor["bias_decay_mult"] != 1:
        rules.append(Rule(kind="bias", weight_decay=_times(decay, factor["bias_decay_mult"])))
    if "bias" in there and factor["bias_lr_mult"] != 1:
        rules.append(Rule(kind="bias", lr=factor["bias_lr_mult"]))
    if "dcn_offset" in there and factor["dcn_offset_lr_mult"] != 1:
        rules.append(Rule(kind="dcn_offset", lr=factor["dcn_offset_lr_mult"]))
    return rules


# --- compat: the original's answer for each parameter, and rules that give it


_Setting = tuple[float, float]  # factors of learning rate and weight decay


def _depthwise_there(owner: nn.Module) -> bool:
    return isinstance(owner, nn.Conv2d) and owner.in_channels == owner.groups


def _settings(
    options: Mapping[str, Any], module: nn.Module, keys: Mapping[str, _Key], tree: _Tree
) -> Iterator[tuple[str, _Setting]]:
    """The original's factors for each trainable parameter, under its first name."""
    parents = {
        f"{name}.{child}".lstrip("."): owner
        for name, owner in module.named_modules()
        for child, _ in owner.named_children()
    }
    for prefix, owner in module.named_modules():
        for local, parameter in owner.named_parameters(recurse=False):
            name = f"{prefix}.{local}".lstrip(".")
            if parameter.requires_grad and tree.first[name] == name:
                yield name, _setting(options, owner, parents.get(prefix), prefix, local, name, keys)


def _setting(
    options: Mapping[str, Any],
    owner: nn.Module,
    parent: nn.Module | None,
    prefix: str,
    local: str,
    name: str,
    keys: Mapping[str, _Key],
) -> _Setting:
    for key in keys.values():
        if name in key.chosen:
            return key.lr, key.decay
    norm = isinstance(owner, _BatchNorm | _InstanceNorm | nn.GroupNorm | nn.LayerNorm)
    below = parent is not None and is_deformable(parent)
    bias = local == "bias" and not norm and not below
    lr = float(options.get("bias_lr_mult", 1.0)) if bias else 1.0
    if below and "conv_offset" in prefix and isinstance(owner, nn.Conv2d):
        lr = float(options.get("dcn_offset_lr_mult", 1.0))
    option = (
        "norm_decay_mult"
        if norm
        else "dwconv_decay_mult"
        if _depthwise_there(owner)
        else "bias_decay_mult"
        if bias
        else ""
    )
    return lr, float(options.get(option, 1.0))


def _agree(
    rules: Sequence[Rule], module: nn.Module, decay: float | None, wanted: Mapping[str, _Setting]
) -> bool:
    rows = resolve_rules(module, Optim(lr=1.0, weight_decay=decay or 0.0), rules)
    return all(
        (row.lr, row.weight_decay) == (wanted[row.name][0], (decay or 0.0) * wanted[row.name][1])
        for row in rows
        if not row.frozen
    )


def _spelled_out(wanted: Mapping[str, _Setting], tree: _Tree, decay: float | None) -> list[Rule]:
    """One rule by name for each setting that differs from the optimizer's own."""
    members: dict[_Setting, list[str]] = {}
    for name, setting in wanted.items():
        members.setdefault(setting, []).append(name)
    return [
        Rule(name=tree.pattern(chosen), lr=lr, weight_decay=_times(decay, factor))
        for (lr, factor), chosen in members.items()
        if (lr, factor) != (1.0, 1.0)
    ]
