"""Old files, read without running anything in them.

    read("epoch_20.pth")           a torch file, by torch's weights-only reader with a short list of further names
    read("R-50.pkl")               a plain pickle, by an unpickler that knows the same names and no others
    read("weights.safetensors")    named tensors

A pickle is a program: it may import and call anything. Here a name that stands on the list below becomes a stand-in
of this file, never the class or function that it names; every other name is refused, by name. What comes back holds
tensors, numpy arrays, dicts, lists, texts and numbers only.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from visloom.durable import reason
from visloom.errors import ConfigError
from visloom.init import load_pickle

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_DEPTH = 200  # levels of containers that are followed


class _Bag:
    """Stands for an object whose attributes are all that matters: it becomes a dict of them."""

    def __new__(cls, *args: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # attributes, and those in slots
            self.__dict__.update({**(state[0] or {}), **(state[1] or {})})
        elif isinstance(state, Mapping):
            self.__dict__.update(state)


class _Dtype(_Bag):
    """Stands for numpy.dtype: a code and, once its state is set, a byte order."""

    code = ""
    order = "="

    def __new__(cls, code: Any = "", *args: Any) -> Self:
        made = super().__new__(cls)
        made.code = code if isinstance(code, str) else ""
        return made

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """The dtype: numbers and texts only. Raises ValueError for objects and records."""
        if not self.code or self.code[0] not in "biufcSU?" or not self.code[1:].isdigit():
            raise ValueError(f"arrays of {self.code or 'records'} are not read")
        return np.dtype(self.order.replace("|", "") + self.code)


class _Array(_Bag):
    """Stands for a numpy array that its state fills: (version, shape, dtype, column-major, bytes)."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def array(self) -> NDArray[Any]:
        """The array, in memory of its own and in this machine's byte order. Raises ValueError."""
        if len(self.state) != 5 or not isinstance(self.state[2], _Dtype):
            raise ValueError("it holds an array without contents")
        _, shape, dtype, columns, data = self.state
        kind = dtype.dtype()
        found = np.frombuffer(_bytes(data), kind).reshape(shape, order="F" if columns else "C")
        return found.astype(kind.newbyteorder("="))


def _scalar(dtype: _Dtype, data: Any) -> Any:
    """A numpy number as Python's own."""
    kind = dtype.dtype()
    return np.frombuffer(_bytes(data), kind)[0].item()


def _reconstruct(*args: Any) -> _Array:
    return _Array()


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _encode(text: Any, codec: str = "latin1") -> bytes:
    """How old pickles write bytes. Other codecs than Latin-1 are not needed."""
    return _bytes(text)


class _Ordered:
    """Stands for dicts of other names: an OrderedDict takes the entries."""

    def __new__(cls, *args: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _text(*parts: Any) -> str:
    """Stands for a path."""
    return "/".join(map(str, parts))


def _attribute(owner: Any, name: Any) -> None:
    """Stands for getattr, by which pickles name a class's method: mmengine's histories list theirs.

    Nothing is looked up. Raises ValueError for an owner that is no stand-in.
    """
    if not (isinstance(owner, type) and issubclass(owner, _Bag)):
        raise ValueError(f"it asks for the attribute {name!r} of something else than a listed class")


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_DICTS = (
    "collections.defaultdict", "addict.addict.Dict", "addict.Dict", "yacs.config.CfgNode", "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict",
)  # fmt: skip
_BAGS = (
    "argparse.Namespace", "types.SimpleNamespace", "builtins.object", "datetime.datetime", "datetime.timedelta",
    "builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.range",
    "numpy.ndarray", "mmengine.logging.history_buffer.HistoryBuffer",
    "mmcv.runner.log_buffer.LogBuffer",
)  # fmt: skip
_PATHS = tuple(
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")  # the latter is Python 3.13's
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
)

STAND_INS: dict[str, Callable[..., Any]] = {
    **{f"{module}.scalar": _scalar for module in _NUMPY},
    **{f"{module}._reconstruct": _reconstruct for module in _NUMPY},
    "numpy.dtype": _Dtype,
    "builtins.getattr": _attribute,
    **dict.fromkeys(_DICTS, _Ordered),
    **dict.fromkeys(_BAGS, _Bag),
    **dict.fromkeys(_PATHS, _text),
}
"""Names that an old file may mention besides torch's own, and what stands for them."""

_HELD = {"visloom.array": _Array}  # what a stand-in returns: torch fills only classes that it was told of


@dataclass(frozen=True)
class Old:
    """A file of another program.

    tensors: the named tensors of its weights, names as they stand there.  extra: everything else of it, by name
    ("meta", "optimizer", "epoch", ...), as plain values.  entry: the key that the weights stood under, or "".
    """

    path: Path
    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    entry: str = ""


def read(path: Path) -> Any:
    """Read a file of another program and return what it holds, as plain values. Nothing in it is run.

    Raises ConfigError: no such file, not readable, or it names something that is not on the list (says what).
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from visloom.tensorfile import read as read_tensors

            return read_tensors(path)
        if _is_plain_pickle(path):
            return _plain(_Restricted.load_file(path))
        return _plain(load_pickle(path, [(each, name) for name, each in {**STAND_INS, **_HELD}.items()]))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def read_old(path: Path) -> Old:
    """Read a file and find the weights in it: under "state_dict", "model" and the like, or the file itself.

    Raises ConfigError as `read` does, or if there are no named tensors.
    """
    value = read(path)
    extra: dict[str, Any] = {}
    entry = ""
    while isinstance(value, Mapping) and not _tensors(value):
        inside = [key for key, item in value.items() if isinstance(item, Mapping) and _deep(item)]
        key = next((key for key in ENTRIES if key in inside), inside[0] if len(inside) == 1 else None)
        if key is None:
            break
        extra = {**extra, **{str(name): item for name, item in value.items() if name != key}}
        value, entry = value[key], str(key)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} holds a {type(value).__name__}, not named tensors")
    tensors = _tensors(value)
    if not tensors:
        names = ", ".join(map(str, list(value)[:8])) or "nothing"
        raise ConfigError(f"{path} holds no named tensors; it has {names}")
    beside = {str(name): item for name, item in value.items() if str(name) not in tensors}
    return Old(path, tensors, {**beside, **extra}, entry)


ENTRIES = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "blobs")
"""Keys that weights stand under, the likeliest first."""


def _tensors(value: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The named tensors of a dict; arrays of numpy count as tensors."""
    import torch

    found: dict[str, Tensor] = {}
    for name, item in value.items():
        if isinstance(item, torch.Tensor):
            found[str(name)] = item.detach()
        elif isinstance(item, np.ndarray) and item.dtype.kind in "fiub":
            found[str(name)] = torch.from_numpy(item)
    return found


def _deep(value: Mapping[Any, Any], depth: int = 2) -> bool:
    return bool(_tensors(value)) or (
        depth > 0 and any(isinstance(item, Mapping) and _deep(item, depth - 1) for item in value.values())
    )


# ------------------------------------------------------------------------------------------------- plain pickles


class _Restricted(pickle.Unpickler):
    """An unpickler that knows the names of the list alone, each as a stand-in made for this one file."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path
        # made anew, so that a file which sets attributes on them changes nothing for the next one
        self._known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": partial(_encode),
            **{
                name: type(each.__name__, (each,), {}) if isinstance(each, type) else partial(each)
                for name, each in STAND_INS.items()
            },
        }

    @classmethod
    def load_file(cls, path: Path) -> Any:
        """Read a pickle file. Raises ConfigError."""
        try:
            with path.open("rb") as file:
                return cls(file, path).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no readable pickle: {error}") from error

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name; refuse every other name."""
        full = f"{module}.{name}"
        if full not in self._known:
            raise ConfigError(
                f"{self._path} is refused: it names {full}, and reading that could run a program. "
                "Save its weights alone, or ask its author for a .safetensors file"
            )
        return self._known[full]


def _is_plain_pickle(path: Path) -> bool:
    """Say whether a file is a pickle that torch did not write: no zip, and no magic number of torch's old format."""
    with path.open("rb") as file:
        head = file.read(32)
    return head[:1] == b"\x80" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" not in head


# ------------------------------------------------------------------------------------------------- plain values


def _plain(value: Any, done: dict[int, Any] | None = None, depth: int = _DEPTH) -> Any:
    """Turn stand-ins inside containers into what they stand for; what occurs twice is turned once."""
    done = {} if done is None else done
    if depth == 0:
        raise ValueError(f"it is nested more than {_DEPTH} levels, or inside itself")
    if id(value) not in done:
        done[id(value)] = _plain_one(value, done, depth - 1)
    return done[id(value)]


def _plain_one(value: Any, done: dict[int, Any], depth: int) -> Any:
    if isinstance(value, _Array):
        return value.array()
    if isinstance(value, _Dtype):
        return str(value.dtype())
    if isinstance(value, _Bag):
        return {str(name): _plain(item, done, depth) for name, item in vars(value).items()}
    if isinstance(value, Mapping):
        return {name: _plain(item, done, depth) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, done, depth) for item in value)
    return None if callable(value) else value  # a name that nothing was made from


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, leaf) of plain values, tensors as leaves."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from walk(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value
