"""Calls: check the keywords of a third-party call against what the callable takes, without calling it.

A signature tells most of it. Where a callable passes keywords on (`timm.create_model(name, **kwargs)`), the
keywords that it could pass them to are looked for in the source: a word that stands nowhere in the modules
which build the network is no keyword of it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from visloom.kinds import attribute, import_module
from visloom.place import Place, did_you_mean, nearest, one_of
from visloom.run import Call

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_call(call: Call, at: Place) -> None:
    """Raise ConfigError if a call cannot be resolved, or has a keyword that its callable does not take."""
    module, _, name = call.target.partition(":")
    target = attribute(import_module(module, at.child("target")), name, at.child("target"))
    if not callable(target):
        raise at.child("target").error(f"{call.target} is a {type(target).__name__}, not a class or function")
    kwargs = at.child("kwargs")
    if call.target == "timm:create_model":
        _check_timm(call, kwargs)
        return
    taken, open_ended = keywords(target)
    for key in call.kwargs if taken is not None else ():
        if key in (taken or ()):
            continue
        options = [*(taken or ())]
        if open_ended:
            words, more = passed_on(target)
            if words is None or key in words:
                continue
            options += more
        raise _unknown(key, name, options, kwargs)


def keywords(target: Callable[..., Any]) -> tuple[list[str] | None, bool]:
    """Return the keywords that a callable takes by name, and whether it takes others; (None, True) if
    unknown.
    """
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return None, True
    named = [p.name for p in parameters if p.kind in _NAMED]
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _unknown(key: str, name: str, options: Iterable[str], at: Place) -> Exception:
    options = list(dict.fromkeys(options))
    near = nearest(key, options)
    taken = "" if near else f"it takes {one_of(options, 'and')}"
    return at.child(key).error(f"{name} takes no keyword {key!r}", did_you_mean(near), taken)


@lru_cache(maxsize=64)
def passed_on(target: Callable[..., Any]) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Return every word in the sources that a model builder may pass keywords to, and the likely keywords.

    The sources are the builder's module and the modules of the networks that it can see. (None, ()) outside
    the model libraries: there the keywords cannot be known.
    """
    start = getattr(target, "__module__", "") or ""
    if start.split(".")[0] not in ("timm", "torchvision", "segmentation_models_pytorch"):
        return None, ()
    from torch import nn

    seen, likely = {start}, []
    for value in vars(sys.modules[start]).values():
        if isinstance(value, type) and issubclass(value, nn.Module):
            seen.update(base.__module__ for base in value.__mro__)
            likely += keywords(value)[0] or []
    words: set[str] = set()
    for module in seen:
        if module.split(".")[0] == start.split(".")[0]:
            words.update(re.findall(r"\w+", inspect.getsource(sys.modules[module])))
    return frozenset(words), tuple(dict.fromkeys(likely))


def _check_timm(call: Call, at: Place) -> None:
    """Check the name of a timm model and the keywords that its builder could use."""
    import timm
    from timm.models import _builder, _factory, is_model, model_entrypoint

    name = call.kwargs.get("model_name")
    if not isinstance(name, str):
        raise at.child("model_name").error("is missing: timm needs the name of a model", "say, resnet18")
    if ":" in name or "/" in name:
        return  # from the hub or a folder: known only when it is there
    base = name.partition(".")[0]
    if not is_model(base):
        near = did_you_mean(nearest(base, timm.list_models()))
        raise at.child("model_name").error(f"timm {timm.__version__} has no model {base!r}", near)
    words, likely = passed_on(model_entrypoint(base))
    own = keywords(timm.create_model)[0] or []
    building = {w for m in (_builder, _factory) for w in re.findall(r"\w+", inspect.getsource(m))}
    for key in call.kwargs:
        if key not in own and words is not None and key not in words and key not in building:
            raise _unknown(key, f"timm's {base}", [*likely, *own], at)
