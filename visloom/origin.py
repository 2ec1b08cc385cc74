"""Origin: the file a run came from: its own loop, and the copy that stays in the run directory.

A recipe file may define `drive(launch)`, a loop of one's own. `loop_of(ref)` finds it; `recorded(loop, files)`
makes it copy its files to RUN/recipe and note there where they came from. Opening a run never runs that code:
`recall(directory)` only reads the note, and `loop_again` imports after the user said so.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from visloom.errors import ConfigError, ContractError, VisloomError
from visloom.overlay import read
from visloom.refs import RECIPES, import_file, recipes
from visloom.rundir import RunDir, write_json
from visloom.words import safe

if TYPE_CHECKING:
    from visloom.launch import Launch

Loop = Callable[["Launch"], None]

_log = logging.getLogger("visloom")
_NOTE = "origin.json"
_MOST_FILES = 500  # of the modules beside a recipe


@dataclass(frozen=True)
class Origin:
    """What RUN/recipe/origin.json says.

    file: the Python file with the loop and classes, or None if there was none.  sha256: of its contents.
    loop: it has a loop of its own.  copy: its copy in the run directory.
    """

    file: Path | None
    sha256: str
    loop: bool
    copy: Path | None


# ------------------------------------------------------------------------------------------------- from a ref


def files_of(ref: str) -> list[Path]:
    """Return the files that a reference names, the named one first, and after it those that it extends.

    The recipes of Visloom are not among them: provenance.json names their commit.
    """
    path = _path_of(ref)
    if path is None or not path.is_file():
        return []
    found = [path.resolve()]
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        extends = read(path).get("extends")
        if isinstance(extends, str) and extends.partition(":")[0] not in recipes():
            head, _, tail = extends.partition(":")
            file = path.parent / (head if head.endswith(".py") and tail else extends)
            found += [f for f in files_of(str(file)) if f not in found]
    return found


def _path_of(ref: str) -> Path | None:
    head, colon, tail = ref.rpartition(":")
    path = Path(head) if colon and head.endswith(".py") and tail.isidentifier() else Path(ref)
    if path.is_dir():
        return path / "run.json"
    return path if path.suffix.lower() in (".py", ".yaml", ".yml", ".json") else None


def loop_of(ref: str) -> Loop | None:
    """Return the `drive` of the Python file or module behind a reference that was loaded, or None.

    Raises:
        ContractError: its `drive` is no function of one argument.
    """
    for file in files_of(ref):
        if file.suffix.lower() == ".py":
            return _loop(import_file(file))
    if _path_of(ref) is not None:
        return None
    name = ref.partition(":")[0].removeprefix(f"{RECIPES}.")
    module = sys.modules.get(f"{RECIPES}.{name}" if name in recipes() else name)
    return None if module is None else _loop(module)


def _loop(module: ModuleType) -> Loop | None:
    loop: Any = getattr(module, "drive", None)
    if loop is None:
        return None
    file = getattr(module, "__file__", None) or module.__name__
    if not callable(loop):
        raise ContractError(f"{file}: drive is {type(loop).__name__}, expected a function drive(launch)")
    try:
        inspect.signature(loop).bind(object())
    except TypeError as error:
        raise ContractError(f"{file}: drive is called with one argument, the launch; {error}") from error
    return loop  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------- in the directory


def recorded(loop: Loop, files: Sequence[Path] = (), own: bool = False) -> Loop:
    """Return a loop that first copies its recipe into the run directory, and writes into log.txt why it ended.

    files: what `files_of` returned.  own: the loop is the file's.
    """

    def drive(launch: Launch) -> None:
        if launch.world.first and files:
            _keep(launch.directory, files, own)
        try:
            loop(launch)
        except VisloomError as error:
            _log.error("%s", safe(error), extra={"told": True})  # the screen gets it from who catches it
            raise
        except Exception as error:
            if not _is_message(error):
                _log.error("unexpected error", exc_info=True, extra={"told": True})
            raise

    return drive


def _is_message(error: Exception) -> bool:
    """Exceptions of the driver and of rehearsals end a loop on purpose."""
    return type(error).__module__.startswith("visloom.")


def _keep(directory: RunDir, files: Sequence[Path], own: bool) -> None:
    directory.recipe.mkdir(exist_ok=True)
    code = next((file for file in files if file.suffix.lower() == ".py"), None)
    beside = [] if code is None else imported_from(code.parent)
    for file, name in [*((file, Path(file.name)) for file in files), *beside]:
        copy = directory.recipe / name
        if copy.resolve() != file and not (copy.exists() and _sha256(copy) == _sha256(file)):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    note = {
        "files": [str(file) for file in files],
        "code": None if code is None else {"file": str(code), "sha256": _sha256(code), "drive": own},
    }
    write_json(directory.recipe / _NOTE, note)


def imported_from(folder: Path) -> list[tuple[Path, Path]]:
    """Return the Python files below a folder that are imported now, with their paths relative to it.

    Those are the modules beside a recipe that it uses. An environment that lies in the folder does not count.
    """
    found = []
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "")
        if file.suffix != ".py" or module.__name__ == "__main__" or not file.is_absolute():
            continue
        file = file.resolve()
        if folder not in file.parents:
            continue
        name = file.relative_to(folder)
        if module.__name__ in (".".join(name.with_suffix("").parts), ".".join(name.parent.parts)):
            found.append((file, name))
    return found[:_MOST_FILES]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def recall(directory: RunDir) -> Origin | None:
    """Return where a run's own code came from, or None if it has none. Runs nothing."""
    try:
        note = json.loads((directory.recipe / _NOTE).read_text(encoding="utf-8"))
        code = note["code"]
        if code is None:
            return None
        file = Path(code["file"])
        copy = directory.recipe / file.name
        return Origin(file, str(code["sha256"]), bool(code["drive"]), copy if copy.is_file() else None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{directory.recipe / _NOTE} is damaged: {error!r}; name the code with --drive FILE"
        ) from error


def loop_again(
    directory: RunDir, *, trust: bool, file: str | None, say: Callable[[str], None], verb: str = "resume"
) -> Loop | None:
    """Return the loop that a run goes on with, None for the canonical one; imports the code that was allowed.

    Args:
        trust: the code that the run directory names may run: the original file where it is unchanged, else
            the run's copy of it.
        file: a file that the user named instead.
    Raises:
        ConfigError: the run has a loop of its own and nobody allowed it; its code is gone.
    """
    if file is not None:
        if not Path(file).is_file():
            raise ConfigError(f"--drive {file}: there is no such file")
        return _loop(import_file(Path(file)))
    origin = recall(directory)
    if origin is None or origin.file is None:
        return None
    if not trust:
        if origin.loop:
            raise ConfigError(
                f"this run was trained by a loop of its own, drive in {origin.file}, and code is not run because "
                f"a directory names it\n  to allow it: visloom {verb} {directory.path} --trust\n"
                f"  to use another file: visloom {verb} {directory.path} --drive FILE"
            )
        return None
    chosen = _code(origin, say)
    return _loop(import_file(chosen))


def _code(origin: Origin, say: Callable[[str], None]) -> Path:
    """Return the original file if it is as it was, else the copy."""
    assert origin.file is not None
    if origin.file.is_file() and _sha256(origin.file) == origin.sha256:
        return origin.file
    if origin.copy is None:
        raise ConfigError(f"the recipe {origin.file} has changed or is gone, and the run has no copy of it")
    how = "has changed since" if origin.file.is_file() else "is not there any more"
    say(f"{origin.file} {how}: the copy in {origin.copy.parent} is used")
    return origin.copy


def code_files(directory: RunDir, file: str | None, *, trust: bool, new: bool) -> list[Path]:
    """Return the files to copy into a run directory that goes on with another's code.

    file: what the user named with --drive.  new: it is another directory (a branch), which needs a copy too.
    """
    if file is not None:
        return [Path(file).resolve()]
    origin = recall(directory) if new and trust else None
    return [] if origin is None else [_code(origin, lambda text: None)]
