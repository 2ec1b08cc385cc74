"""Rules: which learning rate, weight decay and freezing each parameter gets, and from where.

`resolve_rules(module, optim, rules)` gives one row per parameter; `table` prints them, `diff_resolved`
compares. Each attribute of a parameter is taken from the first rule that matches the parameter and sets that
attribute; a rule matches if its regular expression is found in the name (`re.search`) and its kind is one of
the parameter's kinds.

A parameter's kinds come from the type of the module that owns it:

    norm         weight and bias of batch, layer, group and instance norms; nothing else holds for them
    dcn_offset   weight and bias of the convolution that predicts the offsets of a deformable one; also `conv`
    conv         weight and bias of every convolution
    dwconv       of a depthwise one (groups == input channels > 1); it is `conv` too
    linear       weight and bias of linear, bilinear and attention projections
    embedding    the table of an embedding
    bias         the bias of any layer except norms and the offset convolutions of deformable ones

That the bias of a norm is no `bias` is what mmcv's bias options mean: they raise the learning rate of biases
and spare the norms. `visloom/convert/mmcls_rules.py` turns its paramwise options into rules. Parameters
without a kind (raw ones, position embeddings) match `any` only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from visloom.errors import ConfigError
from visloom.run import Optim, Rule

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Resolved:
    """What one parameter gets.

    name: full name; a tied parameter stands once, under the first of its names.  also: its other names.
    kinds: see the top of this file.  count: numbers in it.
    part: 0, or 1 for what `optim.rest` updates.  optimizer: its name.  group: readable name of the group.
    lr: factor on that optimizer's learning rate.  base_lr: the product.  weight_decay: absolute value.
    frozen: by a rule, or because the task had frozen it already.
    by: index of the rule that set "lr", "weight_decay", "frozen"; what no rule set is missing.
    """

    name: str
    also: tuple[str, ...]
    kinds: tuple[str, ...]
    count: int
    part: int
    optimizer: str
    group: str
    lr: float
    base_lr: float
    weight_decay: float
    frozen: bool
    by: Mapping[str, int] = field(default_factory=dict)


# --- kinds


def kinds(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the kinds of every parameter by its name; a tied parameter has the kinds of all its owners.

    Names are those of `module.named_parameters()`: tied parameters stand once.
    """
    found: dict[int, set[str]] = {}
    offsets = _offset_convs(module)
    for owner in module.modules():
        for local, parameter in owner.named_parameters(recurse=False):
            found.setdefault(id(parameter), set()).update(_kinds(owner, local, parameter, offsets))
    order = ("norm", "dcn_offset", "dwconv", "conv", "linear", "embedding", "bias")
    return {
        name: tuple(kind for kind in order if kind in found[id(parameter)])
        for name, parameter in module.named_parameters()
    }


def _kinds(owner: nn.Module, local: str, parameter: nn.Parameter, offsets: set[int]) -> Iterator[str]:
    if isinstance(owner, _NORMS) or ("norm" in type(owner).__name__.lower() and parameter.ndim <= 1):
        yield "norm"  # by name: norms that libraries write themselves (timm's RmsNorm, EvoNorm, ...)
        return
    if id(owner) in offsets:
        yield "dcn_offset"
    if isinstance(owner, _ConvNd) or is_deformable(owner):
        yield "conv"
        if _is_depthwise(owner):
            yield "dwconv"
    elif isinstance(owner, nn.Linear | nn.Bilinear) or _is_projection(owner, local):
        yield "linear"
    elif isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        yield "embedding"
    is_bias = local == "bias" or (local.endswith("_bias") and parameter.ndim == 1)
    if is_bias and id(owner) not in offsets:
        yield "bias"


def _is_projection(owner: nn.Module, local: str) -> bool:
    """Attention owns the weights of its input projections itself, without a linear module around them."""
    names = ("in_proj_", "q_proj_", "k_proj_", "v_proj_")
    return isinstance(owner, nn.MultiheadAttention) and local.startswith(names)


def _is_depthwise(owner: nn.Module) -> bool:
    if not isinstance(owner, _ConvNd) or isinstance(owner, _ConvTransposeNd):
        return False
    return owner.groups == owner.in_channels > 1


def is_deformable(owner: nn.Module) -> bool:
    """Say whether a layer is a deformable convolution: torchvision's, mmcv's or one of a like name."""
    return any("DeformConv" in base.__name__ for base in type(owner).__mro__)


def _offset_convs(module: nn.Module) -> set[int]:
    """Ids of convolutions that predict offsets: named conv_offset, or offset beside a deformable one."""
    found: set[int] = set()
    for owner in module.modules():
        children = dict(owner.named_children())
        deformable = is_deformable(owner) or any(map(is_deformable, children.values()))
        for name, child in children.items():
            if isinstance(child, _ConvNd) and ("conv_offset" in name or (deformable and "offset" in name)):
                found.add(id(child))
    return found


# --- resolving


def resolve_rules(module: nn.Module, optim: Optim, rules: Sequence[Rule] = ()) -> list[Resolved]:
    """Return what each parameter of `module` gets, in the order of `module.named_parameters()`.

    A rule with `frozen=False` keeps later rules from freezing a parameter; it does not thaw one that the
    task itself froze (a teacher network, a fixed whitening layer).

    Raises:
        ConfigError: a rule that matches nothing or sets nothing; nothing left to train.
    """
    kind_of = kinds(module)
    names = _all_names(module)
    patterns = [re.compile(rule.name) for rule in rules]
    matched = [False] * len(rules)
    rows: list[Resolved] = []
    for name, parameter in module.named_parameters():
        by: dict[str, int] = {}
        for i, rule in enumerate(rules):
            if rule.kind != "any" and rule.kind not in kind_of[name]:
                continue
            if not any(patterns[i].search(one) for one in names[id(parameter)]):
                continue
            matched[i] = True
            for attribute in ("lr", "weight_decay", "frozen"):
                if getattr(rule, attribute) is not None:
                    by.setdefault(attribute, i)
        part = optim
        if optim.rest is not None and not _is_matrix(name, parameter, kind_of[name], optim):
            part = optim.rest
        factor = rules[by["lr"]].lr if "lr" in by else 1.0
        decay = rules[by["weight_decay"]].weight_decay if "weight_decay" in by else part.weight_decay
        frozen = bool("frozen" in by and rules[by["frozen"]].frozen) or not parameter.requires_grad
        assert factor is not None
        assert decay is not None
        rows.append(
            Resolved(
                name=name,
                also=tuple(names[id(parameter)][1:]),
                kinds=kind_of[name],
                count=parameter.numel(),
                part=int(part is not optim),
                optimizer=part.name,
                group="frozen" if frozen else _label(by, rules, "base" if part is optim else "rest"),
                lr=float(factor),
                base_lr=part.lr * float(factor),
                weight_decay=float(decay),
                frozen=frozen,
                by=by,
            )
        )
    for i, rule in enumerate(rules):
        if rule.lr is None and rule.weight_decay is None and rule.frozen is None:
            raise ConfigError(f"rules.{i} sets none of lr, weight_decay and frozen", path=f"rules.{i}")
        if not matched[i]:
            raise _matches_nothing(i, rule, kind_of)
    if not any(not row.frozen for row in rows):
        reason = "the rules or the task freeze every parameter" if rows else "the task has no parameters"
        raise ConfigError(f"{reason}: nothing is left to train", path="rules")
    return _named_groups(rows)


def _all_names(module: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _is_matrix(name: str, parameter: nn.Parameter, kind: tuple[str, ...], optim: Optim) -> bool:
    """Say whether the first of two optimizers takes a parameter: a map between channels, and wanted by name.

    Depthwise filters are no such map (each row sees one channel only), nor are embeddings and raw parameters.
    """
    map_of_channels = ("conv" in kind or "linear" in kind) and "dwconv" not in kind
    return parameter.ndim >= 2 and map_of_channels and re.search(optim.names, name) is not None


def _label(by: Mapping[str, int], rules: Sequence[Rule], base: str) -> str:
    """A readable name for what the rules in `by` make: `base`, `norm`, `backbone.bias`, `rest.norm`."""
    used = sorted({i for attribute, i in by.items() if attribute != "frozen"})
    words = []
    for i in used:
        rule = rules[i]
        name = "" if rule.name == ".*" else re.sub(r"[^\w.-]+", "", rule.name.replace("\\.", ".")).strip(".")
        kind = "" if rule.kind == "any" else rule.kind
        words.append(".".join(word for word in (name, kind) if word) or "all")
    label = "+".join(dict.fromkeys(words))
    return base if not label else f"rest.{label}" if base == "rest" else label


def _named_groups(rows: list[Resolved]) -> list[Resolved]:
    """Give rows with equal settings one group name, and rows with different settings different ones."""
    labels: dict[tuple[int, float, float], list[str]] = {}
    for row in rows:
        if not row.frozen:
            seen = labels.setdefault(_settings(row), [])
            if row.group not in seen:
                seen.append(row.group)
    names: dict[tuple[int, float, float], str] = {}
    for settings, words in labels.items():
        first = next((word for word in words if word in ("base", "rest")), None)
        name = first or ",".join(words[:3]) + (",..." if len(words) > 3 else "")
        same = sum(other == name or other.startswith(f"{name}#") for other in names.values())
        names[settings] = f"{name}#{same + 1}" if same else name
    return [row if row.frozen else replace(row, group=names[_settings(row)]) for row in rows]


def _settings(row: Resolved) -> tuple[int, float, float]:
    return (row.part, row.base_lr, row.weight_decay)


def _matches_nothing(i: int, rule: Rule, kind_of: Mapping[str, tuple[str, ...]]) -> ConfigError:
    by_name = [name for name in kind_of if re.search(rule.name, name)]
    if by_name:
        there = sorted({kind for name in by_name for kind in kind_of[name]}) or ["none"]
        message = (
            f"rules.{i} matches nothing: its name {rule.name!r} is found in {len(by_name)} parameters "
            f"({_some(by_name)}), but none is of kind {rule.kind}; their kinds: {', '.join(there)}"
        )
        return ConfigError(message, path=f"rules.{i}.kind")
    near = get_close_matches(rule.name, kind_of, 3, 0.0)
    message = (
        f"rules.{i} matches nothing: no parameter name contains {rule.name!r}; nearest: {', '.join(near)}"
    )
    return ConfigError(message, path=f"rules.{i}.name")


def _some(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


# --- showing and comparing


def table(rows: Sequence[Resolved]) -> list[tuple[str, ...]]:
    """Return the groups as rows of text, the first one a header: for `doctor` and the log."""
    groups: dict[str, list[Resolved]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    lines: list[tuple[str, ...]] = [
        ("group", "optimizer", "lr", "weight decay", "parameters", "numbers", "such as")
    ]
    for name, members in groups.items():
        one = members[0]
        settings = (
            ("-", "-", "-") if one.frozen else (one.optimizer, f"{one.base_lr:g}", f"{one.weight_decay:g}")
        )
        count = sum(row.count for row in members)
        lines.append(
            (name, *settings, str(len(members)), f"{count:,}", _some([row.name for row in members], 2))
        )
    return lines


def resolved_to_json(rows: Sequence[Resolved]) -> list[dict[str, Any]]:
    """Return what a checkpoint keeps: optimizer, lr factor, weight decay and frozen of each parameter."""
    return [
        {
            "name": row.name,
            "optimizer": row.optimizer,
            "lr": row.lr,
            "weight_decay": row.weight_decay,
            "frozen": row.frozen,
        }
        for row in rows
    ]


def diff_resolved(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how two results of `resolved_to_json` differ, equal changes in one line; [] if they do not."""
    before, after = ({row["name"]: row for row in rows} for rows in (old, new))
    changes: dict[str, list[str]] = {}
    for name in before:
        if name not in after:
            changes.setdefault("gone", []).append(name)
            continue
        for key in ("optimizer", "lr", "weight_decay", "frozen"):
            if before[name][key] != after[name][key]:
                change = f"{key} {before[name][key]} -> {after[name][key]}"
                changes.setdefault(change, []).append(name)
    new_names = [name for name in after if name not in before]
    if new_names:
        changes["new"] = new_names
    return [f"{change}: {_some(names)}" for change, names in changes.items()]
