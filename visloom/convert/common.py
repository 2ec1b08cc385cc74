"""What every converter has in common: its results, how a file finds its converter, and how results become a run.

Each module of MODULES has these functions and constants, and there is no other registry:

    NAMES = ("mmcls",)                                                    words accepted for FORMAT
    TASKS = ("Classify",)                                                 class names of the tasks that it makes
    def recognises(keys, extra) -> bool                                   by the names of a file's tensors
    def weights(files, *, into=None, at=None, **options) -> ConvertedWeights
    def original(task, tensors) -> dict[str, Tensor]                      back under the old names: the identity
    def config(file, **options) -> ConvertedConfig                        never executes the file; where there are any

    imported = keep(convert(module, files, ...), Path("ckpt"))            a run directory that every verb takes
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visloom.convert.oldfiles import read_old
from visloom.errors import CheckpointError, ConfigError
from visloom.place import did_you_mean, nearest, one_of
from visloom.run import Eval, Run
from visloom.stream import Ordered, Shuffled, Transform
from visloom.task import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

MODULES = ("mmcls", "template", "upp", "centerfusion", "maskrcnn")
"""Converters, by the names of their modules in this package."""

Verdict = Literal["taken", "not needed", "not supported"]


@dataclass(frozen=True)
class Row:
    """What became of one key of an old file.

    note: where it went ("optim.lr") or why it did not.  where: its place in the old file, if that says more.
    """

    key: str
    verdict: Verdict
    note: str = ""
    where: str = ""


@dataclass(frozen=True)
class ConvertedConfig:
    """A run that does what an old config says, what became of each of its keys, and what the user must know."""

    run: Run
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertedWeights:
    """The weights of an old file, and everything that is needed to use them.

    task: what they belong to (classes, normalisation, network): predictions need nothing else.
    tensors: by the names of the task module's state dict, every one of them.
    rows: every key of the old file, accounted for.
    notes: what the user must know (colour order, ...).
    step: updates done.
    moments: optimizer state by parameter name: {"net.fc.bias": {"momentum_buffer": tensor}}; None where it is not
        known to be exact.
    history: rows of log.jsonl (`visloom/logfiles.py`) that tell of the training so far.
    run: the whole run as far as it is known (its data, transforms, optimizer), with `task` as its task; None makes
        one without data.
    """

    task: TaskSpec
    tensors: dict[str, Tensor]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    step: int = 0
    moments: dict[str, dict[str, Any]] | None = None
    history: list[dict[str, Any]] | None = None
    run: Run | None = None


# ------------------------------------------------------------------------------------------- finding a converter


def converters() -> list[Any]:
    """Every converter module, imported."""
    return [import_module(f"visloom.convert.{name}") for name in MODULES]


def converter(name: str) -> Any:
    """The converter that a FORMAT names. Raises ConfigError with the formats there are."""
    known = {word: module for module in converters() for word in module.NAMES}
    if name not in known:
        near = did_you_mean(nearest(name, known))
        raise ConfigError(f"there is no format {name!r}; there is {one_of(known, 'and')}\n  {near}".rstrip())
    return known[name]


def converter_of(task: TaskSpec) -> Any:
    """The converter that knows the old names of a task's tensors. Raises ConfigError if none does."""
    name = type(task).__name__
    module = next((module for module in converters() if name in module.TASKS), None)
    if module is None:
        raise ConfigError(f"no original system is known for the task {name}")
    return module


def only_file(files: Sequence[Path]) -> Path:
    """The one file of a system that keeps its weights in one. Raises ConfigError for several."""
    if len(files) != 1:
        raise ConfigError(f"one file at a time, got {len(files)}: {', '.join(map(str, files))}")
    return files[0]


def named_classes(file: str) -> tuple[str, ...]:
    """The class names of `--option classes=FILE`, one per line; () without a file. Raises ConfigError."""
    if not file:
        return ()
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--option classes={file} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def recognise(path: Path) -> Any:
    """The converter whose system a file is from, by the names of its tensors. Raises ConfigError if none is."""
    old = read_old(path)
    for module in converters():
        if module.recognises(old.tensors.keys(), old.extra):
            return module
    names = ", ".join(list(old.tensors)[:4])
    raise ConfigError(
        f"{path} is of no system that is known here: its tensors are {names}, ...\n"
        "  to start training from it: init.net=FILE; if you know its system: visloom import-checkpoint FORMAT FILE"
    )


def convert(
    module: Any,
    files: Sequence[Path],
    *,
    into: Run | None = None,
    at: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ConvertedWeights:
    """Convert files, and check that the result is whole.

    Raises:
        ConfigError: an option that the converter does not take; a file that it cannot use.
        CheckpointError: tensors that do not fit the task.
    """
    given = _taken(module, module.weights, options, but=("into", "at"))
    converted: ConvertedWeights = module.weights(files, into=into, at=at, **given)
    return converted


def convert_config(module: Any, file: Path, *, options: Mapping[str, Any] | None = None) -> ConvertedConfig:
    """Convert a config file.

    Raises ConfigError: the system has none, an option that the converter does not take, a config that cannot be.
    """
    if not hasattr(module, "config"):
        raise ConfigError(f"{module.NAMES[0]} has no config files that could be imported")
    converted: ConvertedConfig = module.config(file, **_taken(module, module.config, options))
    return converted


def _taken(
    module: Any, function: Any, options: Mapping[str, Any] | None, but: Collection[str] = ()
) -> dict[str, Any]:
    """The options that a converter's function is given. Raises ConfigError for one that it does not take."""
    given = dict(options or {})
    known = [
        name
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in but
    ]
    for name in given:
        if name not in known:
            has = f"it has {one_of(known, 'and')}" if known else "it has none"
            raise ConfigError(f"{module.NAMES[0]} has no option {name!r}; {has}")
    return given


def build(converted: ConvertedWeights) -> Any:
    """The task module with its weights, on the CPU. Raises CheckpointError unless all tensors are there and fit."""
    import torch

    from visloom.engine import load_weights
    from visloom.saved import bare

    spec = bare(converted.task)
    with torch.random.fork_rng(devices=[]):
        task = spec.build()
    try:
        load_weights(task, converted.tensors, {})
    except CheckpointError as error:
        raise CheckpointError(f"the file is not whole, or of another network: {error}") from error
    return task


def uncovered(rows: Iterable[Row]) -> list[Row]:
    """The rows that keep an import from being whole."""
    return [row for row in rows if row.verdict == "not supported"]


def require_whole(converted: ConvertedWeights, lists: str) -> None:
    """Raise ConfigError if a key of the old file is not supported; `lists` is the command that lists them."""
    missing = uncovered(converted.rows)
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(converted.rows)} keys are not supported, for one {missing[0].key}: "
            f"{missing[0].note}\n  {lists} lists them"
        )


def counts(rows: Iterable[Row]) -> str:
    """`267 taken, 53 not needed`"""
    found = Counter(row.verdict for row in rows)
    order: tuple[Verdict, ...] = ("taken", "not needed", "not supported")
    return ", ".join(f"{found[verdict]:,} {verdict}" for verdict in order if found[verdict]) or "no keys"


# ------------------------------------------------------------------------------------------------- becoming a run


def without_data(
    task: TaskSpec, *, name: str = "imported", transform: tuple[Transform, ...] = (), batch: int = 32
) -> Run:
    """A run that can predict: its task, and the transforms that pictures go through. It knows no data set."""
    from visloom.data.absent import Absent

    return Run(
        name=name,
        task=task,
        train=Shuffled(source=Absent(), batch=batch, transform=transform),
        evals={"val": Eval(stream=Ordered(source=Absent(), batch=batch, transform=transform))},
    )


def run_of(converted: ConvertedWeights, *, name: str = "imported") -> Run:
    """The run that converted weights belong to."""
    run = converted.run if converted.run is not None else without_data(converted.task, name=name)
    return replace(run, task=converted.task)


def keep(converted: ConvertedWeights, out: Path, *, argv: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """Write converted weights as a run directory with one checkpoint, whole or not at all.

    The run's own weights are its `init`, so that `visloom train OUT` starts from them.

    Returns:
        The checkpoint, and what could not be kept (moments that fit no optimizer, say).
    Raises:
        ConfigError: `out` exists or cannot be written.
        CheckpointError: the tensors do not fit the task.
    """
    from visloom.checkpoint import Checkpoints
    from visloom.config import dump
    from visloom.durable import reason, refuse_existing, remove_tree, write_json
    from visloom.logfiles import encode
    from visloom.provenance import collect
    from visloom.rundir import RunDir

    out = out.absolute()
    if not out.is_dir() or any(out.iterdir()):  # an empty folder is as good as none
        refuse_existing(out)
    run = run_of(converted, name=_run_name(out))
    state, notes = _state(converted, run)
    run = replace(run, init={"model": str(out)}, init_coverage=1.0)
    directory = RunDir(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        log = "".join(encode(row) + "\n" for row in converted.history or ())
        directory.log_jsonl.write_text(log, encoding="utf-8")
        state.data["log_offset"] = len(log.encode())
        Checkpoints(directory.checkpoints, background=False).save(state)
        write_json(directory.provenance, collect(run, list(argv)))
        write_json(directory.run_json, dump(run))  # last: what has none is no run
    except OSError as error:
        remove_tree(out)
        raise ConfigError(f"{out} cannot be written: {reason(error)}; choose another --out") from error
    except BaseException:
        remove_tree(out)
        raise
    return Checkpoints(directory.checkpoints).path(converted.step), notes


def _run_name(out: Path) -> str:
    from visloom.rundir import safe_name

    return safe_name(out.name)


def _state(converted: ConvertedWeights, run: Run) -> tuple[Any, list[str]]:
    """The state of the run after the old file's last step, and what is missing of it."""
    from dataclasses import asdict

    from visloom.checkpoint import State
    from visloom.engine import split_state
    from visloom.launch import Ledger
    from visloom.optim import build_optimizer
    from visloom.rules import resolve_rules, resolved_to_json

    task = build(converted)
    model, extra = split_state(task)
    optimizer = build_optimizer(task, run.optim, run.rules)
    notes = _fill(optimizer, task, converted.moments)
    tensors, plain = optimizer.state_by_name(task)
    data: dict[str, Any] = {
        "optim": plain,
        "extra": extra,
        "skipped": [],
        "ledger": asdict(Ledger()),
        "meter": {},
        "rules": resolved_to_json(resolve_rules(task, run.optim, run.rules)),
        "total": -1,  # an old file does not tell; so no evaluation counts as done
        "log_offset": 0,
    }
    return State(converted.step, {"model": model, "optim": tensors, "meter": {}}, data), notes


def _fill(optimizer: Any, task: Any, moments: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """Put moments into an optimizer, by parameter name; returns what did not fit, in words."""
    if moments is None:
        return []
    places = {
        name: (part, p)
        for name, p in task.named_parameters()
        for part in optimizer.parts
        for group in part.param_groups
        if any(p is each for each in group["params"])
    }
    lost = sorted(moments.keys() - places.keys())
    if lost:
        return [f"the optimizer's moments were left behind: there is no parameter {lost[0]}"]
    for name, values in moments.items():
        part, p = places[name]
        part.state[p].update(values)
    optimizer.prepare()
    return []
