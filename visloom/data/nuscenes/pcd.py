"""Radar files of nuScenes: `.pcd` version 0.7 in binary form, 43 bytes a return; other writers' text too.

The header says which fields there are, how large, and how many returns; all of it is checked against the
file before any
number is believed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.errors import DataError

FIELDS = (
    "x", "y", "z", "dyn_prop", "id", "rcs", "vx", "vy", "vx_comp", "vy_comp", "is_quality_valid", "ambig_state",
    "x_rms", "y_rms", "invalid_state", "pdh0", "vx_rms", "vy_rms",
)  # fmt: skip
_NEEDED = ("x", "y", "z", "dyn_prop", "rcs", "vx_comp", "vy_comp", "ambig_state", "invalid_state")
_HEADER = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_KINDS = {"F": "f", "I": "i", "U": "u"}


def read_pcd(file: Path) -> NDArray[Any]:
    """Read all returns: a structured array with the fields of the header, empty if there is none.

    Raises:
        DataError: the file cannot be read, its header is not one of these, or its size does not fit its header.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: the radar file cannot be read: {error.strerror or error}") from error
    header, start = _header(file, raw)
    kind = _dtype(file, header)
    width, height, points = (_number(file, header, name) for name in ("WIDTH", "HEIGHT", "POINTS"))
    if height != 1 or width != points:
        raise DataError(
            f"{file}: WIDTH {width}, HEIGHT {height} and POINTS {points} do not fit: one row of points is read"
        )
    if header["DATA"] == ["ascii"]:
        returns = _rows(file, raw[start:], kind, points)
    elif len(raw) - start < points * kind.itemsize:
        raise DataError(
            f"{file}: the radar file is truncated: {points} returns of {kind.itemsize} bytes need "
            f"{points * kind.itemsize:,} bytes after the header, there are {len(raw) - start:,}"
        )
    else:
        returns = np.frombuffer(raw, kind, points, start)
    if points and np.isnan(returns["x"][0]):  # how nuScenes writes that nothing was seen
        return returns[:0]
    return returns


def _rows(file: Path, raw: bytes, kind: np.dtype[Any], points: int) -> NDArray[Any]:
    """Returns that are written as text, one a line."""
    rows = [words for line in raw.decode("ascii", "replace").splitlines() if (words := line.split())]
    assert kind.names is not None
    if len(rows) < points:
        raise DataError(
            f"{file}: the radar file is truncated: POINTS says {points} returns, it has {len(rows)} lines"
        )
    returns = np.zeros(points, kind)
    for number, words in enumerate(rows[:points]):
        try:
            returns[number] = tuple(np.float64(word) for word in words)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{file}: return {number + 1} is not {len(kind.names)} numbers: {' '.join(words)[:80]}"
            ) from error
    return returns


def _header(file: Path, raw: bytes) -> tuple[dict[str, list[str]], int]:
    """The header's words by name, and where the data begin."""
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = raw.find(b"\n", at, at + 4096)
        if end < 0:
            raise DataError(
                f"{file}: the header of the radar file ends without a DATA line: it is cut off, or no pcd file"
            )
        words = raw[at:end].decode("ascii", "replace").split()
        at = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in _HEADER:
            raise DataError(
                f"{file}: the header of the radar file has a line {words[0][:20]!r}; expected {', '.join(_HEADER)}"
            )
        header[words[0]] = words[1:]
    missing = [name for name in _HEADER if name not in header]
    if missing:
        raise DataError(f"{file}: the header of the radar file has no {', '.join(missing)}")
    if header["DATA"] not in (["binary"], ["ascii"]):
        raise DataError(
            f"{file}: radar files are DATA binary or ascii, this one is {' '.join(header['DATA'])}"
        )
    return header, at


def _dtype(file: Path, header: dict[str, list[str]]) -> np.dtype[Any]:
    names, sizes, types, counts = (header[name] for name in ("FIELDS", "SIZE", "TYPE", "COUNT"))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise DataError(
            f"{file}: FIELDS, SIZE, TYPE and COUNT have {len(names)}, {len(sizes)}, {len(types)}, {len(counts)} words"
        )
    lacking = [name for name in _NEEDED if name not in names]
    if lacking:
        raise DataError(
            f"{file}: the radar file has no field {', '.join(lacking)}; it has {', '.join(names)}"
        )
    try:
        if set(counts) != {"1"}:
            raise ValueError(f"COUNT {' '.join(counts)}")
        return np.dtype([(n, f"<{_KINDS[t]}{int(s)}") for n, s, t in zip(names, sizes, types, strict=True)])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: the radar file's fields cannot be read: {error}") from error


def _number(file: Path, header: dict[str, list[str]], name: str) -> int:
    try:
        value = int(header[name][0])
    except (IndexError, ValueError):
        value = -1
    if value < 0:
        raise DataError(
            f"{file}: {name} of the radar file is {' '.join(header[name]) or 'empty'}, expected a number"
        )
    return value


def usable(returns: NDArray[Any]) -> NDArray[np.bool_]:
    """Which returns nuScenes' default filters keep, and those that are not the car's own: (N,).

    invalid_state 0, dyn_prop 0 to 6, ambig_state 3; not within a metre of the radar in x and y.
    """
    own = (np.abs(returns["x"]) < 1) & (np.abs(returns["y"]) < 1)
    moving = (returns["dyn_prop"] >= 0) & (returns["dyn_prop"] <= 6)
    return np.asarray((returns["invalid_state"] == 0) & moving & (returns["ambig_state"] == 3) & ~own)


def write_pcd(file: Path, returns: NDArray[Any]) -> None:
    """Write returns (a structured array with `DTYPE`) as nuScenes does, an empty cloud as one return of NaN.

    nuscenes-devkit wants a byte after the last return.
    """
    if not len(returns):
        returns = np.zeros(1, DTYPE)
        returns["x"] = np.nan
    kinds = [np.dtype(DTYPE[name]) for name in FIELDS]
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(FIELDS)}",
        f"SIZE {' '.join(str(kind.itemsize) for kind in kinds)}",
        f"TYPE {' '.join('F' if kind.kind == 'f' else 'I' for kind in kinds)}",
        f"COUNT {' '.join('1' for _ in FIELDS)}",
        f"WIDTH {len(returns)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(returns)}",
        "DATA binary",
        "",
    ]
    file.write_bytes("\n".join(lines).encode("ascii") + returns.astype(DTYPE).tobytes() + b"\n")


DTYPE = np.dtype(
    list(
        zip(
            FIELDS,
            [
                "<f4",
                "<f4",
                "<f4",
                "i1",
                "<i2",
                "<f4",
                "<f4",
                "<f4",
                "<f4",
                "<f4",
                "i1",
                "i1",
                "i1",
                "i1",
                "i1",
                "i1",
                "i1",
                "i1",
            ],
            strict=True,
        )
    )
)
