"""Run: one experiment as a value, a frozen tree of typed dataclasses.

Everything that decides the weights is here, except `host`, which says where and how the work is done on this
machine and may change on resume. A recipe is a function that returns a Run; see `visloom/recipes/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from visloom.schedule import Constant, Schedule
from visloom.stream import Stream
from visloom.task import TaskSpec
from visloom.units import Epochs, Examples, Minutes, Monitor, NonFinite, Steps


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _at_least(low: float, **values: float | None) -> None:
    for name, value in values.items():
        good = value is None or (isinstance(value, int | float) and value >= low)
        _require(good, f"{name} must be at least {low:g}, got {value!r}")


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        good = value is None or (isinstance(value, int | float) and value > 0)
        _require(good, f"{name} must be greater than 0, got {value!r}")


def _pattern(**values: str | None) -> None:
    for name, value in values.items():
        try:
            re.compile(value or "")
        except (re.error, TypeError) as error:
            raise ValueError(f"{name} must be a regular expression, got {value!r}: {error}") from None


@dataclass(frozen=True)
class Call:
    """A third-party call written as data: `Call("timm:create_model", {"model_name": "resnet18"})`.

    The arguments are checked against the callable's signature before anything is opened; `make(**more)` calls it.
    """

    target: str  # "module:qualified.name"
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self) -> Any:
        """Import and return the callable."""
        from importlib import import_module

        module, _, name = self.target.partition(":")
        value: Any = import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        return value

    def make(self, *args: Any, **more: Any) -> Any:
        """Call the target with the stored keywords and `more`."""
        return self.resolve()(*args, **{**self.kwargs, **more})


@dataclass(frozen=True, kw_only=True)
class Eval:
    """One evaluation of the run: on what, how often, and whether it decides which checkpoint is best.

    every: how often; None means once, after the last step.
    monitor: `max NAME` or `min NAME` of the values this evaluation reports; one evaluation of a run has one.
    patience: stop after this many evaluations in a row without improvement; 0 never stops.
    losses: also report every loss term ("loss", "loss/NAME"), averaged over the samples.
    """

    stream: Stream
    every: Steps | Epochs | Examples | None = Epochs(1)
    monitor: Monitor | None = None
    patience: int = 0
    losses: bool = True

    def __post_init__(self) -> None:
        _at_least(0, patience=self.patience)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """An optimizer by name, or a user's callable.

    name: a dense first-order class of torch.optim ("SGD", "AdamW"), "Muon", or "module:callable" that takes
        (param_groups, lr=..., weight_decay=..., **options).
    lr: base learning rate; a rule multiplies it, the schedule turns it into the value of each step.
    options: further keyword arguments, checked against the optimizer's signature (`optim.options.momentum=0.9`).
    rest: for an optimizer that takes matrices only (Muon): the optimizer of all other parameters.
    names: with `rest`, a regular expression; matrices whose name it is not found in go to `rest` too
        (`names="^(?!head)"` leaves out the last layer).
    """

    name: str = "SGD"
    lr: float = 0.1
    weight_decay: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    rest: Optim | None = None
    names: str = ".*"

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        _at_least(0, weight_decay=self.weight_decay)
        _pattern(names=self.names)


Kind = Literal["any", "bias", "norm", "conv", "dwconv", "dcn_offset", "linear", "embedding"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Behaviour of the parameters whose name matches and whose module is of a kind.

    name: regular expression, searched in the full parameter name (`re.search`).
    lr: factor on the base learning rate.  weight_decay: absolute value.  frozen: no gradient, no update.
    Each attribute of a parameter is taken from the first rule that matches and sets it. A rule that matches
    nothing is an error.
    """

    name: str = ".*"
    kind: Kind = "any"
    lr: float | None = None
    weight_decay: float | None = None
    frozen: bool | None = None

    def __post_init__(self) -> None:
        _pattern(name=self.name)
        _at_least(0, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Gradient clipping, by the global norm or by value; exactly one is set."""

    norm: float | None = None
    value: float | None = None
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        _positive(norm=self.norm, value=self.value, norm_type=self.norm_type)
        _require(
            (self.norm is None) != (self.value is None),
            f"exactly one of norm and value is set, got norm={self.norm} and value={self.value}",
        )


@dataclass(frozen=True, kw_only=True)
class Ema:
    """Exponential moving average of the parameters (buffers are copied), updated after each step.

    decay: weight of the average, near 1.  ramp: the decay of step t is min(decay, (1 + t) / (ramp + t)).
    every: steps between updates.  evaluate: evaluate and report the average rather than the raw weights.
    into: "student -> teacher" also writes the average of sub-module `student` into the frozen sub-module
    `teacher`, so that a teacher is data to the engine.
    """

    decay: float = 0.999
    ramp: float = 10.0
    every: int = 1
    evaluate: bool = True
    into: str | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.decay < 1, f"decay must be at least 0 and below 1, got {self.decay!r}")
        _positive(ramp=self.ramp)
        _at_least(1, every=self.every)
        names = [name.strip() for name in (self.into or "student -> teacher").split("->")]
        _require(len(names) == 2 and all(names), f"into is written 'student -> teacher', got {self.into!r}")


@dataclass(frozen=True, kw_only=True)
class How:
    """How the update is computed: part of the run's identity, because it changes the bits.

    precision: "auto" is bf16 on CUDA and on CPUs with native bf16, else fp32; "fp16" uses a gradient scaler.
    accumulate: micro-batches per step; the stream's batch is divided among them.
    compile: wrap the task in torch.compile.
    channels_last: NHWC memory for convolutions; "auto" is what is faster (`visloom/memory.py`): always, but for some
        networks in fp32 on a CPU without AVX512.
    winograd: 3x3 convolutions with a quarter of the multiplications, equal to about 1e-5 (`visloom/winograd.py`); in
        fp32 on a CPU only, in NHWC. "auto" does so on CPUs with AVX2, where it was measured to gain.
    strategy: "ddp" or "fsdp" when several processes run; "auto" is ddp.
    deterministic: use deterministic kernels where they exist.
    tf32, cudnn_benchmark: CUDA only.
    frozen_norms: regular expression over module names; batch-norm layers it finds keep their statistics.
    sync_norm: SyncBatchNorm when several processes run.
    idle: parameters without a gradient in a step "rest" (no update) or get a "zero" gradient.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1
    clip: Clip | None = None
    ema: Ema | None = None
    compile: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    winograd: bool | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    deterministic: bool = True
    tf32: bool = False
    cudnn_benchmark: bool = False
    non_finite: NonFinite = NonFinite("stop")
    frozen_norms: str | None = None
    sync_norm: bool = False
    idle: Literal["rest", "zero"] = "rest"

    def __post_init__(self) -> None:
        _at_least(1, accumulate=self.accumulate)
        _pattern(frozen_norms=self.frozen_norms)
        _require(
            self.winograd is not True or self.channels_last is not False,
            "winograd works in NHWC: give winograd=true without channels_last=false",
        )


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where and with what the run works on this machine. Not its identity: free to change on resume.

    data: folder that relative data roots start from.  out: folder that run directories are made in.
    device: auto, cpu, cuda, cuda:N or mps.
    workers: data processes; -1 chooses from the number of cores.  start: how they are started.
    threads: torch threads of the main process; 0 leaves torch's choice.
    prefetch: batches that each worker prepares ahead.  timeout: seconds without a batch before a worker counts
    as hung.  rank_timeout: seconds that one of several processes waits for the others before it counts them as
    hung.  pin: pinned memory for batches that go to a GPU.
    """

    data: str = "data"
    out: str = "runs"
    device: str = "auto"
    workers: int = -1
    start: Literal["auto", "fork", "forkserver", "spawn"] = "auto"
    threads: int = 0
    prefetch: int = 2
    timeout: float = 300.0
    rank_timeout: float = 600.0
    pin: bool = True

    def __post_init__(self) -> None:
        known = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        _require(known is not None, f"device must be auto, cpu, cuda, cuda:N or mps, got {self.device!r}")
        _at_least(-1, workers=self.workers)
        _at_least(0, threads=self.threads)
        _at_least(1, prefetch=self.prefetch)
        _positive(timeout=self.timeout, rank_timeout=self.rank_timeout)


@dataclass(frozen=True, kw_only=True)
class Save:
    """When checkpoints are written and which are kept.

    every: how often; the last step is always saved.  keep: newest ones that stay.
    milestones: every how many steps or epochs a checkpoint stays for good; or at which ones, each of which is a save
    point too.  best: keep the best one.
    background: write in a thread; a failed write is raised at the next step.
    """

    every: Steps | Epochs | Examples | Minutes | None = Epochs(1)
    keep: int = 2
    milestones: Steps | Epochs | tuple[Steps | Epochs, ...] | None = None
    best: bool = True
    background: bool = True

    def __post_init__(self) -> None:
        _at_least(1, keep=self.keep)


@dataclass(frozen=True, kw_only=True)
class Log:
    """What the run tells, and how often.

    every: steps between log points.  images: pictures per evaluation in TensorBoard and in the report.
    """

    every: Steps | Epochs | Examples = Steps(50)
    tensorboard: bool = True
    report: bool = True
    images: int = 16

    def __post_init__(self) -> None:
        _at_least(0, images=self.images)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One experiment. `visloom show RECIPE` prints one; `visloom.change(run, {...})` edits one.

    init: weights to start from, by sub-module: `{"model": "all.pth"}` for the whole task or
        `{"net": "backbone.pth"}` for a part.  init_coverage: least share of parameters that must be found.
    momentum: a schedule of SGD's momentum or Adam's first beta, or None to leave it alone.
    seed: decides the initial weights, the data order and every augmentation.
    """

    name: str
    task: TaskSpec
    train: Stream
    evals: Mapping[str, Eval] = field(default_factory=dict)
    length: Steps | Epochs | Examples = Epochs(10)
    optim: Optim = Optim()
    rules: tuple[Rule, ...] = ()
    schedule: Schedule = Constant()
    momentum: Schedule | None = None
    init: Mapping[str, str] = field(default_factory=dict)
    init_coverage: float = 0.9
    how: How = How()
    host: Host = Host()
    save: Save = Save()
    log: Log = Log()
    seed: int = 0

    def __post_init__(self) -> None:
        usable = re.fullmatch(r"[^\s/\\:*?\"<>|.][^/\\:*?\"<>|]*", self.name)
        _require(usable is not None, f"name must do as the name of a folder, got {self.name!r}")
        _require(
            0 <= self.init_coverage <= 1,
            f"init_coverage must be a share between 0 and 1, got {self.init_coverage!r}",
        )
