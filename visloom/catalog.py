"""Catalog: what there is to train, read from the source of the recipes without importing any of it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from visloom.refs import RECIPES, recipes
from visloom.trust import PACKAGE, definitions


@dataclass(frozen=True)
class Entry:
    """One recipe: its reference (`cifar10:fast`), and the first sentence about it."""

    ref: str
    about: str


def catalog() -> list[Entry]:
    """Return every recipe of Visloom, the variants of a file after its main one."""
    found = []
    for name in recipes():
        functions = [
            node
            for node in definitions(f"{RECIPES}.{name}").values()
            if isinstance(node, ast.FunctionDef) and is_recipe(node)
        ]
        stem = name.rpartition(".")[2]
        main = next((f.name for f in functions if f.name in (stem, "default")), None)
        for node in sorted(functions, key=lambda f: f.name != main):
            ref = name if node.name == main else f"{name}:{node.name}"
            found.append(Entry(ref, _sentence(ast.get_docstring(node) or _module_doc(name))))
    return found


def variants(name: str) -> list[str]:
    """Return the functions of one recipe file that return a Run."""
    nodes = definitions(f"{RECIPES}.{name}").items()
    return [key for key, node in nodes if isinstance(node, ast.FunctionDef) and is_recipe(node)]


def is_recipe(node: ast.FunctionDef) -> bool:
    """Say whether a function is public, takes no arguments that it needs, and returns a Run."""
    takes = node.args.posonlyargs + node.args.args
    needed = len(takes) - len(node.args.defaults) + node.args.kw_defaults.count(None)
    returns = node.returns is not None and ast.unparse(node.returns).strip("'\"") == "Run"
    return returns and not needed and not node.name.startswith("_")


def _module_doc(name: str) -> str:
    file = PACKAGE.joinpath("recipes", *name.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _sentence(text: str) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join(text.strip().split("\n\n")[0].split())
