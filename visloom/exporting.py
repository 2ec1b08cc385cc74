"""Export: a run's weights in the forms that other programs read, each compared with the run before it says ok."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visloom.durable import reason
from visloom.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from visloom.saved import Saved


def export_state_dict(saved: Saved, out: Path, *, original: bool = False) -> list[tuple[str, object]]:
    """Write the named tensors of a run: a .pth file in mmcv's layout ({"meta", "state_dict"}) or a .safetensors one.

    original: under the names of the system that the task's network comes from.
    Returns: rows for people.
    Raises:
        UsageError: `out` ends otherwise.  ConfigError: it exists or cannot be written, or no converter knows the task.
    """
    if out.suffix not in (".pth", ".pt", ".safetensors"):
        raise UsageError(f"a state-dict goes into a .pth or .safetensors file, got {out}")
    tensors = {name: t.detach().cpu().contiguous() for name, t in saved.task.state_dict().items()}
    name = ""
    if original:
        from visloom.convert import common

        module = common.converter_of(saved.spec)
        tensors, name = module.original(saved.spec, tensors), module.NAMES[0]
    place = refuse_existing(out)
    temporary = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    try:
        if out.suffix == ".safetensors":
            from visloom.tensorfile import pack, write

            with temporary.open("wb") as file:
                write(pack(tensors, "export"), file.write)  # type: ignore[arg-type]
        else:
            meta: dict[str, Any] = {"CLASSES": list(saved.spec.classes), "step": saved.step}
            torch.save({"meta": meta, "state_dict": tensors}, temporary)
        os.replace(temporary, place)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return [
        ("written", out),
        ("tensors", f"{len(tensors):,}" + (f", by the names of {name}" if name else "")),
    ]


def refuse_existing(out: Path) -> Path:
    """Return an absolute path at which nothing is yet, its folder made. Raises ConfigError."""
    if out.exists():
        raise ConfigError(f"{out} exists already, and nothing is overwritten: choose another --out")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {reason(error)}") from error
    return out.absolute()
