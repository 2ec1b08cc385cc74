"""Optimizers by name: which exist, which are refused, which options they take, which have fused kernels.

Everything here is asked of torch itself (its exported classes, their signatures, one trial step), so that a
newer torch needs no change.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from visloom.errors import ConfigError
from visloom.muon import Muon
from visloom.place import nearest
from visloom.run import Call, Optim

REFUSED = {
    "LBFGS": "LBFGS evaluates the loss several times per step, on the same batch; a step here is one forward "
    "and backward pass. Use SGD or AdamW.",
    "SparseAdam": "SparseAdam takes sparse gradients only, and these networks have dense ones. Use AdamW.",
}


def find(name: str, path: str) -> Callable[..., Any]:
    """Return the class or function that builds the optimizer called `name`; ConfigError if there is none.

    Args:
        name: a class of torch.optim, "Muon" or "module:callable".
        path: where the name stands in the run ("optim", "optim.rest"), for messages.
    """
    if name in REFUSED:
        raise ConfigError(REFUSED[name], path=f"{path}.name")
    if ":" in name:
        try:
            made = Call(name).resolve()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{name!r} cannot be imported: {error}", path=f"{path}.name") from error
        if not callable(made):
            raise ConfigError(f"{name!r} is a {type(made).__name__}, not a callable", path=f"{path}.name")
        return made  # type: ignore[no-any-return]
    known = _known()
    if name not in known:
        near = nearest(name, known) or sorted(known)
        raise ConfigError(
            f"there is no optimizer {name!r}; nearest: {', '.join(near)} (or 'module:callable')",
            path=f"{path}.name",
        )
    return known[name]


@lru_cache(maxsize=1)
def _known() -> dict[str, Callable[..., Any]]:
    """The dense first-order optimizers of this torch by name, and Muon."""
    classes = {name: getattr(torch.optim, name) for name in torch.optim.__all__}
    known: dict[str, Callable[..., Any]] = {
        name: value
        for name, value in classes.items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    for name in ("Optimizer", *REFUSED):
        del known[name]
    return {**known, "Muon": Muon}  # torch's own takes matrices only, ours filters too


def accepted_options(make: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the keywords that `make` takes with their defaults, or None if it takes any."""
    signature = inspect.signature(make).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature):
        return None
    return {one.name: one.default for one in list(signature)[1:]}


def checked_options(
    optim: Optim, path: str, make: Callable[..., Any], accepted: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the options as keywords; ConfigError for one that the optimizer does not take."""
    options: dict[str, Any] = {}
    for key, value in optim.options.items():
        place = f"{path}.options.{key}"
        if key in ("lr", "weight_decay", "params"):
            raise ConfigError(f"{place}: set {path}.{key} instead", path=place)
        if accepted is not None and key not in accepted:
            near = nearest(key, accepted) or [one for one in accepted if one != "lr"]
            raise ConfigError(
                f"{place}: {optim.name} has no such option; nearest: {', '.join(near)}", path=place
            )
        # a file has lists where torch wants tuples
        options[key] = tuple(value) if isinstance(value, list) else value
    return options


def wants_fused(
    make: Callable[..., Any],
    accepted: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    parameters: Sequence[nn.Parameter],
) -> bool:
    """Say whether to ask for fused kernels: they exist here, and the options neither choose nor exclude them.

    Dampening excludes them, see `Optimizers.prepare`.
    """
    if accepted is None or "fused" not in accepted or not isinstance(make, type):
        return False
    if {"fused", "foreach", "differentiable"} & options.keys() or options.get("dampening"):
        return False
    return all(
        _fused_works(make, device, dtype) for device, dtype in {(p.device, p.dtype) for p in parameters}
    )


@lru_cache(maxsize=64)
def _fused_works(make: type[torch.optim.Optimizer], device: torch.device, dtype: torch.dtype) -> bool:
    """Try it on one number: which kernels exist depends on torch's version, the device and the type."""
    p = torch.zeros(1, device=device, dtype=dtype, requires_grad=True)
    p.grad = torch.zeros_like(p)
    try:
        make([p], lr=0.1, fused=True).step()  # type: ignore[call-arg]
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    return True
