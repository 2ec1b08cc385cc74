"""Loader: the batches of a stream, from this process or from workers, from any step on.

The plan (step, micro-batch) is handed to torch's DataLoader as its sampler, so what a worker makes depends on
the plan alone. Each worker writes the step and the sample it is at into a shared table: when one dies or hangs,
the error names the sample. On a GPU, batches are copied on a side stream while the previous one is used.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visloom.contract import check_batch
from visloom.device import keep_freed
from visloom.errors import ContractError, DataError, VisloomError
from visloom.keys import fold
from visloom.run import Host
from visloom.signals import Signals
from visloom.stream import Stream, Tickets
from visloom.task import Batch, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from visloom.sample import Sample

GRACE = 1.0
"""Seconds that a data worker has to end when it is no longer needed."""


@dataclass(frozen=True)
class _Failure:
    """What a worker sends back instead of a batch."""

    kind: type[VisloomError]
    message: str


class Plan(Dataset[Any]):
    """Makes the micro-batch (step, micro) of one process: picklable, the same in every worker.

    seed: key of the micro-batch's own draws (mixup); None in evaluation.
    """

    def __init__(
        self,
        stream: Stream,
        spec: TaskSpec,
        *,
        seed: int | None,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.stream, self.spec, self.seed = stream, spec, seed
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self._sizes: dict[int, NDArray[np.int64] | None] = {}
        self.table: Tensor | None = None  # (workers, 3) int64: pid, step, position in the batch

    def tickets(self, step: int, micro: int) -> Tickets:
        """This process's share of one micro-batch, which holds the same samples at any number of processes."""
        return self.stream.tickets(step).shard(micro, self.accumulate).shard(self.rank, self.world)

    def make(
        self, step: int, micro: int, note: Callable[[int], None] | None = None, *, collate: bool = True
    ) -> Any:
        """Read, transform and collate; failures are DataErrors that name the sample."""
        samples = self.stream.load(self.tickets(step, micro), note)
        if self.world > 1 and self.seed is not None and getattr(self.spec, "pads", False):
            samples = self._among_others(samples, step, micro)
        return collated(self.spec, samples, self.key(step, micro)) if collate else samples

    def _among_others(self, samples: Sequence[Sample], step: int, micro: int) -> Sequence[Sample]:
        """Tell the first sample how large the pictures of the whole micro-batch are, those of other processes too.

        `extra["batch_sizes"]` (N, 2) are heights and widths as they are stored, for a spec that pads to the largest and
        says so (`pads = True`): then padding does not depend on the number of processes. Nothing is told where a source
        does not know its sizes, or where transforms have changed them: what others made of theirs is not known here.
        """
        tickets = self.stream.tickets(step).shard(micro, self.accumulate)
        known = {number: self._sizes_of(number) for number in set(tickets.source.tolist())}
        if not len(samples) or any(sizes is None for sizes in known.values()):
            return samples
        every = np.array([known[t.source][t.index] for t in tickets], np.int64)  # type: ignore[index]
        own = tickets.shard(self.rank, self.world)
        if any(s.size != tuple(known[t.source][t.index]) for s, t in zip(samples, own, strict=True)):  # type: ignore[index]
            return samples
        first, *others = samples
        return [first.replace(extra={**first.extra, "batch_sizes": every}), *others]

    def _sizes_of(self, number: int) -> NDArray[np.int64] | None:
        """What a source says of the sizes of its samples: asked once, since some make the list anew each time."""
        if number not in self._sizes:
            self._sizes[number] = self.stream.leaves()[number].source.sizes()
        return self._sizes[number]

    def key(self, step: int, micro: int) -> int | None:
        """The key of a micro-batch's own draws."""
        return None if self.seed is None else fold(self.seed, "batch", step, micro)

    def __getitem__(self, at: tuple[int, int]) -> Any:
        step, micro = at
        note = None
        info = torch.utils.data.get_worker_info()
        if info is not None and self.table is not None:
            row = self.table[info.id]
            row[0], row[1], row[2] = os.getpid(), step, 0

            def note(position: int) -> None:
                row[2] = position

        try:
            made = self.make(step, micro, note)
            return made if info is None else _in_shared_memory(made)
        except (DataError, ContractError) as error:
            return _Failure(type(error), str(error))

    def name(self, step: int, micro: int, position: int) -> str:
        """Name one sample of a batch for an error message."""
        tickets = self.tickets(step, micro)
        if not 0 <= position < len(tickets):
            return f"step {step}"
        ticket = tickets[position]
        source = self.stream.leaves()[ticket.source].source
        return f"step {step}, source {ticket.source} ({type(source).__name__}), sample {ticket.index}"


def _in_shared_memory(batch: Batch) -> Batch:
    """Move a worker's batch to where the main process reads it, and say so if there is no room.

    torch would do it in a thread of the worker, whose failure nobody hears: the run would wait for its timeout.
    """
    try:
        batch._map(lambda tensor: tensor.share_memory_())
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise DataError(
            f"a data worker has no room for a batch in shared memory: {_first(str(error))}. /dev/shm is full, enlarge "
            "it or set host.workers=0"
        ) from error
    return batch


class _Order:
    """The (step, micro-batch) pairs from one step to another, not held in memory."""

    def __init__(self, start: int, stop: int, accumulate: int) -> None:
        self.start, self.stop, self.accumulate = start, stop, accumulate

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.accumulate

    def place(self, number: int) -> tuple[int, int]:
        """The pair at a position."""
        step, micro = divmod(number, self.accumulate)
        return self.start + step, micro

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return (self.place(number) for number in range(len(self)))


def collated(spec: TaskSpec, samples: Sequence[Sample], key: int | None) -> Batch:
    """Collate, and say which class broke the contract if it did."""
    try:
        batch = spec.collate(samples, key)
    except (DataError, ContractError):
        raise
    except Exception as error:
        ids = ", ".join(repr(s.id) for s in list(samples)[:3])
        raise DataError(
            f"{type(spec).__name__}.collate failed on samples {ids} ...: {type(error).__name__}: {error}"
        ) from error
    check_batch(type(spec).__name__, batch, len(samples))
    return batch


class Loader:
    """Batches of one process, on its device.

    Args:
        plan: what a (step, micro) is.
        host: workers, start method, prefetch, timeout, pinning.
        device: where batches go.
        stop: step after the last one.
    """

    def __init__(self, plan: Plan, host: Host, device: torch.device, stop: int) -> None:
        self.plan, self.host, self.device, self.stop = plan, host, device, stop
        self.workers = choose_workers(plan.stream, host, device)

    @property
    def batch(self) -> int:
        """Samples per step, over all processes."""
        return self.plan.stream.batch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch of the stream."""
        return self.plan.stream.steps_per_epoch

    def open(self, start: int = 0) -> Iterator[Batch]:
        """Yield the micro-batches of steps `start`, ... in order; closing the iterator stops the workers."""
        at = _Order(start, self.stop, self.plan.accumulate)
        made = self._local(at) if self.workers == 0 else self._workers(at)
        return _side_stream(made, self.device) if self.device.type == "cuda" else self._moved(made)

    def _moved(self, made: Iterator[Batch]) -> Iterator[Batch]:
        with closing(made):  # type: ignore[type-var]
            for batch in made:
                yield batch if self.device.type == "cpu" else batch.to(self.device)

    def _local(self, at: _Order) -> Iterator[Batch]:
        pin = self.device.type == "cuda" and self.host.pin
        for step, micro in at:
            batch = self.plan.make(step, micro)
            yield batch.pin_memory() if pin else batch

    def _workers(self, at: _Order) -> Iterator[Batch]:
        self.plan.table = table = torch.zeros(self.workers, 3, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        with warnings.catch_warnings():
            # torch advises against more workers than cores; the number is the user's to choose
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            iterator = iter(self._torch_loader(at))
        try:
            for number in range(len(at)):
                try:
                    batch = next(iterator)
                except RuntimeError as error:
                    self._explain(error, table, at, number)
                if isinstance(batch, _Failure):
                    raise batch.kind(batch.message)
                yield batch
        finally:
            _shut(iterator)

    def _torch_loader(self, at: _Order) -> DataLoader[Any]:
        method = start_method(self.host)
        return DataLoader(
            self.plan,
            batch_size=None,
            sampler=at,
            num_workers=self.workers,
            prefetch_factor=self.host.prefetch,
            timeout=self.host.timeout,
            multiprocessing_context=method,
            worker_init_fn=partial(_begin, None if method == "forkserver" else os.getpid()),
            pin_memory=self.device.type == "cuda" and self.host.pin,
            generator=torch.Generator().manual_seed(0),  # else the loader draws from the global generator
        )

    def _explain(self, error: RuntimeError, table: Tensor, at: _Order, number: int) -> NoReturn:
        text = str(error)
        rows = table.tolist()
        if "timed out" in text:
            step, micro = at.place(number)
            worker = number % self.workers
            where = self.plan.name(step, micro, rows[worker][2] if rows[worker][1] == step else 0)
            raise DataError(
                f"a data worker (pid {rows[worker][0]}) gave no batch for {self.host.timeout:g} s; it hangs at "
                f"{where}. Look at that sample, or raise host.timeout if it is only slow."
            ) from error
        pids = {int(p) for p in re.findall(r"\d+", text)}
        for pid, step, position in rows:
            if pid in pids:
                where = self.plan.name(step, 0, position)
                raise DataError(
                    f"a data worker (pid {pid}) died at {where}. If the system ran out of memory, use fewer "
                    f"host.workers; if /dev/shm is full, enlarge it or set host.workers=0. ({_first(text)})"
                ) from error
        if "worker" in text.lower() or "shared memory" in text.lower():
            raise DataError(
                f"the data workers stopped: {_first(text)}. If /dev/shm is full, enlarge it or set host.workers=0"
            ) from error
        raise error


def _shut(iterator: Any) -> None:
    """Stop the workers now, not when the collector comes by; one that hangs is killed.

    torch would wait 5 seconds for each that hangs, which is more than a preempted run may have.
    """
    shut, workers = getattr(iterator, "_shutdown_workers", None), getattr(iterator, "_workers", [])
    if shut is None:
        return
    late = threading.Event()

    def kill() -> None:
        late.set()
        for worker in workers:
            worker.kill()  # does nothing to one that has ended

    timer = threading.Timer(GRACE, kill)
    timer.start()
    try:
        shut()
    except RuntimeError:  # torch reports a worker that died; that we killed one is no news
        if not late.is_set():
            raise
    finally:
        timer.cancel()


def _first(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


def _begin(parent: int | None, worker: int) -> None:
    """Runs first in each worker: one thread each, no life after the parent's, and signals are not its business.

    Schedulers send theirs to the whole group: a worker that obeyed would fail the run before it has saved.

    parent: process id that must be this one's parent, or None where a server process is.
    """
    _end_with(parent)
    torch.set_num_threads(1)
    keep_freed()
    calm_threads()
    for name in Signals.names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end_with(parent: int | None) -> None:
    """End this process when its parent dies, however it dies.

    torch's own watch begins after this and takes the parent of then for the right one: workers of a run that was
    killed a moment before would stay for ever. A worker that hangs in a read would stay as well.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def calm_threads() -> None:
    """Keep OpenCV from starting a thread pool of its own, if it is in use."""
    try:
        import cv2
    except ImportError:  # pragma: no cover - a data set without pictures
        return
    cv2.setNumThreads(0)


def start_method(host: Host) -> str:
    """The start method that `auto` stands for: fork where it exists, for it starts at once."""
    if host.start != "auto":
        return host.start
    return "fork" if sys.platform.startswith("linux") else "spawn"


def choose_workers(stream: Stream, host: Host, device: torch.device) -> int:
    """Return the number of data workers: what `host.workers` says, or a choice for -1."""
    if host.workers >= 0:
        return host.workers
    if stream.in_memory():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores) if device.type == "cuda" else max(1, min(4, cores // 2))


def _side_stream(made: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to the GPU on a side stream.

    The host runs ahead of the GPU, so the copy goes on while the previous step still computes.
    """
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with closing(made):  # type: ignore[type-var]
        for batch in made:
            with torch.cuda.stream(side):
                moved = batch.to(device, non_blocking=True)
            current = torch.cuda.current_stream(device)
            current.wait_stream(side)
            # the allocator must not hand this memory out again before the training stream is done with it
            yield moved._map(lambda tensor: (tensor.record_stream(current), tensor)[1])  # noqa: B023
