"""The device of a run, threads, and the switches that decide whether the same work gives the same bits."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch

from visloom.errors import ConfigError
from visloom.run import Host, How

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Found:
    """A device, with what was asked for and what it is, for the start header."""

    device: torch.device
    asked: str
    name: str

    def __str__(self) -> str:
        asked = "" if self.asked == str(self.device) else f", asked for {self.asked}"
        return f"{self.device} ({self.name}{asked})"


def find_device(asked: str, local: int = 0) -> Found:
    """Return the device that `host.device` means here; process `local` of a machine takes GPU number `local`.

    Raises ConfigError, with what there is, if the device does not exist.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    there = ["cpu", *(f"cuda:{i}" for i in range(gpus)), *(["mps"] if mps else [])]
    wanted = asked
    if asked == "auto":
        wanted = f"cuda:{local % gpus}" if gpus else "mps" if mps else "cpu"
    elif asked == "cuda":
        wanted = f"cuda:{local % gpus}" if gpus else "cuda:0"
    if wanted not in there:
        raise ConfigError(
            f"host.device={asked}: there is no such device here; found {', '.join(there)}", path="host.device"
        )
    device = torch.device(wanted)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads" if device.type == "cpu" else "Apple GPU"
    return Found(device, asked, name)


def prepare(how: How, host: Host, device: torch.device) -> None:
    """Set threads, memory, determinism and the GPU of this process, before the device does any work."""
    keep_freed()
    if host.threads > 0:
        torch.set_num_threads(host.threads)
    if how.deterministic:
        # cuBLAS reads this once, when CUDA starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # warn_only: an operation without a deterministic kernel must not stop a run; `visloom doctor` names those
    torch.use_deterministic_algorithms(how.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = how.cudnn_benchmark and not how.deterministic
    torch.backends.cudnn.deterministic = how.deterministic
    torch.backends.cuda.matmul.allow_tf32 = how.tf32
    torch.backends.cudnn.allow_tf32 = how.tf32
    if device.type == "cuda":
        torch.cuda.set_device(device)  # else pinned memory and NCCL of every process start the first GPU too


def keep_freed() -> bool:
    """Let this process keep the memory that it frees: the next step asks for as much again. Says whether it could.

    By itself glibc gives large blocks back at once, and the kernel clears every page of the next ones: a tenth to a
    fifth of a training step on a CPU, and as much of reading pictures. A process holds its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):  # another C library: it has rules of its own
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
    return False


def memory_bytes(device: torch.device) -> int | None:
    """Peak memory of this process in bytes: on the GPU if it trains there, else resident memory, else None."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a precision name means on a device.

    "auto" takes bf16 on CUDA and on CPUs that multiply it natively (AMX or AVX512-BF16); elsewhere emulated bf16
    would be slower than fp32.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported()
        native = native or (
            device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_bf16()
        )
        return torch.bfloat16 if native else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise ConfigError(f"how.precision is auto, fp32, bf16 or fp16, got {name!r}", path="how.precision")
    return known[name]


@cache  # an optimizer asks for every matrix at every step
def _cpu_bf16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", file.read(200_000)) is not None
    except OSError:
        return False
