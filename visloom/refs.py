"""Refs: what `visloom train THIS` names, and the Run it stands for.

    cifar10, cifar10:resnet50   a function of visloom/recipes/cifar10.py: the one called like the file, else
                                `default`; or the one after the colon
    mine.py, mine.py:big        the same in a file of one's own, imported by its stem from its folder
    package.module:function     any function without arguments that returns a Run
    mine.yaml, mine.json        settings, usually with `extends:` (a recipe, or a file beside it)
    runs/cifar10-003            a run directory: its run.json

Python runs only if the user names it: a settings file may extend settings files and visloom's recipes.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from visloom.coerce import coerce, settle
from visloom.errors import ConfigError
from visloom.kinds import TRUST_IT, import_module
from visloom.overlay import Fields, read
from visloom.paths import spread
from visloom.place import Place, did_you_mean, nearest, one_of
from visloom.run import Run
from visloom.trust import Trust, modules

RECIPES = "visloom.recipes"


@dataclass(frozen=True)
class Opened:
    """A run, and what edits of it may import."""

    run: Run
    trust: Trust


def recipes() -> list[str]:
    """Return the names of visloom's recipes, importing none."""
    return [module.removeprefix(f"{RECIPES}.") for module in modules(RECIPES) if module != RECIPES]


def open_ref(ref: str, trust: Trust) -> Opened:
    """Return the run that a user's reference names.

    Raises:
        ConfigError: nothing of that name, or it does not give a Run.
    """
    at = Place(trust=trust)
    run = _recipe(ref, at)
    if run is not None:
        return Opened(run, trust)
    path, function = _file_of(ref)
    if path is not None:
        return _open_file(path, function, trust)
    module, colon, function = ref.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
        raise _nothing(ref, at)
    top = module.split(".")[0]
    own = () if top == "visloom" else (top,)
    return Opened(
        _call(import_module(module, at), function, ref), replace(trust, packages=trust.packages + own)
    )


def _recipe(ref: str, at: Place) -> Run | None:
    name, _, function = ref.removeprefix(f"{RECIPES}.").partition(":")
    if name not in recipes():
        return None
    return _call(import_module(f"{RECIPES}.{name}", at), function, ref)


def _file_of(ref: str) -> tuple[Path | None, str]:
    """Return the file or folder that a reference means, and the function in it; (None, "") if it means none."""
    head, colon, tail = ref.rpartition(":")
    if colon and head.endswith(".py") and tail.isidentifier():
        return Path(head), tail
    path = Path(ref)
    known = path.suffix.lower() in (".py", ".yaml", ".yml", ".json")
    return (path, "") if known or path.is_dir() or "/" in ref or "\\" in ref else (None, "")


def _open_file(path: Path, function: str, trust: Trust) -> Opened:
    at = Place()
    if not path.exists():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [str(path.parent / name) for name in nearest(path.name, beside)]
        raise at.error(f"there is no file {path}", did_you_mean(near))
    if path.is_dir():
        folder, path = path, path / "run.json"
        if not path.is_file():
            raise at.error(f"{folder} is no run directory: it has no run.json")
        if trust.everything and (folder / "recipe").is_dir():
            _add_to_path(folder / "recipe")
    suffix = path.suffix.lower()
    if suffix == ".py":
        run = _call(import_file(path), function, str(path))
        return Opened(run, replace(trust, folders=(*trust.folders, str(path.resolve().parent))))
    if suffix not in (".yaml", ".yml", ".json"):
        raise at.error(f"{path} is no recipe", "recipes are .py, .yaml and .json files and run directories")
    return Opened(_open_settings(path, trust, ()), trust)


def _nothing(ref: str, at: Place) -> ConfigError:
    near = did_you_mean(nearest(ref.partition(":")[0], recipes()))
    known = f"recipes: {one_of(recipes(), 'and')}; or name a .py or .yaml file, or a run directory"
    return at.error(f"there is no recipe {ref!r}", near, known)


# ------------------------------------------------------------------------------------------------- settings


def _open_settings(path: Path, trust: Trust, chain: tuple[Path, ...]) -> Run:
    """Return the run that a settings file describes: all of it, or what it changes of the one it extends.

    chain: the files that extend this one, to notice a circle.
    """
    fields = read(path)
    at = Place(where=str(path), trust=trust)
    base: Any = MISSING
    if "extends" in fields:
        base = _extended(fields, path, trust, (*chain, path.resolve()))
        at = replace(at, root=base)
    edits = [edit for edit in spread(fields, str(path), at) if edit.path != ("extends",)]
    if base is MISSING and not edits:
        raise at.error("this file says nothing", "begin it with a recipe to change: `extends: cifar10`")
    run: Run = settle(base, Run, edits, at)
    return run


def _extended(fields: Fields, path: Path, trust: Trust, chain: tuple[Path, ...]) -> Run:
    at = Place("extends", fields.places["extends"], trust)
    ref = fields["extends"]
    if not isinstance(ref, str) or not ref:
        raise at.error("expected the name of a recipe or a file", "for example `extends: cifar10`")
    run = _recipe(str(ref), at)
    if run is not None:
        return run
    file, _ = _file_of(str(ref))
    if file is None and ":" not in ref:
        raise _nothing(str(ref), at)
    if file is None or file.suffix.lower() == ".py":
        if not trust.everything:
            raise at.error(f"{ref} is Python code, which a settings file may not run", TRUST_IT)
        return open_ref(str(path.parent / ref) if file is not None else str(ref), trust).run
    file = path.parent / file
    file = file / "run.json" if file.is_dir() else file
    if not file.is_file():
        raise at.error(f"there is no file {file}", f"the path starts from the folder of {path.name}")
    if file.resolve() in chain:
        raise at.error(
            f"{file} extends itself in a circle", " -> ".join(each.name for each in (*chain, file))
        )
    return _open_settings(file, trust, chain)


# --------------------------------------------------------------------------------------------------- Python


def import_file(path: Path) -> ModuleType:
    """Import a file by its stem, so that worker processes, which start anew, find it the same way."""
    stem, at = path.stem, Place(where=str(path))
    if not stem.isidentifier():
        raise at.error(f"{stem!r} is no module name", "rename the file: letters, digits and underscores only")
    if stem in sys.modules:
        _check_file(sys.modules[stem], path, at)
    _add_to_path(path.resolve().parent)
    module: ModuleType = _guarded(lambda: importlib.import_module(stem), path, at)
    _check_file(module, path, at)
    return module


def _check_file(module: ModuleType, path: Path, at: Place) -> None:
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        owner = f"the module {origin or 'built into Python'}"
        raise at.error(f"the name {module.__name__!r} belongs to {owner}", "rename this file")


def _add_to_path(folder: Path) -> None:
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
        importlib.invalidate_caches()


def _call(module: ModuleType, function: str, ref: str) -> Run:
    """Call a recipe function and return its Run, checked and converted where Python is lax (1 for 1.0)."""
    file = Path(getattr(module, "__file__", None) or "")
    at = Place(where=ref)
    make = _function(module, function, at)
    run = _guarded(make, file, at)
    if not isinstance(run, Run):
        raise at.error(f"{make.__name__}() returned {type(run).__name__}, expected a Run")
    checked: Run = coerce(run, Run, at)
    return checked


def _function(module: ModuleType, name: str, at: Place) -> Callable[[], Any]:
    """Return the function that a reference means, which takes no arguments."""
    stem = module.__name__.rpartition(".")[2]
    functions = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and not key.startswith("_") and value.__module__ == module.__name__
    }
    found = functions.get(name) if name else functions.get(stem, functions.get("default"))
    if found is None:
        others = [
            key for key, value in functions.items() if value.__annotations__.get("return") in ("Run", Run)
        ]
        wanted = repr(name) if name else f"{stem!r} or 'default'"
        near = did_you_mean(nearest(name, others)) if name else ""
        raise at.error(f"{stem} has no function {wanted}", near, f"its recipes are {one_of(others, 'and')}")
    parameters = inspect.signature(found).parameters.values()
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in starred]
    if needed:
        raise at.error(f"a recipe takes no arguments, but {found.__name__} needs {one_of(needed, 'and')}")
    return found


def _guarded(work: Callable[[], Any], file: Path, at: Place) -> Any:
    """Run a recipe's code; what it raises becomes a ConfigError that names the line of the file."""
    try:
        return work()
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}") from error
    except ConfigError as error:
        raise ConfigError(f"{_line(error, file) or at.where}: {error}", path=error.path) from error
    except Exception as error:
        raise at.seen(_line(error, file)).error(f"{type(error).__name__}: {error}") from error


def _line(error: BaseException, file: Path) -> str:
    """Return `file:line` of the last call in a file that led to an error, or ""."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""
