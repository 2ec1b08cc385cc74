"""Trust: which imports a settings file, a run.json or the command line may ask for.

A kind (`visloom.schedule:Cosine`) and the target of a Call (`timm:create_model`) are import paths, and
importing or calling what a stranger's file names would run the stranger's code. So kinds come from visloom,
calls from a table of libraries that build networks, transforms and optimizers, and both from the folder of a
Python recipe that the user named. Nothing is imported to find that out. Python itself may say what it likes.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent

# module -> names that may be called with keywords from a file. Not merely "everything in torch": torch:load
# and torch.hub:load run code, and even harmless modules hold names that they imported themselves.
_CLASS = r"[A-Z]\w*"
_ANY = r"[A-Za-z]\w*"
CALLS = {
    "timm": "create_model",
    "segmentation_models_pytorch": f"create_model|{_CLASS}",
    "segmentation_models_pytorch.losses": _CLASS,
    "torch.nn": _CLASS,
    "torch.optim": _CLASS,
    "torchvision.models": _ANY,
    "torchvision.models.detection": _ANY,
    "torchvision.models.segmentation": _ANY,
    "torchvision.ops": _CLASS,
    "torchvision.transforms.v2": _CLASS,
}
NETS = "visloom.nets."  # any function or class that one of its modules defines


@dataclass(frozen=True)
class Trust:
    """What may be imported on behalf of a setting.

    everything: any module; only for Python callers and for who says so.
    folders: folders of recipes that the user named; modules and packages that lie in them may be imported.
    packages: top-level packages of recipes that the user named.
    """

    everything: bool = False
    folders: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def kind(self, module: str) -> bool:
        """Say whether a class of this module may be used as a kind."""
        if self.everything:
            return True
        return _public(module) and (module.split(".")[0] == "visloom" or self._own(module))

    def call(self, target: str) -> bool:
        """Say whether `module:name` may be called."""
        if self.everything:
            return True
        module, _, name = target.partition(":")
        if not _public(module):
            return False
        if module in CALLS:
            return re.fullmatch(CALLS[module], name) is not None
        if module.startswith(NETS):
            return not name.startswith("_") and name in defined(module)
        return self._own(module)

    def _own(self, module: str) -> bool:
        top = module.split(".")[0]
        if top in self.packages:
            return True
        return bool(self.folders) and any(_lies_in(top, folder) for folder in self.folders)


def _public(module: str) -> bool:
    return all(re.fullmatch(r"[A-Za-z]\w*", part) for part in module.split("."))


def _lies_in(top: str, folder: str) -> bool:
    """Say whether a top-level module is found in a folder (which is on sys.path), without importing it."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    file = [spec.origin or ""] if spec.has_location else []  # a frozen module has an origin that is no file
    places = list(spec.submodule_search_locations or file)
    # directly in it: deeper down there may be an environment with all its packages
    return bool(places) and all(Path(place).resolve().parent == Path(folder) for place in places)


@lru_cache(maxsize=256)
def definitions(module: str) -> dict[str, ast.stmt]:
    """Return the functions and classes that a module of visloom defines, by name, read from its source."""
    file = PACKAGE.joinpath(*module.split(".")[1:])
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    if not file.is_file():
        return {}
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def defined(module: str) -> frozenset[str]:
    """Return the names of the functions and classes that a module of visloom defines."""
    return frozenset(definitions(module))


@lru_cache(maxsize=16)
def modules(package: str) -> tuple[str, ...]:
    """Return the public modules of a package of visloom, itself among them, without importing one."""
    folder = PACKAGE.joinpath(*package.split(".")[1:])
    if not folder.is_dir():
        return (package,)
    found = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if all(_public(part) for part in parts):
            found.append(".".join((package, *parts)))
    return tuple(found)
