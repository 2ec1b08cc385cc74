"""The files a run writes as it goes: log.jsonl (what happened), speed.jsonl (how fast), TensorBoard, log.txt.

log.jsonl holds only what an uninterrupted run and a resumed one share, so the two end byte for byte equal;
times, speeds and memory go to speed.jsonl. A disk that is full or gone never stops training: each file says
so once.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from visloom.errors import DataError

Warn = Callable[[str], None]
"""Tells the user one sentence."""

_SPELLING = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_NUMBERS = ("values", "lr")  # maps of a row whose entries are numbers, whatever their spelling


def encode(row: Mapping[str, Any]) -> str:
    """Return a row as one line of strict JSON, without the line's end.

    Floats keep all their digits. JSON has no word for the non-finite ones: they are written as the strings
    "NaN", "Infinity" and "-Infinity", which `float` reads in Python and `Number` in JavaScript.
    """
    try:  # nearly every row can be written as it is, and every log point writes two
        line = _STRICT.encode(row)
        if not line.isascii():
            line.encode("utf-8")  # a lone surrogate cannot be
    except (TypeError, ValueError):
        line = _STRICT.encode(_plain(row))
    return line


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):  # a lone surrogate (a file name that is not UTF-8) cannot be written as UTF-8
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def read(path: Path | str, *, strict: bool = True) -> list[dict[str, Any]]:
    """Return the rows of a log.jsonl or speed.jsonl, in order, with non-finite numbers as floats again.

    A last line that has no end is what a kill in mid-write leaves: it is passed over. Another damaged line
    raises DataError with its number, or is passed over too with `strict=False`.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is empty, or torn
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            if strict:
                raise DataError(f"{path}: line {number} is damaged ({error})") from error
            continue
        for name in _NUMBERS:
            if isinstance(row.get(name), dict):
                row[name] = {
                    k: _SPELLING.get(v, v) if isinstance(v, str) else v for k, v in row[name].items()
                }
        rows.append(row)
    return rows


class Lines:
    """A file of JSON lines that is only ever added to, or cut back to an offset that a checkpoint remembers.

    Every line is handed to the system at once, whole. An OSError is told once through `warn`; the line is
    lost, what part of it reached the disk is taken back, and the next line is tried again.
    """

    def __init__(self, path: Path, warn: Warn) -> None:
        self.path, self._warn, self._told = path, warn, False
        self._file: FileIO | None = None
        self._end = 0
        self._lock = threading.RLock()  # checkpoints are written, and told of, by a thread of their own
        try:
            self._file = FileIO(path, "a+b")
            self._end = _end_of_last_line(self._file)
            self._file.truncate(self._end)  # a torn last line would swallow the next one
        except OSError as error:
            self._fail(error)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        data = encode(row).encode("utf-8") + b"\n"
        with self._lock:
            if self._file is None:
                return
            try:
                written = self._file.write(data)
                if written != len(data):  # what a full disk looks like when a part still fitted
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._end += len(data)
            except OSError as error:
                self._fail(error)

    def offset(self) -> int:
        """Return the size of the file in bytes once everything in it is safe on the disk."""
        with self._lock:
            if self._file is not None:
                try:
                    os.fsync(self._file.fileno())
                except OSError as error:
                    self._fail(error)
            return self._end

    def cut(self, offset: int) -> None:
        """Forget what was written after `offset`, which a run that resumes writes again."""
        if offset > self._end:
            self._warn(
                f"{self.path} has {self._end} bytes where the checkpoint remembers {offset}: a part of "
                f"the log is lost, the run itself is not"
            )
            return
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.truncate(offset)
                self._end = offset
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Close the file; further rows are lost without a word."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fail(self, error: OSError) -> None:
        if self._file is not None:
            try:  # truncating works on a full disk
                self._file.truncate(self._end)
            except OSError:
                self.close()
        if not self._told:
            self._told = True
            self._warn(f"cannot write {self.path} ({error.strerror or error}); training goes on without it")


def _end_of_last_line(file: FileIO, chunk: int = 65536) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - chunk)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


class Board:
    """TensorBoard event files, written at once and without a thread. Opened at the first value."""

    def __init__(self, directory: Path, warn: Warn) -> None:
        self._directory, self._warn = directory, warn
        self._after: int | None = None
        self._records: Any = None
        self._gone = False

    def restart(self, after: int) -> None:
        """Go on in a new file after this step; TensorBoard hides what it has of later ones."""
        self.close()
        self._after = after

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one number per tag."""
        if self._gone or not values:
            return
        summary = self._protos()[1]
        if summary is not None:
            items = [summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._write(step=step, summary=summary.Summary(value=items))

    def picture(self, tag: str, image: Any, step: int) -> None:
        """Write one picture: a PIL image or an (H, W, 3) uint8 RGB array."""
        if self._gone:
            return
        from io import BytesIO

        from PIL import Image

        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        buffer = BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
        summary = self._protos()[1]
        if summary is not None:
            content = summary.Summary.Image(
                height=picture.height,
                width=picture.width,
                colorspace=3,
                encoded_image_string=buffer.getvalue(),
            )
            self._write(
                step=step, summary=summary.Summary(value=[summary.Summary.Value(tag=tag, image=content)])
            )

    def close(self) -> None:
        """Close the event file."""
        if self._records is not None:
            records, self._records = self._records, None
            try:
                records.close()
            except OSError as error:
                self._fail(f"cannot write {self._directory} ({error.strerror or error})")

    def _protos(self) -> tuple[Any, Any]:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
        except ImportError as error:
            self._fail(
                f"TensorBoard files are not written: {error}; `pip install tensorboard`, or set "
                f"log.tensorboard=false"
            )
            return None, None
        return event_pb2, summary_pb2

    def _write(self, **content: Any) -> None:
        event = self._protos()[0]
        try:
            if self._records is None:
                self._open(event)
            self._records.write(event.Event(wall_time=time.time(), **content).SerializeToString())
            self._records.flush()
        except OSError as error:
            # A record that is half on the disk makes the rest of this file unreadable: no more of it.
            self._fail(
                f"cannot write {self._directory} ({error.strerror or error}); training goes on without it"
            )
            self.close()

    def _open(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((self._directory / name).open("xb"))
        version = event.Event(wall_time=time.time(), file_version="brain.Event:2")
        self._records.write(version.SerializeToString())
        if self._after is not None:
            start = event.SessionLog(status=event.SessionLog.START)
            purge = event.Event(wall_time=time.time(), step=self._after + 1, session_log=start)
            self._records.write(purge.SerializeToString())

    def _fail(self, why: str) -> None:
        if not self._gone:
            self._gone = True
            self._warn(why)


class LogText(logging.FileHandler):
    """log.txt: what the logger "visloom" and the loggers below it say, one record a line, with its time."""

    def __init__(self, path: Path, warn: Warn) -> None:
        super().__init__(path, mode="a", encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        self._warn, self._told = warn, False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a file that cannot be opened is answered like one that cannot be written."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the file cannot be written; a fault in a message keeps logging's own report."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._fail(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file; what is still unwritten is then lost."""
        try:
            super().close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._warn(
                f"cannot write {self.baseFilename} ({error.strerror or error}); training goes on without it"
            )
