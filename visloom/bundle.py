"""One checkpoint: a directory of files that can prove that it is whole.

    step-00012000/
      model.safetensors    one file per group of tensors: model, optim, ema, meters, ...
      optim.safetensors
      state.json           everything that is no tensor
      manifest.json        format version, step, size and sha256 of every other file, sha256 of itself

`prepare` refuses what cannot be stored before anything is written; `fill` writes a directory, the manifest
last; `verify` says what is wrong with one; `read` reads one. How directories appear, are chosen and go is
`visloom/checkpoint.py`. Importing this file does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom import faults
from visloom.durable import reason, sync_dir
from visloom.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from visloom.tensorfile import Pack

FORMAT = 1
CHUNK = 4 << 20  # bytes hashed and written at a time
DEPTH = 100  # levels that state.json may be nested
_BITS = 10_000  # of an integer: Python reads back at most 4300 digits

_NAME = re.compile(r"step-([0-9]{8,18})")
_STEM = re.compile(r"[a-z][a-z0-9_]*")
_FILE = re.compile(r"[a-z][a-z0-9_]*\.safetensors|state\.json")

Sink = Callable[[bytes | memoryview], None]


@dataclass
class State:
    """What one checkpoint holds.

    step: updates done.  tensors: file stem ("model", "optim", "ema", ...) -> name -> tensor, any device.
    data: JSON values only: dict with text keys, list, str, int, float (NaN and infinities too), bool, None.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A state that is known to be storable: its tensors by file stem, and the text of state.json."""

    step: int
    packs: dict[str, Pack]
    text: str

    @property
    def nbytes(self) -> int:
        """Bytes that the directory takes, the manifest rounded up."""
        manifest = 200 + 150 * (len(self.packs) + 1)
        return sum(item.nbytes for item in self.packs.values()) + len(self.text) + manifest


def step_name(step: int) -> str:
    """Return the directory name of a step: `step-00012000`."""
    return f"step-{step:08d}"


def parse_step(name: str) -> int | None:
    """Return the step of a directory name, or None if it is not one."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


# -- writing -------------------------------------------------------------------------------------------------


def prepare(state: State) -> Prepared:
    """Check a state and make it ready for `fill`; copies no tensor.

    Raises CheckpointError naming the first thing that would not come back as it is, by its path.
    """
    from visloom.tensorfile import pack

    if isinstance(state.step, bool) or not isinstance(state.step, int) or not 0 <= state.step < 10**18:
        raise CheckpointError(f"a checkpoint's step must be a whole number from 0, got {state.step!r}")
    for stem in state.tensors:
        if not _STEM.fullmatch(stem):
            raise CheckpointError(f"tensors: {stem!r} cannot be a file name; use small letters, digits and _")
    if not isinstance(state.data, dict):
        raise CheckpointError(f"data: expected a dict, got {type(state.data).__name__}")
    for problem in _not_json(state.data, "data", DEPTH):
        raise CheckpointError(f"{problem}. A checkpoint holds tensors and JSON values only")
    packs = {stem: pack(tensors, f"tensors/{stem}") for stem, tensors in state.tensors.items()}
    # ASCII, because a lone surrogate has no UTF-8; NaN and Infinity as Python's json writes and reads them.
    return Prepared(state.step, packs, json.dumps(state.data, indent=1) + "\n")


def _not_json(value: Any, place: str, depth: int) -> Iterator[str]:
    """Yield what would not come back from JSON as it is, by place."""
    if value is None or isinstance(value, str | bool | float):
        return
    if isinstance(value, int):
        if value.bit_length() > _BITS:
            yield f"{place}: a whole number of {value.bit_length()} bits"
    elif depth == 0:
        yield f"{place}: nested more than {DEPTH} levels, or inside itself"
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield from _not_json(item, f"{place}.{key}", depth - 1)
            else:
                yield f"{place}: the key {key!r} is {type(key).__name__}, not text"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_json(item, f"{place}[{index}]", depth - 1)
    elif isinstance(value, tuple):
        yield f"{place}: a tuple, which would come back as a list; write a list"
    else:
        yield f"{place}: {type(value).__name__} is not a JSON type"


def fill(place: Path, prepared: Prepared) -> None:
    """Write every file of a checkpoint into an empty directory, the manifest last, and make it all durable.

    Raises OSError when the disk does not take it; the directory is then of no use.
    """
    from visloom.tensorfile import write

    files = {}
    for stem, item in prepared.packs.items():
        name = f"{stem}.safetensors"
        files[name] = _write_file(place / name, partial(write, item))
    text = prepared.text.encode("ascii")
    files["state.json"] = _write_file(place / "state.json", lambda sink: sink(text))
    faults.point("manifest")
    with (place / "manifest.json").open("xb") as file:
        file.write(_manifest_bytes({"format": FORMAT, "step": prepared.step, "files": files}))
        file.flush()
        os.fsync(file.fileno())
    sync_dir(place)


def _write_file(path: Path, produce: Callable[[Sink], None]) -> dict[str, Any]:
    """Let `produce` write a file durably through a sink; return its size and sha256, taken in passing."""
    faults.point(f"before-file/{path.name}")
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:

        def sink(data: bytes | memoryview) -> None:
            nonlocal size
            for start in range(0, len(data), CHUNK):
                piece = data[start : start + CHUNK]
                file.write(piece)
                digest.update(piece)
                before, size = size, size + len(piece)
                if before == 0 or before // CHUNK != size // CHUNK:
                    faults.point(f"chunk/{path.name}")

        produce(sink)
        file.flush()
        os.fsync(file.fileno())
    faults.point(f"after-file/{path.name}")
    return {"size": size, "sha256": digest.hexdigest()}


def _manifest_bytes(body: dict[str, Any]) -> bytes:
    """Return the manifest's file: `body` and its own sha256.

    The rule is the same for every format, so that damage can be told from novelty.
    """
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1) + "\n").encode()


# -- reading -------------------------------------------------------------------------------------------------


def read_manifest(place: Path, step: int | None = None) -> dict[str, Any]:
    """Return a checkpoint's manifest after checking it against itself, and against the step it should be of.

    Raises:
        OSError: it is missing or unreadable.
        ValueError: it is damaged; says how.
        CheckpointError: it has a format that this release does not know.
    """
    raw = (place / "manifest.json").read_bytes()
    try:
        manifest = json.loads(raw)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        sound = _manifest_bytes(body) == raw
    except (ValueError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(f"manifest.json ({len(raw):,} bytes) is damaged: it does not match its own sha256")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{place} has checkpoint format {manifest.get('format')}, this release reads {FORMAT}: "
            "use the release that wrote it, or a newer one"
        )
    files = manifest.get("files")
    if not isinstance(manifest.get("step"), int) or not isinstance(files, dict) or "state.json" not in files:
        raise ValueError("manifest.json does not list a step and its files")
    if step is not None and manifest["step"] != step:
        raise ValueError(f"manifest.json is that of step {manifest['step']}")
    if not all(_FILE.fullmatch(name) and isinstance(entry, dict) for name, entry in files.items()):
        raise ValueError("manifest.json names a file that is not part of a checkpoint")
    return dict(manifest)


def verify(place: Path, step: int | None = None) -> str:
    """Return what is wrong with a checkpoint directory, naming the file and its sizes, or "" if it is sound.

    Raises CheckpointError if it has a format that this release does not know.
    """
    try:
        for name, entry in read_manifest(place, step)["files"].items():
            size = (place / name).stat().st_size
            if size != entry.get("size"):
                return f"{name} has {size:,} bytes, the manifest says {entry.get('size')}"
            with (place / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != entry.get("sha256"):
                return f"{name} ({size:,} bytes) has changed since it was written: its sha256 differs"
    except FileNotFoundError as error:
        return f"{Path(error.filename or place).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or place).name} cannot be read: {reason(error)}"
    except ValueError as error:
        return str(error)
    return ""


def read(place: Path) -> State:
    """Read a directory that `verify` has found sound; tensors come back on the CPU.

    Raises ValueError, OSError.
    """
    manifest = read_manifest(place)
    stems = [Path(name).stem for name in manifest["files"] if name.endswith(".safetensors")]
    try:
        data = json.loads((place / "state.json").read_bytes())
    except RecursionError as error:
        raise ValueError("state.json is nested too deep") from error
    if not isinstance(data, dict):
        raise ValueError("state.json is no JSON object")
    return State(manifest["step"], {stem: read_tensors(place, stem) for stem in stems}, data)


def read_tensors(place: Path, stem: str) -> dict[str, Tensor]:
    """Return one group of tensors of a directory that `verify` has found sound.

    Raises ValueError, OSError.
    """
    from visloom import tensorfile

    return tensorfile.read(place / f"{stem}.safetensors")
