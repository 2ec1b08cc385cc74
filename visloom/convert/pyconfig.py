"""Old configs, read without executing them: Python files of assignments, with `_base_`, `_delete_` and `{{ names }}`.

    tree = read(Path("configs/resnet50.py"))
    tree.values["optimizer"]["lr"], tree.places["optimizer.lr"]      0.1, "cifar10.py:2"

A Python config is parsed, and only what yields plain data is evaluated: numbers, texts, lists, tuples, dicts,
`dict(...)`, `list`, `tuple`, `range`, names assigned before, arithmetic, indexing, conditions, f-strings. A call of
anything else, a loop, a function or a module is an error that names file and line. JSON and YAML configs are read, too.

Rules of merging are mmcv's: what a file says goes over the union of its bases, dicts key by key, everything else
(lists, too) as a whole; `_delete_=True` inside a dict drops what the bases say there. Two bases may not say one key.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from visloom.durable import reason
from visloom.errors import ConfigError

BASE, DELETE = "_base_", "_delete_"
RESERVED = ("filename", "text", "pretty_text")  # names that mmcv's Config has of its own
_MOST = 100_000  # letters of a text, or items of all lists inside each other, that an expression makes
_ALL = 1_000_000  # items that all uses of names in a file copy
_BITS = 4096  # of an integer that an expression makes
_DEEP = 500  # letters of a line that may hold more levels than are followed


@dataclass
class Tree:
    """A config as plain data.

    values: by key.  places: "file:line" by dotted key, as far as it is known.
    variables: names of top-level keys that other assignments of their file use.
    """

    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)

    def where(self, key: str) -> str:
        """`file:line` of a dotted key, or of the nearest thing around it."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, "")


def read(path: Path) -> Tree:
    """Read a config file and the files that it is based on. Raises ConfigError with file and line."""
    tree = _read(path.absolute(), ())
    tree.values = _without_marks(tree.values)
    return tree


def parse(text: str, name: str = "the config") -> Tree:
    """Read the text of a Python config that stands alone (in a checkpoint, say)."""
    tree = _Python(text, name, {}).tree()
    if BASE in tree.values:
        raise ConfigError(f"{name} is based on other files, which are not here")
    tree.values = _without_marks(tree.values)
    return tree


def _read(path: Path, above: tuple[Path, ...]) -> Tree:
    if path in above:
        raise ConfigError(f"{path} is based on itself: {' -> '.join(p.name for p in (*above, path))}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        by = f" (a base of {above[-1]})" if above else ""
        told = reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}{by} cannot be read: {told}") from error
    text = _substituted(text, path)
    bases = Tree({})
    for name in _bases(_bases_of(text, path), path):
        other = _read((path.parent / name).resolve(), (*above, path))
        twice = sorted(bases.values.keys() & other.values.keys())
        if twice:
            raise ConfigError(
                f"{path}: two of its bases say {twice[0]!r}: {bases.where(twice[0])} and {other.where(twice[0])}"
            )
        bases = Tree(
            {**bases.values, **other.values},
            {**bases.places, **other.places},
            bases.variables | other.variables,
        )
    own = _parsed(text, path, bases.values)
    own.values.pop(BASE, None)
    merged = _merged(own.values, bases.values, "", own)
    return Tree(merged, {**bases.places, **own.places}, bases.variables | own.variables)


def _substituted(text: str, path: Path) -> str:
    """Put the file's own names in: {{ fileDirname }} and the like."""
    names = {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    for name, value in names.items():
        text = re.sub(r"\{\{\s*" + name + r"\s*\}\}", lambda _, v=value: v.replace("\\", "/"), text)  # type: ignore[misc]
    return text


def _parsed(text: str, path: Path, base: Mapping[str, Any]) -> Tree:
    if path.suffix == ".py":
        return _Python(text, path.name, base).tree()
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if path.suffix not in (".json", ".yaml", ".yml") or not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a .py, .json or .yaml file with named values")
    if _items(values) > _ALL:
        raise ConfigError(f"{path}: its aliases make something very large")
    return Tree(values, {str(key): path.name for key in values})


def _bases_of(text: str, path: Path) -> Any:
    """What the file says of its bases, before anything else of it is evaluated."""
    if path.suffix != ".py":
        return _parsed(text, path, {}).values.get(BASE, [])
    for node in _module(_base_calls(text), path.name).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == BASE for t in node.targets
        ):
            return _Python("", path.name, {}).value(node.value)
    return []


def _bases(value: Any, path: Path) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: {BASE} is a file or a list of files, got {value!r}")
    return list(names)


def _merged(own: Mapping[str, Any], base: Mapping[str, Any], path: str, tree: Tree) -> dict[str, Any]:
    """mmcv's rule: `own` over `base`."""
    found = dict(base)
    for key, value in own.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and key in base and not value.get(DELETE, False):
            if not isinstance(base[key], dict):
                raise ConfigError(
                    f"{tree.where(place)}: {place} is a dict here and {type(base[key]).__name__} in a base; "
                    f"write {DELETE}=True into it to replace that"
                )
            found[key] = _merged(value, base[key], place, tree)
        else:
            found[key] = value
    return found


def _without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_marks(item) for key, item in value.items() if key != DELETE}
    if isinstance(value, list | tuple):
        return type(value)(_without_marks(item) for item in value)
    return value


# ------------------------------------------------------------------------------------------------ Python as data

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_CALLED: dict[str, Callable[..., Any]] = {
    "list": list, "tuple": tuple, "int": int, "float": float, "str": str, "len": len, "min": min, "max": max,
    "sum": sum, "round": round, "abs": abs,
}  # fmt: skip
_PLAIN = (int, float, bool, str, type(None))


def _module(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{name}:{line}: this is no Python: {error.args[0]}") from error
    except (RecursionError, MemoryError) as error:
        line = next((i for i, words in enumerate(text.splitlines(), 1) if len(words) > _DEEP), 1)
        raise ConfigError(f"{name}:{line}: this is nested too deeply") from error


def _base_calls(text: str) -> str:
    """Write `{{ _base_.a.b }}`, which stands for a value of a base, as an expression."""
    return re.sub(r"""(['"]?)\{\{\s*_base_\.([\w.]+)\s*\}\}\1""", r"_base_value_('\2')", text)


class _Python:
    """Evaluates the assignments of one file."""

    def __init__(self, text: str, name: str, base: Mapping[str, Any]) -> None:
        self._text, self._name, self._base = text, name, base
        self._names: dict[str, Any] = {}
        self._used: set[str] = set()
        self._copied = 0  # items, by uses of names

    def tree(self) -> Tree:
        """The names that the file assigns."""
        tree = Tree({})
        for node in _module(_base_calls(self._text), self._name).body:
            for name, expression in self._assignments(node):
                value = self.value(expression)
                self._names[name] = value
                if not name.startswith("__"):
                    tree.values[name] = value
                    tree.places.update(self._lines(name, expression))
        for name in RESERVED:
            if name in tree.values:
                raise ConfigError(f"{tree.where(name)}: {name} is reserved and cannot be a key")
        tree.variables = self._used & tree.values.keys()
        return tree

    def _assignments(self, node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a text that stands alone: a comment
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
            return
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
            yield node.target.id, ast.copy_location(ast.BinOp(left, node.op, node.value), node)
            return
        if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            for target in node.targets:
                assert isinstance(target, ast.Name)
                yield target.id, node.value
            return
        raise self._error(node, "a config is read, not executed, and this is no assignment of plain data")

    def _error(self, node: ast.AST, text: str) -> ConfigError:
        line = getattr(node, "lineno", 0)
        try:
            shown = ast.unparse(node).splitlines()[0]
        except RecursionError:
            text, shown = "this is nested too deeply", "..."
        return ConfigError(f"{self._name}:{line}: {text}: {shown[:80]}")

    def _lines(self, path: str, node: ast.expr) -> Iterator[tuple[str, str]]:
        """Where each key inside an expression stands."""
        yield path, f"{self._name}:{node.lineno}"
        for key, inner in _children(node):
            yield from self._lines(f"{path}.{key}", inner)

    # ---- expressions

    def value(self, node: ast.expr) -> Any:
        """Evaluate an expression to plain data. Raises ConfigError with the line."""
        try:
            found = self._value(node)
        except ConfigError:
            raise
        except Exception as error:  # arithmetic of the file's own: division by zero, a missing key, ...
            raise self._error(node, f"{type(error).__name__}: {error}") from error
        large = (len(found) if isinstance(found, str) else _items(found)) > _MOST
        if large or (isinstance(found, int) and found.bit_length() > _BITS):
            raise self._error(node, "this makes something very large")
        return found

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value) if isinstance(value, _PLAIN):
                return value
            case ast.Name(name):
                return self._name_of(node, name)
            case ast.List(items):
                return list(self._items(items))
            case ast.Tuple(items):
                return tuple(self._items(items))
            case ast.Set(items):
                return list(self._items(items))
            case ast.Dict(keys, values):
                return self._dict(keys, values)
            case ast.Call():
                return self._call(node)
            case ast.BinOp(left, op, right) if type(op) in _BINARY:
                return self._binary(op, self.value(left), self.value(right))
            case ast.UnaryOp(op, operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self.value(operand))
            case ast.BoolOp(op, values):
                return self._boolean(op, values)
            case ast.Compare(left, ops, rights) if all(type(op) in _COMPARED for op in ops):
                parts = [self.value(left), *map(self.value, rights)]
                return all(_COMPARED[type(op)](a, b) for op, a, b in zip(ops, parts, parts[1:]))
            case ast.IfExp(test, yes, no):
                return self.value(yes if self.value(test) else no)
            case ast.Subscript(value, index):
                return self.value(value)[self._index(index)]
            case ast.JoinedStr(parts):
                return "".join(map(self._text_of, parts))
        raise self._error(node, "a config is read, not executed, and this is no plain data")

    def _name_of(self, node: ast.expr, name: str) -> Any:
        if name not in self._names:
            raise self._error(node, "this name is not assigned before")
        self._used.add(name)
        self._copied += _items(self._names[name])
        if self._copied > _ALL:
            raise self._error(node, "this makes something very large")
        return _copied(self._names[name])

    def _items(self, nodes: list[ast.expr]) -> Iterator[Any]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self.value(node.value)
            else:
                yield self.value(node)

    def _dict(self, keys: list[ast.expr | None], values: list[ast.expr]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if key is None:
                found.update(self.value(value))
            else:
                found[self.value(key)] = self.value(value)
        return found

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        arguments = list(self._items(node.args))
        if name == "_base_value_":
            return self._of_base(node, str(arguments[0]))
        if name == "dict":
            found = dict(*arguments)
            for keyword in node.keywords:
                value = self.value(keyword.value)
                found.update(value if keyword.arg is None else {keyword.arg: value})
            return found
        if not node.keywords and name == "range" and len(range(*arguments)) <= _MOST:
            return list(range(*arguments))
        if not node.keywords and name in _CALLED:
            return _CALLED[name](*arguments)
        raise self._error(
            node, "a config is read, not executed, and nothing is called but dict, list and range"
        )

    def _of_base(self, node: ast.expr, path: str) -> Any:
        value: Any = self._base
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise self._error(node, f"no base has {path}")
            value = value[part]
        return _copied(value)

    def _binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        whole = isinstance(left, int) and isinstance(right, int)
        if isinstance(op, ast.Pow) and whole and abs(right) * max(1, left.bit_length()) > _BITS:
            raise ValueError("a very large number")
        if isinstance(op, ast.Mult) and not (
            isinstance(left, int | float) and isinstance(right, int | float)
        ):
            many, items = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(many, int) and many * len(items) > _MOST:
                raise ValueError("a very long list or text")
        if isinstance(op, ast.Mod) and isinstance(left, str) and re.search(r"\d{4,}|\*", left):
            raise ValueError("a very long text")
        return _BINARY[type(op)](left, right)

    def _boolean(self, op: ast.boolop, nodes: list[ast.expr]) -> Any:
        value: Any = None
        for node in nodes:
            value = self.value(node)
            if bool(value) == isinstance(op, ast.Or):
                return value
        return value

    def _index(self, node: ast.expr) -> Any:
        if not isinstance(node, ast.Slice):
            return self.value(node)
        return slice(
            *(None if part is None else self.value(part) for part in (node.lower, node.upper, node.step))
        )

    def _text_of(self, node: ast.expr) -> str:
        if isinstance(node, ast.FormattedValue) and node.format_spec is None and node.conversion == -1:
            return str(self.value(node.value))
        if isinstance(node, ast.Constant):
            return str(node.value)
        raise self._error(node, "formats in a text are not read")


def _children(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The keys of a dict, and the places of dicts in a list."""
    if isinstance(node, ast.Call):
        yield from ((word.arg, word.value) for word in node.keywords if word.arg is not None)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield str(key.value), value
    elif isinstance(node, ast.List | ast.Tuple):
        yield from ((str(i), item) for i, item in enumerate(node.elts))


def _items(value: Any, known: dict[int, int] | None = None) -> int:
    """How many values a value holds, lists inside lists counted as often as they stand there.

    Raises ConfigError for one that holds itself, as an alias of YAML may.
    """
    if not isinstance(value, Mapping | list | tuple):
        return 1
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = -1
        inner = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_items(item, known) for item in inner)
    if known[id(value)] < 0:
        raise ConfigError("a value stands inside itself")
    return known[id(value)]


def _copied(value: Any) -> Any:
    """A copy down to the plain values, so that merging into one use of a name does not change another."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
