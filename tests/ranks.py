"""Ranks: run a function in several forked processes that form a gloo group, and get back what each returned."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from visloom import dist

can_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or not torch.distributed.is_gloo_available(),
    reason="needs fork and gloo",
)


def spread(world: int, work: Callable[[], Any], timeout: float = 120.0) -> list[Any]:
    """Call `work` in each of `world` processes; return what they returned, in rank order.

    What is returned goes through a file: tensors and plain containers of them. One process has no group, as in a
    run. Raises AssertionError with the traceback of each process that failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=_life, args=(rank, world, work, folder)) for rank in range(world)]
        for process in processes:
            process.start()
        end = time.monotonic() + timeout
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        told = "\n".join(file.read_text() for file in sorted(folder.glob("*.txt")))
        assert [process.exitcode for process in processes] == [0] * world, told or "a process did not end"
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _life(rank: int, world: int, work: Callable[[], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    try:
        if world > 1:
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=60),
            )
        torch.save(work(), folder / f"{rank}.pt")
        dist.stop()
    except BaseException:
        (folder / f"{rank}.txt").write_text(f"process {rank}:\n{traceback.format_exc()}")
        raise
