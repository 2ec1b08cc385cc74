"""Processes: rank and world, the one function that wraps a task for several of them, and global normalisers.

Launched by torchrun (or `--nproc`), one process per device. Without it everything here is the identity.
Only `wrapped(batch)` exchanges gradients: a task is never reached through `.module`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from visloom import peers
from visloom.errors import ConfigError, ProcessLost
from visloom.module import TaskModule
from visloom.run import How
from visloom.syncnorm import synchronised

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class World:
    """This process among all: rank of size, and its number on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """True in the process that writes files and talks to the user."""
        return self.rank == 0


def world() -> World:
    """Return this process's place, from the process group if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size(), local)
    return World()


def start(device: str, timeout: float = 600.0) -> World:
    """Join the process group that torchrun's environment describes; the identity where there is none.

    timeout: seconds that a process waits for the others before it counts them as hung.
    Every restart of an elastic job gets a store prefix of its own: without it, restarted gloo processes find the
    addresses of dead peers and fail to connect.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or torch.distributed.is_initialized():
        return world()
    rank, wait = int(os.environ["RANK"]), timedelta(seconds=timeout)
    # both: gradients travel between GPUs, flags and metrics between hosts
    backend = "cpu:gloo,cuda:nccl" if device != "cpu" and torch.cuda.is_available() else "gloo"
    serve = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    prefix = partial(torch.distributed.PrefixStore, f"try-{attempt()}")  # type: ignore[attr-defined]
    try:
        store, line = (prefix(peers.connect(os.environ, wait, serve=serve and not i)) for i in range(2))
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ProcessLost(f"the first process cannot be reached at {where} within {timeout:g} s") from error
    known = peers.join(line, rank, size, timeout)
    with peers.watched():
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        known.meet()
    return world()


def attempt() -> int:
    """How often torchrun has restarted the processes of this job."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def job() -> str | None:
    """A name of the job that outlives restarts, or None where torchrun has not started this process."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()}-{os.getppid()}" if name == "none" else name


def stop() -> None:
    """Leave the process group, if there is one."""
    peers.leave()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def barrier() -> None:
    """Wait for all processes, on the host: torch's own barrier would take the GPUs where there are some."""
    if world().size > 1:
        torch.distributed.all_reduce(torch.zeros(1))


def any_rank(flag: bool) -> bool:
    """Say whether the flag is set on any process (a collective when there are several)."""
    if world().size == 1:
        return flag
    value = torch.tensor([int(flag)])
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item())


def gather(value: Any) -> list[Any]:
    """Return every process's value, in rank order, on every process."""
    if world().size == 1:
        return [value]
    values: list[Any] = [None] * world().size
    torch.distributed.all_gather_object(values, value)
    return values


def share(module: nn.Module) -> None:
    """Give every process the first one's buffers.

    Each one's batch-norm statistics are those of its own part of the last batch; an evaluation that is divided
    among processes must ask one network.
    """
    if world().size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


def mean(values: Sequence[Tensor]) -> list[Tensor]:
    """Average 0-dim tensors over all processes."""
    if world().size == 1 or not values:
        return list(values)
    stacked = torch.stack([v.detach().float() for v in values])
    torch.distributed.all_reduce(stacked)
    return list((stacked / world().size).unbind())


def normaliser(count: Tensor) -> Tensor:
    """Return the divisor that makes a sum over this process's items a share of the global mean.

    count: 0-dim number of items here. DDP averages gradients over processes, so the divisor is the count of all,
    at least 1, over the number of processes: the average of `sum_r / normaliser` is then the sum over all items by
    their count, as one process computes it, and not a mean of means. A batch without items gives its plain sum.

    Where no gradients are recorded it is this process's own count: an evaluation weighs each batch by its count, and
    the last batch may have nothing for some processes, which the others would wait for.
    """
    if world().size == 1 or not torch.is_grad_enabled():
        return count.clamp(min=1)
    total = count.detach().clone().float()
    torch.distributed.all_reduce(total)
    return total.clamp(min=1) / world().size


def synchronise(task: M, device: torch.device) -> M:
    """Make every batch norm of a task take the statistics of all processes' samples.

    GPUs have kernels for it in torch. timm's conversion knows layers that are norm and activation in one, whose
    activation torch's own would lose.
    """
    if device.type != "cuda":
        return synchronised(task)
    from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

    return convert_sync_batchnorm(task)  # type: ignore[no-any-return, no-untyped-call]


@dataclass
class Wrapped:
    """A task made ready for all processes: call it, and open `quiet()` around backwards that need no exchange."""

    call: Callable[..., Any]
    quiet: Callable[[], AbstractContextManager[Any]]


def wrap(task: TaskModule, how: How, device: torch.device) -> Wrapped:
    """Apply SyncBatchNorm, compile and data parallelism, in this one place."""
    if world().size == 1:
        return Wrapped(torch.compile(task, dynamic=False) if how.compile else task, nullcontext)
    if how.strategy == "fsdp":
        raise ConfigError(
            "sharded training is not available yet; set how.strategy to ddp", path="how.strategy"
        )
    if how.sync_norm:
        task = synchronise(task, device)
    parallel = nn.parallel.DistributedDataParallel(
        task,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=task.sparse,
        gradient_as_bucket_view=True,
    )
    call = torch.compile(parallel, dynamic=False) if how.compile else parallel
    return Wrapped(call, parallel.no_sync)
