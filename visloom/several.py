"""Several: whether processes of this machine can add up a number together, tried and not looked up.

Gloo and NCCL are there or not when torch is built; whether they work depends on the machine: host name, network
interfaces, firewall, driver. `added_up` starts processes, lets each bring its number and looks at the sum.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

PATIENCE = 60.0
"""Seconds that processes have to start and to meet; a machine at work needs more than one."""


def added_up(backend: str, size: int, method: str, patience: float = PATIENCE) -> str:
    """Let `size` processes sum their numbers by an all-reduce; returns "" if the sum is right, else what went wrong.

    Args:
        backend: gloo, on the CPU, or nccl, with a GPU for each process.
        method: how processes are started. A fork must not use a GPU that this process has used: nccl needs spawn.
    """
    with tempfile.TemporaryDirectory(prefix="visloom-doctor-") as folder:
        context = multiprocessing.get_context(method)
        processes = [
            context.Process(target=_add, args=(backend, rank, size, folder, patience), daemon=True)  # type: ignore[attr-defined]
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        end = time.monotonic() + patience
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
        for process in processes:
            process.kill()
            process.join()
        said = [file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.txt"))]
        return said[0] if said else _ends([process.exitcode for process in processes], late, patience)


def _ends(codes: Sequence[int | None], late: Sequence[int], patience: float) -> str:
    if late:
        return f"they did not find each other within {patience:g} s"
    failed = [f"process {rank} ended with {code}" for rank, code in enumerate(codes) if code]
    return ", ".join(failed)


def _add(backend: str, rank: int, size: int, folder: str, patience: float) -> None:
    """Bring 1, 2, ... and look at the sum; what goes wrong is left in a file."""
    import torch

    try:
        torch.set_num_threads(1)
        device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
        torch.distributed.init_process_group(
            backend,
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=patience),
        )
        number = torch.tensor([float(rank + 1)], device=device)
        torch.distributed.all_reduce(number)
        found, expected = float(number), size * (size + 1) / 2
        torch.distributed.destroy_process_group()
        if found != expected:
            raise RuntimeError(f"the sum is {found:g} and should be {expected:g}")
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        Path(folder, f"{rank}.txt").write_text(text, encoding="utf-8")
