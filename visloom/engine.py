"""Engine: an iterator. `for step in engine.steps():` performs one optimizer update per turn and hands back control.

One turn, in this order: assign learning rate and momentum; for each micro-batch fetch, seed, forward, backward; clip;
step; zero; average; count. Logging, evaluation and checkpoints are ordinary statements in the body of that `for`
(see `visloom/drive.py`, or write your own). Nothing in a turn waits for the device.

The state of a run is weights, moments, one integer and a small ledger: `state()` returns all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from visloom import dist
from visloom.checkpoint import State
from visloom.contract import check_losses
from visloom.device import resolve_precision
from visloom.ema import Average
from visloom.errors import CheckpointError, ConfigError, Preempted
from visloom.keys import Counted, fold, generators, seed_torch
from visloom.optim import Optimizers, set_lr, set_momentum
from visloom.run import How
from visloom.schedule import Progress as Position
from visloom.schedule import Schedule
from visloom.task import Batch, Losses, Progress

if TYPE_CHECKING:
    from visloom.module import TaskModule


class Feed(Protocol):
    """What the engine reads from: a `visloom.loader.Loader`, or anything that yields micro-batches by step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def open(self, start: int = 0) -> Iterator[Batch]: ...


class Step(NamedTuple):
    """What one turn reports. Tensors stay on the device and are not waited for.

    index: updates done, this one included (1-based).  epoch: the same in epochs.
    losses, logs: 0-dim tensors by name, averaged over micro-batches; none if the step was passed over.
    lr: learning rate by parameter group.  grad_norm: 0-dim norm before clipping, or None if nothing needed it.
    seconds: host time of the turn.  waited: the part of it that was spent waiting for data.
    notes: what the data side wants told.
    bad: 0-dim bool, whether the update was skipped for its gradient; None where the policy is not to skip.
    """

    index: int  # type: ignore[assignment]  # tuple has a method of that name
    epoch: float
    losses: dict[str, Tensor]
    logs: dict[str, Tensor]
    lr: dict[str, float]
    grad_norm: Tensor | None
    seconds: float
    waited: float
    notes: tuple[str, ...] = ()
    bad: Tensor | None = None


class Bad(NamedTuple):
    """A step whose gradient was not finite: its number (0-based) and the samples of its batches."""

    step: int
    ids: tuple[str, ...]


class Engine:
    """Trains a task: one optimizer update per turn of `steps()`.

    Args:
        task: the module whose forward returns losses, on its device.
        feed: yields micro-batches from any step on.
        optimizer: what `visloom.optim.build_optimizer` returns.
        schedule: learning rate as a function of (base, position).
        total: number of updates.
        how: precision, accumulation, clipping, averaging, policy for non-finite gradients.
        seed: key of everything the task draws (dropout).
        start: updates already done.
        momentum: schedule of SGD's momentum or Adam's first beta, or None.
    """

    def __init__(
        self,
        task: TaskModule,
        feed: Feed,
        optimizer: Optimizers,
        schedule: Schedule,
        *,
        total: int,
        how: How | None = None,
        seed: int = 0,
        start: int = 0,
        momentum: Schedule | None = None,
    ) -> None:
        self.task, self.feed, self.optimizer = task, feed, optimizer
        self.schedule, self.momentum = schedule, momentum
        self.how = how = how if how is not None else How(precision="fp32")
        self.total, self.step = total, start
        self.steps_per_epoch = feed.steps_per_epoch
        self._keys = Counted(fold(seed, "step"))
        self.skipped: set[int] = set()  # steps that are passed over, by rollback
        self.device = next(task.parameters()).device
        self._generators = generators()
        self.average = Average(task, how.ema) if how.ema else None  # freezes a teacher, before the wrapping
        self.wrapped = dist.wrap(task, how, self.device)
        self.autocast, self.scaler = precision(how, self.device)
        self._call = self.wrapped.call if isinstance(self.autocast, nullcontext) else self._autocasted
        self.progress = Progress(
            torch.zeros((), device=self.device), torch.full((), float(total), device=self.device)
        )
        self._tell_step = _writer(self.progress.step)
        self.parameters = [p for p in task.parameters() if p.requires_grad]
        self._world = dist.world()
        self._watch = how.non_finite.policy != "ignore" and self.scaler is None
        self._on_device = self._watch and optimizer.supports_found_inf
        self._flags: list[tuple[int, tuple[str, ...], Tensor]] = []
        # batch-norm statistics change in forward: they are taken back where the update does not happen
        self._mends = how.non_finite.policy in ("skip", "rollback")
        self._buffers = list(task.buffers()) if self._mends or how.accumulate > 1 else []
        self._backup = [b.detach().clone() for b in self._buffers]
        self._reopen = False
        self._checked_contract = False
        if self._on_device:
            optimizer.prepare()
        train_mode(task, how)

    # ------------------------------------------------------------------------------------------------- one turn

    def steps(self) -> Iterator[Step]:
        """Yield one Step per optimizer update until `total`; leaving the loop stops the data workers."""
        batches = self.feed.open(self.step)
        try:
            while self.step < self.total:
                if self._reopen:
                    _close(batches)
                    batches, self._reopen = self.feed.open(self.step), False
                yield self._pass_over(batches) if self.step in self.skipped else self._turn(batches)
        finally:
            _close(batches)

    def _pass_over(self, batches: Iterator[Batch]) -> Step:
        """Take the place of a turn whose gradient was not finite before: only time goes on."""
        began = perf_counter()
        for _ in range(self.how.accumulate):
            next(batches)
        at = Position(self.step, self.total, self.steps_per_epoch)
        lr = set_lr(self.optimizer.groups, self.schedule, at)
        self.step += 1
        took = perf_counter() - began
        return Step(self.step, self.step / at.steps_per_epoch, {}, {}, lr, None, took, took)

    def _turn(self, batches: Iterator[Batch]) -> Step:
        began = perf_counter()
        how, step, optimizer = self.how, self.step, self.optimizer
        at = Position(step, self.total, self.steps_per_epoch)
        lr = set_lr(optimizer.groups, self.schedule, at)
        if self.momentum is not None:
            set_momentum(optimizer.groups, self.momentum, at)
        self._tell_step(float(step))
        progress = Progress(self.progress.step, self.progress.total, step / self.total)
        if self._backup:
            torch._foreach_copy_(self._backup, self._buffers)

        waited = 0.0
        ids: tuple[str, ...] = ()
        notes: tuple[str, ...] = ()
        seen: Losses | None = None
        bad: Tensor | None = None
        for micro in range(how.accumulate):
            asked = perf_counter()
            try:
                batch = next(batches)
            except Preempted:
                if micro:  # the half turn leaves no trace in the state that is saved now
                    torch._foreach_copy_(self._buffers, self._backup)
                raise
            waited += perf_counter() - asked
            number = (step * how.accumulate + micro) * self._world.size + self._world.rank
            seed_torch(self._keys[number], self._generators)
            batch.progress = progress
            if micro < how.accumulate - 1:
                with self.wrapped.quiet():
                    losses, loss = self._backward(batch)
            else:
                losses, loss = self._backward(batch)
            seen = losses if seen is None else _added(seen, losses)
            ids, notes = ids + batch.ids, notes + batch.notes
            if self.scaler is not None and how.non_finite.policy != "ignore":
                # the scaler skips overflows by itself; a loss that is not finite is no overflow of the scale
                broken = ~torch.isfinite(loss.detach())
                bad = broken if bad is None else bad | broken

        if how.idle == "zero":
            _fill_idle(self.parameters)
        norm = self._clip() if self._watch or how.clip is not None else None
        if self._watch and norm is not None:
            bad = ~torch.isfinite(norm)
        if bad is not None:
            self._flags.append((step, ids, bad))
        self._update(bad)
        for p in self.parameters:
            p.grad = None
        if self.average is not None:
            self.average.update(step)
        self.step = step + 1
        assert seen is not None
        terms = _detached(seen.terms, how.accumulate)
        logs = _detached(seen.logs, how.accumulate)
        done = perf_counter()
        epoch = self.step / at.steps_per_epoch
        skipped = bad if self._mends else None
        return Step(self.step, epoch, terms, logs, lr, norm, done - began, waited, notes, skipped)

    def _backward(self, batch: Batch) -> tuple[Losses, Tensor]:
        """Forward and backward of a micro-batch; returns its losses, and the one that was minimised."""
        losses = self._call(batch)
        if not self._checked_contract:
            self._check_losses(losses)
        loss = _total(losses.terms)
        if self.how.accumulate > 1:
            loss = loss / self.how.accumulate
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        return losses, loss

    def _autocasted(self, batch: Batch) -> Losses:
        with self.autocast:
            losses: Losses = self.wrapped.call(batch)
        return losses

    def _clip(self) -> Tensor:
        """Clip gradients, and return their norm, for clipping or the finite check."""
        clip = self.how.clip
        if self.scaler is not None:
            for part in self.optimizer.parts:
                self.scaler.unscale_(part)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, clip.norm_type if clip else 2.0, foreach=True)
        if clip is not None and clip.norm is not None:
            scale = torch.clamp(clip.norm / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, scale)
        elif clip is not None and clip.value is not None:
            torch._foreach_clamp_min_(gradients, -clip.value)
            torch._foreach_clamp_max_(gradients, clip.value)
        return norm

    def _update(self, bad: Tensor | None) -> None:
        """Take the optimizer's step, unless `bad`: 0-dim bool, or None where nobody looks.

        Fused optimizers skip on the device; others pay one wait per step for the answer. The scaler skips by
        itself.
        """
        optimizer = self.optimizer
        if self.scaler is not None:
            for part in optimizer.parts:
                self.scaler.step(part)
            self.scaler.update()
        elif bad is None:
            optimizer.step()
        elif self._on_device:
            found = bad.float()
            for part in optimizer.parts:
                part.found_inf = found  # type: ignore[attr-defined]
            optimizer.step()
        elif not bool(bad):
            optimizer.step()
        if bad is not None and self._mends:
            for buffer, kept in zip(self._buffers, self._backup, strict=True):
                torch.where(bad, kept, buffer, out=buffer)

    def bad_steps(self) -> list[Bad]:
        """Return the steps since the last call whose update was not finite; waits for the device."""
        if not self._flags:
            return []
        flags = torch.stack([flag for _, _, flag in self._flags]).tolist()
        bad = [Bad(step, ids) for (step, ids, _), flag in zip(self._flags, flags, strict=True) if flag]
        self._flags.clear()
        return bad

    # ---------------------------------------------------------------------------------------------------- state

    @property
    def best_module(self) -> TaskModule:
        """The module to evaluate and to ship: the average where it is kept beside the task, else the task."""
        average = self.average
        if average is not None and average.separate and average.ema.evaluate:
            return average.module  # type: ignore[return-value]
        return self.task

    def highest_lr(self, step: int) -> float:
        """Return the highest learning rate of all parameters in the turn after update `step`."""
        at = Position(step, self.total, self.steps_per_epoch)
        return max((self.schedule(group["base_lr"], at) for group in self.optimizer.groups), default=0.0)

    def state(self) -> State:
        """Return everything a resumed run needs: weights, moments, averages, the step, and a small ledger."""
        model, extra = split_state(self.task)
        optim, plain = self.optimizer.state_by_name(self.task)
        tensors = {"model": model, "optim": optim}
        if self.average is not None and self.average.separate:
            tensors["ema"] = split_state(self.average.module)[0]
        data: dict[str, Any] = {"optim": plain, "extra": extra, "skipped": sorted(self.skipped)}
        if self.scaler is not None:
            data["scaler"] = self.scaler.state_dict()
        return State(self.step, tensors, data)

    def restore(self, state: State, *, strict: bool = True) -> list[str]:
        """Continue from a state, exactly; `steps()` reopens its data there.

        Args:
            strict: raise CheckpointError if moments or averages do not fit this run. Else they start afresh, and
                what is returned says so; the weights must fit in any case.
        """
        notes: list[str] = []
        load_weights(self.task, state.tensors["model"], state.data.get("extra", {}))
        try:
            self.optimizer.load_state_by_name(
                self.task, state.tensors.get("optim", {}), state.data.get("optim", {})
            )
        except CheckpointError as error:
            if strict:
                raise
            notes.append(f"the optimizer starts without moments: {error}")
        if self.average is not None and self.average.separate:
            notes += self._restore_average(state, strict)
        if self.scaler is not None and "scaler" in state.data:
            self.scaler.load_state_dict(state.data["scaler"])
        self.skipped = set(state.data.get("skipped", ()))
        self.step = state.step
        self._flags.clear()
        self._reopen = True
        return notes

    def _restore_average(self, state: State, strict: bool) -> list[str]:
        assert self.average is not None
        kept = state.tensors.get("ema")
        if kept is None and strict:
            raise CheckpointError(
                "the run averages weights (how.ema) but the checkpoint has no average; start a branch instead"
            )
        weights = state.tensors["model"] if kept is None else kept
        load_weights(self.average.module, weights, state.data.get("extra", {}))
        return [] if kept is not None else ["the average of the weights starts from the weights"]

    def _check_losses(self, losses: Any) -> None:
        check_losses(type(self.task).__name__, losses)
        self._checked_contract = True


# ------------------------------------------------------------------------------------------------------- helpers


def precision(
    how: How, device: torch.device
) -> tuple[AbstractContextManager[Any], torch.amp.GradScaler | None]:
    """Return the autocast context and the gradient scaler that `how.precision` means on a device."""
    dtype = resolve_precision(how.precision, device)
    if dtype is torch.float32:
        return nullcontext(), None
    scaler = torch.amp.GradScaler(device.type) if dtype is torch.float16 else None
    return torch.autocast(device.type, dtype), scaler


def train_mode(task: nn.Module, how: How) -> None:
    """Put a task in training mode, but for batch-norm layers whose statistics are frozen."""
    task.train()
    if how.frozen_norms is None:
        return
    pattern = re.compile(how.frozen_norms)
    found = False
    for name, module in task.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and pattern.search(name):
            module.eval()
            found = True
    if not found:
        raise ConfigError(
            f"how.frozen_norms={how.frozen_norms!r} matches no batch-norm layer of the task",
            path="how.frozen_norms",
        )


def split_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a module's state as tensors and as the JSON-able extra state of its parts."""
    tensors, extra = {}, {}
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            extra[name] = value
    return tensors, extra


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Load a whole state; a missing, unexpected or wrong-shape key is an error that lists them."""
    try:
        module.load_state_dict({**tensors, **extra}, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit the task: {error}") from error


def _writer(number: Tensor) -> Callable[[float], Any]:
    """What writes a 0-dim tensor: on a CPU straight into its memory, without an operation of PyTorch.

    Autograd does not notice it: a task must not keep a graph over `progress.step` from one step to the next.
    """
    if number.device.type != "cpu":
        return number.fill_
    memory = number.numpy()
    return lambda value: memory.__setitem__((), value)


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    values = iter(terms.values())
    total = next(values)
    for value in values:
        total = total + value
    return total


def _added(a: Losses, b: Losses) -> Losses:
    """Add the values of two micro-batches, without their graphs; a name that one lacks is zero there."""

    def add(x: dict[str, Tensor], y: dict[str, Tensor]) -> dict[str, Tensor]:
        total = {k: v.detach() for k, v in x.items()}
        for k, v in y.items():
            total[k] = total[k] + v.detach() if k in total else v.detach()
        return total

    return Losses(add(a.terms, b.terms), add(a.logs, b.logs), a.count + b.count)


def _detached(values: Mapping[str, Tensor], micro: int) -> dict[str, Tensor]:
    """The values without their graphs, averaged over micro-batches."""
    if micro == 1:
        return {name: value.detach() for name, value in values.items()}
    return {name: value.detach() / micro for name, value in values.items()}


def _fill_idle(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)


def _close(batches: Any) -> None:
    close: Callable[[], None] | None = getattr(batches, "close", None)
    if close is not None:
        close()
