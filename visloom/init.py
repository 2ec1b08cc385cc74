"""Initial weights from files: what `Run.init` names, put where it says, with a table of what fitted.

    init.model=runs/cifar10-003@best     the whole task, from a run, a step of it, or a checkpoint directory
    init.net=backbone.pth                one sub-module, from a file of any program
    init.net=old.pth#model_ema           one entry of a file that holds several sets of weights

Weights only: neither step nor best value nor optimizer is ever taken, so a fine-tuned run starts at step 0. A
.pth file is a pickle and is read by torch's weights-only reader alone; what that refuses is refused here, in one
line, and there is no other way in. Usual containers ("state_dict", "model") and prefixes ("module.") are
unwrapped, and the table says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom import bundle
from visloom.checkpoint import Checkpoints
from visloom.durable import reason
from visloom.errors import ConfigError
from visloom.rundir import find

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 10  # keys listed per class
_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "state_dict_ema",
    "model_ema",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


@dataclass(frozen=True)
class Weights:
    """Named tensors from a file. notes: what was unwrapped or chosen to get at them, for the table."""

    source: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass
class Part:
    """What became of one entry of `Run.init`.

    covered, total: elements of the target's parameters that were found, and that there are.
    wrong_shape: name, shape in the file, shape in the model.
    """

    target: str
    source: str
    notes: list[str]
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    covered: int = 0
    total: int = 0

    @property
    def coverage(self) -> float:
        """Share of the target's parameters that were found, 0-1."""
        return self.covered / self.total if self.total else 0.0

    def __str__(self) -> str:
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        found = f"{100 * self.coverage:.1f} % of {self.total:,} parameters"
        shapes = [f"{name} (file {_by(there)}, model {_by(here)})" for name, there, here in self.wrong_shape]
        rows = [
            f"init.{self.target} from {self.source}{notes}",
            f"  loaded      {len(self.loaded):>5}  {found}",
            f"  missing     {len(self.missing):>5}  {_some(self.missing)}",
            f"  unexpected  {len(self.unexpected):>5}  {_some(self.unexpected)}",
            f"  wrong shape {len(self.wrong_shape):>5}  {_some(shapes)}",
        ]
        return "\n".join(row.rstrip() for row in rows)


@dataclass(frozen=True)
class Report:
    """What became of `Run.init`: one table per entry. False if there was no entry."""

    parts: tuple[Part, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __str__(self) -> str:
        return "\n".join(map(str, self.parts))


def initialise(
    task: nn.Module, init: Mapping[str, str], *, coverage: float = 0.9, out: Path = Path("runs")
) -> Report:
    """Load weights into a task, as `Run.init` says, and return what fitted.

    The whole ("model") comes first and parts after it, deeper ones last, whatever the order they are written in.
    Nothing is loaded unless every entry passes.

    Args:
        task: the module that "model" means; other targets are its sub-modules, by dotted name.
        init: target -> file, run, RUN@STEP or checkpoint directory, each with `#ENTRY` if it holds several.
        coverage: least share of a target's parameters (by number of elements) that its file must hold.
        out: folder in which runs are looked up by name.
    Raises:
        ConfigError: an unknown target (names the nearest), an unreadable or refused file, too little coverage
            (with the table). `path` is "init.TARGET".
    """
    plans = []
    for target in sorted(init, key=lambda name: (name != "model", name.count("."), name)):
        try:
            module = _target(task, target)
            plans.append((module, *_plan(module, target, read_weights(init[target], out))))
        except ConfigError as error:
            raise ConfigError(f"init.{target}: {error}", path=f"init.{target}") from error
        part = plans[-1][1]
        if not part.loaded or part.coverage < coverage:
            raise ConfigError(_too_little(task, part, plans[-1][3], coverage), path=f"init.{target}")
    for module, _, fitting, _ in plans:
        module.load_state_dict(fitting, strict=False)
    return Report(tuple(plan[1] for plan in plans))


def _target(task: nn.Module, name: str) -> nn.Module:
    if name == "model":
        return task
    modules: dict[str, nn.Module] = dict(task.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, [n for n in modules if n], n=3, cutoff=0.5)
    children = [n for n, _ in task.named_children()]
    there = f"Did you mean {' or '.join(near)}?" if near else f"There are: model, {', '.join(children)}"
    raise ConfigError(f"the task has no sub-module {name!r}. {there}")


# -- matching names ------------------------------------------------------------------------------------------


def _plan(module: nn.Module, target: str, weights: Weights) -> tuple[Part, dict[str, Tensor], Weights]:
    """Compare weights with a module; return the table, what fits, and the weights. Changes nothing."""
    import torch

    wanted = {
        name: value
        for name, value in module.state_dict(keep_vars=True).items()
        if isinstance(value, torch.Tensor)
    }
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    tensors, notes = _strip(weights.tensors, shapes, target)
    part = Part(target, weights.source, [*weights.notes, *notes])
    fitting: dict[str, Tensor] = {}
    for name in wanted:
        if name not in tensors:
            part.missing.append(name)
        elif tuple(tensors[name].shape) != shapes[name]:
            part.wrong_shape.append((name, tuple(tensors[name].shape), shapes[name]))
        else:
            fitting[name] = tensors[name]
            part.loaded.append(name)
    part.unexpected = [name for name in tensors if name not in wanted]
    recast = sorted({str(fitting[n].dtype)[6:] for n in fitting if fitting[n].dtype != wanted[n].dtype})
    if recast:
        part.notes.append(f"converted from {', '.join(recast)}")
    found = {id(wanted[name]) for name in fitting}
    for parameter in module.parameters():
        part.total += parameter.numel()
        part.covered += parameter.numel() if id(parameter) in found else 0
    return part, fitting, weights


def _strip(
    tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], target: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the prefix that makes most of them fit, without it; the shortest such prefix."""
    best, best_score = "", _fits(tensors, shapes, "")
    for prefix in _prefixes(tensors, target):
        score = _fits(tensors, shapes, prefix)
        if score > best_score:
            best, best_score = prefix, score
    if not best:
        return tensors, []
    kept = {name.removeprefix(best): value for name, value in tensors.items() if name.startswith(best)}
    note = f"prefix {best!r} removed from {len(kept)} keys"
    left = len(tensors) - len(kept)
    return kept, [note + (f", {left} keys without it left out" if left else "")]


def _prefixes(tensors: Mapping[str, Tensor], target: str) -> list[str]:
    """Return the prefixes worth trying: known ones, and the target's own name, up to three in a row."""
    known = _PREFIXES if target == "model" else (*_PREFIXES, f"{target}.")
    found, last = [], [""]
    for _ in range(3):
        tried = dict.fromkeys(before + prefix for before in last for prefix in known)
        last = [prefix for prefix in tried if any(name.startswith(prefix) for name in tensors)]
        found += last
    return found


def _fits(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Return a score: two for a name that fits with its shape, one for a name."""
    score = 0
    for name, shape in shapes.items():
        value = tensors.get(prefix + name)
        if value is not None:
            score += 2 if tuple(value.shape) == shape else 1
    return score


def _too_little(task: nn.Module, part: Part, weights: Weights, floor: float) -> str:
    """Say that a file covers too little, with the table, and which sub-module it would fit."""
    fits = []
    for name, module in task.named_modules():
        if name and name != part.target and name.count(".") < 2 and any(True for _ in module.parameters()):
            other, _, _ = _plan(module, name, weights)
            if other.coverage >= max(floor, 0.5) and len(other.loaded) > len(part.loaded):
                fits.append((len(other.loaded), name))
    hint = f"The file fits the sub-module {max(fits)[1]!r}: write init.{max(fits)[1]}=... . " if fits else ""
    return (
        f"init.{part.target}: {part.source} holds {100 * part.coverage:.1f} % of the parameters, "
        f"init_coverage asks for {100 * floor:.1f} %. {hint}\n{part}"
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(names: list[str]) -> str:
    more = f", ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# -- reading files -------------------------------------------------------------------------------------------


def read_weights(ref: str, out: Path = Path("runs")) -> Weights:
    """Read named tensors from a file, a run, or a checkpoint directory. Nothing in it is executed.

    Args:
        ref: FILE, RUN, RUN@STEP or a checkpoint directory, with `#ENTRY` to choose one of several sets.
        out: folder in which runs are looked up by name.
    Raises:
        ConfigError: nothing is there, or it cannot be read, is refused, or holds no tensors.
    """
    if "://" in ref:
        raise ConfigError(f"{ref} is an address; weights are read from files. Download it first")
    path, entry = Path(ref), ""
    if not path.exists() and "#" in ref:
        ref, _, entry = ref.rpartition("#")
        path = Path(ref)
    if path.is_file():
        return _read_file(path, entry)
    if path.is_dir() and (path / "manifest.json").is_file():
        return _read_checkpoint(path, entry, str(path))
    if path.suffix in (".pth", ".pt", ".safetensors", ".bin", ".ckpt"):
        raise ConfigError(f"there is no file {path}{_nearby(path)}")
    run, step = find(ref, out)
    checkpoints = Checkpoints(run.checkpoints)
    chosen = checkpoints.best() if step is None and "@" not in ref else step
    place = checkpoints.pick(chosen)
    if place is None:
        raise ConfigError(f"{run.path} has no checkpoint yet")
    return _read_checkpoint(place, entry, f"{run.name} {place.name}" + (" (best)" if chosen != step else ""))


def _nearby(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", nor a folder {folder}"
    near = difflib.get_close_matches(path.name, [item.name for item in folder.iterdir()], n=3)
    return f". Did you mean {' or '.join(near)}?" if near else ""


def _read_checkpoint(place: Path, entry: str, source: str) -> Weights:
    """Read the weights of a checkpoint: the average that evaluation used, where there is one, else the raw."""
    problem = bundle.verify(place)
    if problem:
        raise ConfigError(f"{place} is damaged: {problem}")
    stems = [
        Path(name).stem for name in bundle.read_manifest(place)["files"] if name.endswith(".safetensors")
    ]
    stem = entry or ("ema" if "ema" in stems else "model")
    if stem not in stems:
        raise ConfigError(f"{place} holds no {stem!r}; it holds {', '.join(stems) or 'no tensors'}")
    notes = ("the average of the weights; #model takes the raw ones",) if stem == "ema" and not entry else ()
    try:
        return Weights(source, bundle.read_tensors(place, stem), notes)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{place} cannot be read: {error}") from error


def _read_file(path: Path, entry: str) -> Weights:
    try:
        if path.suffix == ".safetensors":
            from visloom.tensorfile import read

            return _unwrap(read(path), path, entry)
        return _unwrap(load_pickle(path), path, entry)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def load_pickle(path: Path, allow: Sequence[tuple[Any, str]] = ()) -> Any:
    """Read a torch file with the weights-only reader. Raises ConfigError in one line; never reads it otherwise.

    allow: (stand-in, "module.name") for further names that the file may mention.
    """
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals(list(allow)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)", str(error))
        what = f" ({next(filter(None, names[0]))})" if names else ""
        raise ConfigError(
            f"{path} is refused: it holds more than tensors{what}, and reading that could run a program. "
            "Save its state_dict alone, or ask its author for a .safetensors file"
        ) from error
    except (
        RuntimeError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        UnicodeDecodeError,
    ) as error:
        first = str(error).partition("\n")[0][:200]
        raise ConfigError(f"{path} is no readable torch file: {type(error).__name__}: {first}") from error


def _unwrap(value: Any, path: Path, entry: str) -> Weights:
    """Find the dict of tensors inside usual containers, or the entry that was asked for."""
    import torch

    notes: list[str] = []
    while isinstance(value, Mapping):
        inside = [key for key, item in value.items() if isinstance(item, Mapping) and _holds_tensors(item)]
        if entry:
            if entry not in inside:
                raise ConfigError(
                    f"{path} has no entry {entry!r} with weights; it has {_some(list(map(str, inside)))}"
                )
            key, entry = entry, ""
        else:
            key = next((key for key in _CONTAINERS if key in inside), "")
        if not key:
            break
        others = [str(other) for other in inside if other != key]
        notes.append(f"entry {key!r}" + (f", also there: {_some(others)}" if others else ""))
        value = value[key]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} holds a {type(value).__name__}, not named tensors")
    tensors = {str(name): item for name, item in value.items() if isinstance(item, torch.Tensor)}
    if not tensors:
        raise ConfigError(f"{path} holds no named tensors; its entries are: {_some(list(map(str, value)))}")
    return Weights(str(path), tensors, tuple(notes))


def _holds_tensors(value: Mapping[Any, Any], depth: int = 3) -> bool:
    import torch

    return any(
        isinstance(item, torch.Tensor)
        or (depth > 0 and isinstance(item, Mapping) and _holds_tensors(item, depth - 1))
        for item in value.values()
    )
