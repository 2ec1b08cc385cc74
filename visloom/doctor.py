"""Doctor: what this machine and this installation can do, and whether a recipe can train here.

Each finding is good, a note (works, but worth knowing) or bad (training fails, or the recipe's does).
`examine()` looks at the machine, `examine_recipe(run)` takes one training step of a recipe.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from visloom.durable import free_bytes, size_text
from visloom.errors import VisloomError
from visloom.run import Run
from visloom.words import duration

Mark = Literal["good", "note", "bad"]

_REQUIRED = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "safetensors",
    "PyYAML",
)
_SHM = 1 << 30  # bytes of /dev/shm below which workers of large batches may die
_FILES = 1024  # open files below which many workers may fail
_DISK = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One line: how good it is, what was looked at, what was found and what to do about it."""

    mark: Mark
    name: str
    text: str


@dataclass
class Patient:
    """What a look at a recipe found: findings, and the table of its parameter rules."""

    findings: list[Finding] = field(default_factory=list)
    rules: list[tuple[str, ...]] = field(default_factory=list)


def examine(out: str = "runs") -> Iterator[Finding]:
    """Look at the installation and the machine, one finding at a time. `out`: where runs go."""
    yield from _versions()
    yield from _torch_pair()
    yield from _devices()
    yield from _memory_and_disk(Path(out))
    yield from _processes()


# ------------------------------------------------------------------------------------------------ the machine


def _versions() -> Iterator[Finding]:
    from visloom import __version__

    found = [f"visloom {__version__}", f"python {platform.python_version()}"]
    missing = []
    for name in _REQUIRED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("good", "versions", ", ".join(found))
    if "opencv-python-headless" in missing and _importable("cv2"):
        missing.remove("opencv-python-headless")
    if missing:
        yield Finding(
            "bad", "libraries", f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}"
        )


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _torch_pair() -> Iterator[Finding]:
    """Look whether torch and torchvision were built for each other."""
    try:
        import torch
    except Exception as error:
        yield Finding("bad", "torch", f"cannot be imported: {_first(error)}")
        return
    try:
        import torchvision
        from torchvision.extension import _has_ops  # type: ignore[attr-defined]

        theirs = _dotted(getattr(torchvision.version, "cuda", None))
        works = bool(_has_ops())
    except Exception as error:
        yield Finding("bad", "torchvision", pair_problem(torch.version.cuda, "unknown", _first(error)))
        return
    if not works or theirs != torch.version.cuda:
        problem = pair_problem(torch.version.cuda, theirs, "" if works else "its operators are not there")
        yield Finding("note" if works else "bad", "torchvision", problem)
    else:
        built = f"for CUDA {theirs}" if theirs else "for the CPU"
        yield Finding("good", "torchvision", f"fits torch: both are built {built}")


def _dotted(cuda: object) -> str | None:
    """torchvision names CUDA 13.2 by the number 13020."""
    return (
        f"{cuda // 1000}.{cuda % 1000 // 10}"
        if isinstance(cuda, int)
        else None
        if cuda is None
        else str(cuda)
    )


def pair_problem(torch_cuda: str | None, vision_cuda: str | None, said: str) -> str:
    """Say in words that torch and torchvision do not belong together. None means built for the CPU."""

    def built(cuda: str | None) -> str:
        return "for the CPU" if cuda is None else "for CUDA" if cuda == "unknown" else f"for CUDA {cuda}"

    ours = f"torch is built {built(torch_cuda)}"
    theirs = f"torchvision {built(vision_cuda)}" if vision_cuda != "unknown" else "torchvision fails to load"
    reason = f" ({said})" if said else ""
    index = "cpu" if torch_cuda is None else f"cu{torch_cuda.replace('.', '')}"
    return (
        f"{ours}, {theirs}{reason}: they must come from the same place. Install both in one command, from the "
        f"package index of PyTorch that is named {index}"
    )


def _devices() -> Iterator[Finding]:
    import torch

    from visloom.device import resolve_precision

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    capability = torch.backends.cpu.get_cpu_capability()
    threads = f"{usable} of {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {capability}"
    omp = os.environ.get("OMP_NUM_THREADS")
    yield Finding("good", "cpu", threads + (f", OMP_NUM_THREADS={omp}" if omp else ""))
    kinds = [torch.device("cpu")]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            text = f"{about.name}, {size_text(free)} of {size_text(total)} free"
            yield Finding("good", f"cuda:{number}", text)
        kinds.append(torch.device("cuda"))
    elif torch.version.cuda:
        yield Finding(
            "note", "cuda", "torch is built for CUDA but finds no GPU (no driver, or none is visible)"
        )
    else:
        yield Finding("note", "cuda", "none: torch is built for the CPU")
    if torch.backends.mps.is_available():
        yield Finding("good", "mps", "Apple GPU")
        kinds.append(torch.device("mps"))
    chosen = [f"{k.type} {str(resolve_precision('auto', k)).removeprefix('torch.')}" for k in kinds]
    yield Finding("good", "precision", f"how.precision=auto means {', '.join(chosen)}")


def _memory_and_disk(out: Path) -> Iterator[Finding]:
    if Path("/dev/shm").is_dir() and hasattr(os, "statvfs"):
        room = os.statvfs("/dev/shm")
        size = room.f_frsize * room.f_blocks
        advice = (
            "" if size >= _SHM else "; data workers pass batches through it: enlarge it, or host.workers=0"
        )
        yield Finding("good" if size >= _SHM else "note", "/dev/shm", size_text(size) + advice)
    free = free_bytes(out)
    where = out.absolute()
    advice = "" if free >= _DISK else "; checkpoints may not fit"
    yield Finding("good" if free >= _DISK else "note", "disk", f"{size_text(free)} free at {where}{advice}")
    place = where
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding("bad", "runs", f"{place} cannot be written: choose another folder with --out DIR")
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= soft < _FILES
    advice = "; many data workers need more: ulimit -n 4096" if few else ""
    yield Finding("note" if few else "good", "open files", f"{'unlimited' if soft < 0 else soft}{advice}")


def _processes() -> Iterator[Finding]:
    import multiprocessing

    import torch

    from visloom.loader import start_method
    from visloom.run import Host

    ways = multiprocessing.get_all_start_methods()
    text = f"data workers by {', '.join(ways)}; host.start=auto means {start_method(Host())}"
    yield Finding("good", "workers", text)
    yield from _several(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def _several(gpus: int) -> Iterator[Finding]:
    """Try what `--nproc` stands on: gloo always, NCCL as far as there are GPUs."""
    import torch

    from visloom.loader import start_method
    from visloom.run import Host
    from visloom.several import added_up

    group = torch.distributed
    if not group.is_available():
        yield Finding("note", "processes", "this torch has no torch.distributed: --nproc cannot be used")
        return
    if group.is_gloo_available():
        began = perf_counter()
        problem = added_up("gloo", 2, start_method(Host()))
        took = duration(perf_counter() - began)
        tried = "two processes on the CPU added up a number by gloo"
        failed = f"two processes could not talk by gloo: {problem}; --nproc fails here. The host name must have an "
        failed += "address, or GLOO_SOCKET_IFNAME name an interface (lo for one machine)"
        yield Finding("note" if problem else "good", "processes", failed if problem else f"{tried} in {took}")
    else:
        yield Finding("note", "processes", "this torch has no gloo: --nproc cannot be used")
    version = torch.cuda.nccl.version() if group.is_nccl_available() else None  # type: ignore[no-untyped-call]
    yield _nccl(gpus, version)


def _nccl(gpus: int, version: tuple[int, ...] | None) -> Finding:
    """Try NCCL on the GPUs that there are, or say that nothing of it can be tried."""
    from visloom.several import added_up

    if not gpus:
        text = "not tried: there is no GPU. --nproc trains on the CPU by gloo; how several GPUs exchange "
        return Finding("note", "nccl", text + "gradients cannot be tested on this machine")
    if version is None:
        return Finding("note", "nccl", "not in this torch: several GPUs cannot be used")
    named, problem = ".".join(map(str, version)), added_up("nccl", gpus, "spawn")
    if problem:
        return Finding(
            "note", "nccl", f"{named} does not work on {gpus} GPU(s): {problem}; train with --gpus 0"
        )
    if gpus == 1:
        text = f"{named} works in one process on one GPU; an exchange between GPUs cannot be tested with one"
        return Finding("note", "nccl", text)
    return Finding("good", "nccl", f"{named}: {gpus} processes added up a number, one GPU each")


# ------------------------------------------------------------------------------------------------- the recipe


def examine_recipe(run: Run) -> Patient:
    """Take one training step of a recipe, look at it, and keep nothing. The first bad finding ends it."""
    patient = Patient()
    try:
        _recipe(run, patient)
    except VisloomError as error:
        patient.findings.append(Finding("bad", "recipe", str(error)))
    except Exception as error:  # a recipe's own classes may raise anything
        patient.findings.append(Finding("bad", "recipe", f"{type(error).__name__}: {_first(error)}"))
    return patient


def _recipe(run: Run, patient: Patient) -> None:
    from visloom.assemble import Plans, assemble, build_task
    from visloom.keys import fold
    from visloom.loader import Plan
    from visloom.rules import resolve_rules, table
    from visloom.validate import validate

    def good(name: str, text: str) -> None:
        patient.findings.append(Finding("good", name, text))

    validate(run)
    good("settings", "every setting has its type, and third-party calls their keywords")
    parts = assemble(run)
    validate(parts.run)
    sizes = {"train": parts.train, **parts.evals}
    told = [f"{n} {' + '.join(f'{len(leaf.source):,}' for leaf in s.leaves())}" for n, s in sizes.items()]
    good("data", f"{', '.join(told)} samples; {len(parts.run.task.classes)} classes")
    patient.findings += [Finding("note", "data", note) for note in parts.notes]
    plans = Plans.of(parts.run, parts.train)
    good("length", f"{plans.total:,} steps of {parts.train.batch:,} samples; 1 epoch = {plans.epoch:,} steps")
    task = build_task(parts.run, parts.train, parts.device)
    rows = resolve_rules(task, parts.run.optim, parts.run.rules)
    patient.rules = table(rows)
    numbers = sum(p.numel() for p in task.parameters())
    good("network", f"{numbers:,} parameters on {parts.found}")
    plan = Plan(parts.train, parts.run.task, seed=fold(run.seed, "train"), accumulate=run.how.accumulate)
    batch = plan.make(0, 0).to(parts.device)
    patient.findings += _one_step(parts.run, task, batch, parts.device)
    bound = 4 * numbers * (1 + _slots(run)) * (run.save.keep + 1)
    free = free_bytes(Path(run.host.out))
    text = f"about {size_text(bound)} for {run.save.keep + 1} checkpoints, {size_text(free)} free"
    patient.findings.append(Finding("good" if bound < free else "bad", "checkpoints", text))


def _slots(run: Run) -> int:
    """Copies of the weights that an optimizer's state takes, at most."""
    return 2 + (1 if run.how.ema else 0)


def _one_step(run: Run, task: Any, batch: Any, device: Any) -> Iterator[Finding]:
    """Forward and backward once; which operations have no deterministic kernel here."""
    import torch

    from visloom.contract import check_losses
    from visloom.engine import precision
    from visloom.task import Progress

    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    batch.progress = Progress(torch.zeros((), device=device), torch.ones((), device=device))
    torch.use_deterministic_algorithms(True, warn_only=True)
    began = perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with precision(run.how, device)[0]:
                losses = task(batch)
            check_losses(type(task).__name__, losses)
            sum(losses.terms.values()).backward()
            values = {name: float(value) for name, value in losses.terms.items()}
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    took = perf_counter() - began
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    yield Finding("good", "one step", f"{shown}; the first one took {duration(took)}")
    without = undetermined([str(w.message) for w in caught])
    if without:
        text = f"no deterministic kernel on {device.type}: {', '.join(without)}. A resumed run gets the same data, "
        text += "learning rates and steps, but not the same bits"
        yield Finding("note", "same bits", text)
    else:
        text = f"every operation of a step has a deterministic kernel on {device.type}"
        yield Finding("good", "same bits", text)


def undetermined(messages: Sequence[str]) -> list[str]:
    """Return the operations that torch's warnings say have no deterministic kernel."""
    found: dict[str, None] = {}
    for message in messages:
        match = re.match(
            r"(?:Deterministic behavior was enabled.*?`?)?(\S+) does not have a deterministic", message
        )
        if match:
            found[match[1]] = None
        elif "CUBLAS_WORKSPACE_CONFIG" in message:
            found["matrix products (set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts)"] = None
    return list(found)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
