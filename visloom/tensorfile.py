"""Tensor files: named tensors in one safetensors file, bit for bit, with memory layout and ties.

    pack(tensors, where)     checks every tensor and finds ties; copies nothing
    Buffers().copy(pack)     a snapshot in host memory that is reused from save to save
    write(pack, sink)        the safetensors format: header length, JSON header, raw bytes
    read(path)               the tensors again, on the CPU

The bytes are written here rather than by the library so that they can be hashed as they pass and so that a
full disk is an OSError; they are read by the library, which checks every bound. Any safetensors reader can
open the files. What it does not know is in the header's metadata, under "visloom": the order of the names,
the strides of tensors that are not row-major (channels_last weights), and which names share one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from visloom.errors import CheckpointError

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


@dataclass(frozen=True)
class Pack:
    """Tensors ready to be written.

    order: every name, as given.  tensors: each distinct tensor once, under its first name, detached.
    ties: further name -> first name of the tensor it shares.
    """

    order: tuple[str, ...]
    tensors: dict[str, Tensor]
    ties: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of the file that `write` makes."""
        return len(_header(self)) + sum(t.numel() * t.element_size() for t in self.tensors.values())


def pack(tensors: Mapping[str, Tensor], where: str) -> Pack:
    """Check tensors for writing and find which names share one tensor. Nothing is copied.

    Two names are tied when they are the same view of the same storage. Different views of one storage are
    stored apart and come back apart.

    Raises:
        CheckpointError: something cannot be stored; names `where/name`, what it is and what to do.
    """
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        checked = _check(name, tensor, f"{where}/{name}")
        view = (checked.data_ptr(), checked.device, checked.dtype, tuple(checked.shape), checked.stride())
        if checked.numel() and view in first:
            ties[name] = first[view]
            continue
        first[view] = name
        kept[name] = checked
    return Pack(tuple(tensors), kept, ties)


def _check(name: Any, tensor: Any, place: str) -> Tensor:
    """Return the tensor detached, or raise CheckpointError saying why it cannot be stored."""
    if not isinstance(name, str) or name == "__metadata__" or not name.isprintable():
        raise CheckpointError(f"{place}: a tensor's name must be printable text other than __metadata__")
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"{place}: expected a tensor, got {type(tensor).__name__}; plain values go into data"
        )
    tensor = tensor.detach()
    problem = ""
    if type(tensor) is not Tensor:
        problem = f"a {type(tensor).__name__}, not a plain tensor"
    elif tensor.layout is not torch.strided or tensor.is_quantized:
        problem = f"a {'quantized' if tensor.is_quantized else tensor.layout} tensor, not a dense one"
    elif tensor.device.type == "meta":
        problem = "on the meta device: it has no values"
    elif tensor.dtype not in _CODES:
        problem = f"{tensor.dtype}, which safetensors does not hold"
    if problem:
        raise CheckpointError(
            f"{place} cannot be stored: it is {problem}. Convert it to a plain dense tensor first"
        )
    plain: Tensor = tensor.resolve_conj().resolve_neg()
    return plain


class Buffers:
    """Host memory for snapshots, kept from save to save: a save costs one memory copy and no allocation."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Tensor] = {}

    def copy(self, packs: Mapping[str, Pack]) -> dict[str, Pack]:
        """Copy every tensor of `packs` (file stem -> Pack) into host memory; then the originals may change.

        Copies from a GPU go into pinned memory, all at once, and are waited for together. Buffers of names
        that are gone are given back.
        """
        held: dict[tuple[str, str], Tensor] = {}
        devices: set[torch.device] = set()
        copies: dict[str, Pack] = {}
        for stem, item in packs.items():
            for name, tensor in item.tensors.items():
                buffer = held[stem, name] = _buffer(tensor, self._held.get((stem, name)))
                buffer.copy_(tensor, non_blocking=tensor.is_cuda)
                if tensor.is_cuda:
                    devices.add(tensor.device)
            copies[stem] = Pack(item.order, {name: held[stem, name] for name in item.tensors}, item.ties)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        self._held = held
        return copies

    def clear(self) -> None:
        """Give the memory back."""
        self._held = {}


def _buffer(tensor: Tensor, old: Tensor | None) -> Tensor:
    """Return host memory like `tensor`, with its strides where they leave no gaps; `old` if that fits."""
    stride = tensor.stride() if is_dense(tensor.shape, tensor.stride()) else _row_major(tensor.shape)
    if old is not None and (old.shape, old.dtype, old.stride()) == (tensor.shape, tensor.dtype, stride):
        return old
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Say whether a shape and strides fill one block of memory: no gaps, no overlaps, axes in any order."""
    step = 1
    for hop, size in sorted((hop, size) for hop, size in zip(stride, shape) if size != 1):
        if hop != step:
            return False
        step *= size
    return True


def _header(item: Pack) -> bytes:
    """Return the length-prefixed header.

    Widest items come first, so that every tensor is aligned in the file.
    """
    layout: dict[str, Any] = {"order": list(item.order)}
    strides = {
        name: list(t.stride())
        for name, t in item.tensors.items()
        if t.numel() and t.stride() != _row_major(t.shape) and is_dense(t.shape, t.stride())
    }
    if strides:
        layout["strides"] = strides
    if item.ties:
        layout["ties"] = item.ties
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "visloom": json.dumps(layout)}}
    offset = 0
    for name in _file_order(item):
        tensor = item.tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _file_order(item: Pack) -> list[str]:
    return sorted(item.tensors, key=lambda name: -item.tensors[name].element_size())


def write(item: Pack, sink: Callable[[bytes | memoryview], None]) -> None:
    """Pass the bytes of the file to `sink`, in order: the header, then one call per tensor.

    Values are stored row-major whatever the tensor's strides are, so that any reader sees the true shape.
    """
    sink(_header(item))
    for name in _file_order(item):
        tensor = item.tensors[name].contiguous().cpu()
        # Not reshape: an axis of size 0 or 1 may keep a stride that is not 1, and then has no view as bytes.
        flat = tensor.as_strided((tensor.numel(),), (1,))
        sink(flat.view(torch.uint8).numpy().data)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file: in memory of their own, on the CPU, names in order.

    Tied names hold the same tensor object. Files of other programs come back row-major, in file order.

    Raises:
        ValueError: the file is no safetensors file, or its layout notes are not consistent.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            # A copy: otherwise the tensor is a window into the file, which retention may delete.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            notes = (file.metadata() or {}).get("visloom")
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    if notes is None:
        return found
    try:
        layout = json.loads(notes)
        for name, stride in layout.get("strides", {}).items():
            found[name] = _restride(found[name], stride)
        for name, canonical in layout.get("ties", {}).items():
            found[name] = found[canonical]
        return {name: found[name] for name in layout["order"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"its layout notes do not fit its tensors ({type(error).__name__}: {error})"
        ) from error


def _restride(tensor: Tensor, stride: list[int]) -> Tensor:
    if len(stride) != tensor.ndim or not is_dense(tensor.shape, stride):
        raise ValueError(f"strides {stride} do not fit a tensor of shape {tuple(tensor.shape)}")
    return torch.empty_strided(tuple(tensor.shape), stride, dtype=tensor.dtype).copy_(tensor)
