"""Provenance: what made a run, and whether resuming it here can promise the same bits.

`collect` gathers it for provenance.json in well under two seconds and never fails: what cannot be found out is null.
`drift` compares two of them and names the differences after which identical bits are not promised; where the
work happens otherwise (host, workers, start method) changes no bits. No user name is recorded: the home folder
is written `~`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom import __version__

if TYPE_CHECKING:
    from visloom.run import Run

GIT_SECONDS = 0.9  # for all questions to git together
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "pillow", "llvmlite")
_HOW = (
    "precision",
    "accumulate",
    "compile",
    "channels_last",
    "winograd",
    "strategy",
    "deterministic",
    "tf32",
    "cudnn_benchmark",
    "sync_norm",
)

# Where a bit can come from: section and key of what `collect` returns.
_BITS = (
    *(("execution", key) for key in ("device", "device_name", "threads", "world_size", *_HOW)),
    *(("versions", name) for name in ("visloom", *_LIBRARIES, "cuda", "cudnn")),
)
_CPU_BITS = (("machine", "cpu"), ("machine", "instructions"))  # when the device is the CPU


def collect(
    run: Run,
    argv: Sequence[str],
    *,
    folder: Path | None = None,
    resolved: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what made a run, as a JSON tree.

    Args:
        run: the run; its seed and `how` are recorded.
        argv: the command line.
        folder: where the recipe's file lies; its git commit is recorded if it is in a checkout.
        resolved: what "auto" came to: device ("cuda:0"), precision, threads, start, workers, world_size.
        data: fingerprint of each data set, by name.
    """
    end = time.monotonic() + GIT_SECONDS
    checkout = Path(__file__).resolve().parent.parent
    execution: dict[str, Any] = {key: getattr(run.how, key) for key in _HOW}
    execution |= {"device": "cpu", "threads": _torch_threads(), "world_size": 1, **(resolved or {})}
    execution["device_name"] = _device_name(str(execution["device"]))
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "argv": [_homeless(word) for word in argv],
        "run": run.name,
        "seed": run.seed,
        "code": {
            "visloom": git_state(checkout, end) if (checkout / ".git").exists() else None,
            "recipe": git_state(folder, end) if folder is not None else None,
        },
        "versions": _versions(str(execution["device"])),
        "machine": {
            "platform": platform.platform(),
            "cpu": _cpu_model(),
            "instructions": _cpu_instructions(),
            "cores": _cores(),
        },
        "execution": execution,
        "data": dict(data or {}),
    }


def drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the differences after which a resumed run is not promised to give identical bits, as sentences.

    A difference that is not listed is harmless: host, time, workers, start method, which GPU of one model.
    What one side did not record is listed as unknown.
    """
    found = []
    places = _BITS + (_CPU_BITS if _kind(new) == _kind(old) == "cpu" else ())
    for section, key in places:
        before, after = (side.get(section, {}).get(key, "not recorded") for side in (old, new))
        if key == "device":
            before, after = _kind(old), _kind(new)
        if before != after:
            found.append(f"{key.replace('_', ' ')}: {before} -> {after}")
    for whose in ("visloom", "recipe"):
        before, after = (_code(side.get("code", {}).get(whose)) for side in (old, new))
        if before != after:
            found.append(f"code of {'Visloom' if whose == 'visloom' else 'the recipe'}: {before} -> {after}")
    prints = old.get("data", {}), new.get("data", {})
    for name in sorted({*prints[0], *prints[1]}):
        before, after = (side.get(name, "absent") for side in prints)
        if before != after:
            found.append(f"data of {name}: {before} -> {after}")
    if old.get("seed") != new.get("seed"):
        found.append(f"seed: {old.get('seed')} -> {new.get('seed')}")
    return found


def git_state(folder: Path, end: float) -> dict[str, Any] | None:
    """Return {"commit", "changes"} of the checkout that holds `folder`, or None where there is none.

    changes: sha256 of the uncommitted changes to tracked files; None if there are none; "not determined" if git
    took longer than the moment `end` (of time.monotonic). Nothing that the checkout configures is run.
    """
    commit = _git(folder, end, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, end, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", "--")
    digest: str | None = "not determined"
    if changes is not None:
        digest = hashlib.sha256(changes).hexdigest() if changes else None
    return {"commit": commit.decode("ascii", "replace").strip(), "changes": digest}


def _git(folder: Path, end: float, *words: str) -> bytes | None:
    """Return what git prints, or None if it is absent, fails or is late."""
    safe = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *safe, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.05, end - time.monotonic()),
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _code(state: Mapping[str, Any] | None) -> str:
    if not state:
        return "no checkout"
    changes = state.get("changes")
    return str(state.get("commit"))[:12] + (f" with changes {changes[:12]}" if changes else "")


def _kind(side: Mapping[str, Any]) -> str:
    """Return `cpu`, `cuda`, ...: which one of several equal devices does not matter."""
    return str(side.get("execution", {}).get("device", "not recorded")).partition(":")[0]


def _homeless(word: str) -> str:
    """Write the home folder as `~`, because its name is usually the user's."""
    home = os.path.expanduser("~")
    return word.replace(home, "~") if len(home) > 1 else word


def _versions(device: str) -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version(), "visloom": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.distribution(name).version
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    import torch

    versions["torch"] = torch.__version__  # names the build: 2.15.0+cpu
    if device.startswith("cuda"):
        versions["cuda"] = torch.version.cuda
        versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return versions


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _device_name(device: str) -> str | None:
    """Return a GPU's model. Only for a CUDA device: asking would start CUDA."""
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        return torch.cuda.get_device_name(device)
    except (RuntimeError, AssertionError):
        return None


def _cpu_instructions() -> str:
    """Return the instruction set that torch's kernels were chosen for ("AVX2", "AVX512"): it decides rounding."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _cpu_model() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:  # not Linux
        return platform.processor() or None
    return platform.processor() or platform.machine() or None


def _cores() -> int | None:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
