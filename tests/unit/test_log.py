"""What a run tells: the console with and without a terminal, log.jsonl cut at a resume, disks that are full."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visloom import words
from visloom.console import Mute, Plain, choose
from visloom.errors import DataError, UsageError
from visloom.log import Point, Teller, _cpu_clock, is_drop, read
from visloom.logfiles import Board, Lines, encode
from visloom.units import Monitor

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Collect(Mute):
    """Keeps the lines and pictures of the live block."""

    def __init__(self, live: bool = False) -> None:
        self.live, self.lines, self.pictures = live, [], []

    def line(self, line):
        self.lines.append("".join(text for text, _ in line).rstrip())

    def draw(self, lines):
        self.pictures.append(["".join(text for text, _ in line).rstrip() for line in lines])


def a_point(step: int, loss: float = 1.0, **more) -> Point:
    terms = {"ce": loss}
    return Point(step=step, losses=terms, steps=2, seconds=0.5, waited=0.01, lrs={"base": 0.1}, **more)


def tell_a_run(teller: Teller, clock: Clock, folder: Path, start: int = 0, stop: int = 8) -> None:
    """A run of 8 steps in 2 epochs: the same numbers wherever it starts."""
    for step in range(start + 1, stop + 1):
        clock.now += 0.25
        teller.tick(step)
        if step % 2 == 0:
            loss = 2.0 / step
            logs = {"accuracy": 1 - loss / 3}
            lrs = {"base": 0.1, "head": 1.0}
            teller.point(
                Point(
                    step=step,
                    losses={"ce": loss, "aux": loss / 4},
                    logs=logs,
                    lrs=lrs,
                    steps=2,
                    seconds=0.5,
                    waited=0.2 if step == 4 else 0.01,
                    memory=1_230_000_000,
                )
            )
        if step % 4 == 0:
            teller.epoch_end(step, {"ce": 0.75, "aux": 0.25}, {"accuracy": 0.5})
            teller.saved(step, folder / f"step-{step:08d}", 0.125)
            monitor = Monitor("max", "accuracy")
            values = {"loss": 3.0 / step, "accuracy": 0.1 * step}
            teller.evaluation(
                "val",
                step,
                values,
                monitor=monitor,
                best=True,
                seconds=1.25,
                baseline=("majority class", 0.1),
            )


def open_teller(folder: Path | None, clock: Clock, screen="off", **more) -> Teller:
    both = {"clock": clock, "cpu_clock": lambda: 2 * clock.now}  # two threads that are never idle
    return Teller(folder, total=8, steps_per_epoch=4, batch=16, screen=screen, **both, **more)


GOLDEN = """\
visloom 0.1.0  digits
  device  cpu (asked for auto)
  seed    0
  length  2 epochs = 8 steps of 16 samples (1 epoch = 4 steps)
  shown   means since the last log point; at an epoch's end over the epoch
  reading the data ...
  reading the data: 1.5 s
  building the model ...
step 2/8  epoch 0.50  loss 1.2500  ce 1.0000  aux 0.2500  accuracy 0.6667  lr.base 0.1  lr.head 1  64.0 img/s  wait 2%  1.2 GB  eta 1.5 s
step 4/8  epoch 1.00  loss 0.6250  ce 0.5000  aux 0.1250  accuracy 0.8333  lr.base 0.1  lr.head 1  64.0 img/s  wait 40%  1.2 GB  eta 1.0 s
  train epoch 1.00  loss 1.0000  ce 0.7500  aux 0.2500  accuracy 0.5000
  saved step-00000004  0.1 s
  val   epoch 1.00  1.2 s
    accuracy  0.4000  best (majority class 0.1000)
    loss      0.7500
step 6/8  epoch 1.50  loss 0.4167  ce 0.3333  aux 0.0833  accuracy 0.8889  lr.base 0.1  lr.head 1  64.0 img/s  wait 2%  1.2 GB  eta 0.5 s
step 8/8  epoch 2.00  loss 0.3125  ce 0.2500  aux 0.0625  accuracy 0.9167  lr.base 0.1  lr.head 1  64.0 img/s  wait 2%  1.2 GB
  train epoch 2.00  loss 1.0000  ce 0.7500  aux 0.2500  accuracy 0.5000
  saved step-00000008  0.1 s
  val   epoch 2.00  accuracy 0.8000 best  loss 0.3750 -0.3750  1.2 s
done  2 epochs (8 steps) in 3.5 s, 7.0 s of CPU, 64.0 img/s
  best        val accuracy 0.8000 at epoch 2.00; majority class 0.1000
  best model  runs/digits-000/checkpoints/step-00000008
  next        visloom predict runs/digits-000 IMAGES --out DIR
"""  # noqa: E501


def whole_run(folder: Path | None, screen) -> None:
    clock = Clock()
    with open_teller(folder, clock, screen) as teller:
        teller.header("digits", {"device": "cpu (asked for auto)", "seed": 0})
        teller.stage("reading the data")
        clock.now += 1.5
        teller.stage("building the model")
        tell_a_run(teller, clock, Path("checkpoints"))
        teller.closing(
            {"best model": "runs/digits-000/checkpoints/step-00000008"},
            "visloom predict runs/digits-000 IMAGES --out DIR",
        )


def test_without_a_terminal_a_run_reads_like_this(tmp_path, capsys):
    whole_run(tmp_path, "plain")
    assert capsys.readouterr().out == GOLDEN


def test_log_txt_holds_the_same_story_with_times(tmp_path):
    whole_run(tmp_path, "off")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    told = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO    ", "", line) for line in lines]
    assert [line.strip() for line in told] == [line.strip() for line in GOLDEN.splitlines()]


# ------------------------------------------------------------------------------------------------ a terminal

SCRIPT = """
import time
from pathlib import Path
from visloom.log import Point, Teller
with Teller(None, total=400, steps_per_epoch=200, batch=16) as teller:
    teller.stage("reading the data")
    for step in range(1, 401):
        time.sleep(0.002)
        teller.tick(step)
        if step % 100 == 0:
            teller.point(Point(step=step, losses={"ce": 1.0 / step, "a-rather-long-name-of-a-loss": 0.5},
                logs={"accuracy": 0.5, "another-long-name": 0.25, "and-a-third": 0.125}, lrs={"base": 0.1},
                steps=100, seconds=0.2))
        if step == 150:
            print("a print of the user's own")
            teller.warn("bad file: \\x1b[2J\\u202eevil.png")
        if step % 200 == 0:
            teller.working("evaluating val", 0, 10)
            teller.evaluation("val", step, {"accuracy": 0.5})
    teller.closing({}, "visloom predict RUN")
"""


def in_a_terminal(columns: int, **env: str) -> str:
    """Run SCRIPT in a pseudo-terminal and return every character that it wrote."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {
        k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    }
    settings |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT), **env}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=theirs, stderr=theirs, env=settings
    ) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode()
    assert process.returncode == 0, text
    return text


def final_screen(text: str, columns: int) -> list[str]:
    """What a terminal shows in the end: enough of one to understand rich's live block."""
    rows, row, column = [[]], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", text, re.S):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, column
            rows.extend([] for _ in range(row + 1 - len(rows)))
        elif token.startswith("\x1b["):
            if token.endswith("A"):
                row = max(0, row - int(token[2:-1] or 1))
            elif token.endswith("K"):
                rows[row] = []
            else:
                assert token[-1] in "mhl", f"unexpected control sequence {token!r}"
        else:
            assert token.isprintable(), f"control character {token!r} reached the terminal"
            line = rows[row]
            line.extend(" " * (column + 1 - len(line)))
            line[column] = token
            column += 1
            assert column <= columns, "".join(line)
    return ["".join(row).rstrip() for row in rows]


def test_on_a_terminal_the_block_is_live_and_gone_at_the_end():
    text = in_a_terminal(80)
    screen = [line for line in final_screen(text, 80) if line]
    screen[-2] = re.sub(r" in .*", "", screen[-2])
    assert screen == [
        "  reading the data",
        "a print of the user's own",
        "warning: bad file: \\x1b[2J\\u202eevil.png",
        "  val   epoch 1.00  accuracy 0.5000  0.0 s",
        "  val   epoch 2.00  accuracy 0.5000 +0.0000  0.0 s",
        "done  2 epochs (400 steps)",
        "  next  visloom predict RUN",
    ]
    assert "━" in text
    assert "evaluating val" in text
    assert "a-rather-long-name-of-a-loss" in text
    assert "\x1b[32m" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor stays hidden"


def test_a_narrow_terminal_and_no_color():
    text = in_a_terminal(46, NO_COLOR="1")
    final_screen(text, 10_000)
    assert "\x1b[32m" not in text
    assert "done" in text


def test_an_ascii_terminal_gets_an_ascii_bar():
    text = in_a_terminal(80, PYTHONIOENCODING="ascii")
    assert "━" not in text
    assert "====" in text


def test_a_dumb_terminal_gets_plain_lines():
    text = in_a_terminal(80, TERM="dumb")
    assert "\x1b" not in text
    assert "step 100/400" in text


def test_the_live_block_is_drawn_five_times_a_second_at_most():
    clock, screen = Clock(), Collect(live=True)
    with Teller(None, total=1000, steps_per_epoch=100, batch=1, screen=screen, clock=clock) as teller:
        for step in range(1, 1001):
            clock.now += 0.01
            teller.tick(step)
    assert 45 <= len(screen.pictures) <= 52
    assert "eta" in screen.pictures[-2][0]


# ------------------------------------------------------------------------------------------------- log.jsonl


def test_a_resumed_run_writes_the_same_log_jsonl(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    clock = Clock()
    with open_teller(whole, clock) as teller:
        tell_a_run(teller, clock, whole)
    with open_teller(parts, clock) as teller:
        tell_a_run(teller, clock, parts, stop=4)
        offset = teller.offset()
        tell_a_run(teller, clock, parts, start=4, stop=6)  # lost work: the checkpoint is older
    assert offset < (parts / "log.jsonl").stat().st_size
    screen = Collect()
    with open_teller(parts, clock, screen) as teller:
        teller.resume(4, offset)
        tell_a_run(teller, clock, parts, start=4)
        teller.closing({}, "nothing")
    assert (parts / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert "resumed after step 4 of 8 (epoch 1.00)" in screen.lines
    assert any("loss 0.3750 -0.3750" in line for line in screen.lines), "the value before is remembered"
    kinds = [row["kind"] for row in read(parts / "speed.jsonl")]
    assert kinds.count("start") == 2
    assert [row["step"] for row in read(parts / "speed.jsonl") if row["kind"] == "start"] == [0, 4]


def test_the_best_value_is_remembered_at_a_resume(tmp_path):
    clock = Clock()
    with open_teller(tmp_path, clock) as teller:
        tell_a_run(teller, clock, tmp_path, stop=4)
        offset = teller.offset()
    screen = Collect()
    with open_teller(tmp_path, clock, screen) as teller:
        teller.resume(4, offset)
        teller.evaluation("val", 8, {"accuracy": 0.2}, monitor=Monitor("max", "accuracy"), best=False)
        teller.closing({}, "nothing")
    assert "  val   epoch 2.00  accuracy 0.2000 (best 0.4000 at 1.00)  0.0 s" in screen.lines
    assert "  best  val accuracy 0.4000 at epoch 1.00" in screen.lines


def test_a_monitor_may_name_its_evaluation(tmp_path):
    screen = Collect()
    monitor = Monitor("max", "val/accuracy")
    with open_teller(tmp_path, Clock(), screen) as teller:
        teller.evaluation("val", 4, {"loss": 1.0, "accuracy": 0.4}, monitor=monitor, best=True)
        teller.evaluation("test", 4, {"loss": 1.0})
        offset = teller.offset()
        teller.closing({}, "nothing")
    with open_teller(tmp_path, Clock(), screen) as teller:
        teller.resume(4, offset)
        teller.closing({}, "nothing")
    assert screen.lines[0] == "  val   epoch 1.00  accuracy 0.4000 best  loss 1.0000  0.0 s"
    assert screen.lines.count("  best  val accuracy 0.4000 at epoch 1.00") == 2


def test_metrics_without_labels_are_named_and_not_shown_as_numbers(tmp_path):
    nan = math.nan
    screen = Collect()
    with open_teller(tmp_path, Clock(), screen) as teller:
        found = {"loss": 1.0, "part_miou": nan, "material_miou": 0.25, "scene_accuracy": nan}
        teller.evaluation("rooms", 4, found, monitor=Monitor("max", "part_miou"))
        teller.evaluation("broken", 4, {"loss": nan, "accuracy": nan})
    assert screen.lines[:2] == [
        "  rooms epoch 1.00  loss 1.0000  material_miou 0.2500  0.0 s",
        "    no labels for part_miou, scene_accuracy",
    ]
    assert screen.lines[2] == "  broken epoch 1.00  loss nan  accuracy nan  0.0 s"  # no excuse for it
    values = [row["values"] for row in read(tmp_path / "log.jsonl") if row["kind"] == "eval"]
    assert math.isnan(values[0]["part_miou"])


def test_log_jsonl_holds_no_time_and_speed_jsonl_does(tmp_path):
    clock = Clock()
    with open_teller(tmp_path, clock) as teller:
        tell_a_run(teller, clock, tmp_path)
        teller.skipped(8, [3, 5], "the gradient was not finite")
    keys = {key for row in read(tmp_path / "log.jsonl") for key in (*row, *row.get("values", {}))}
    assert keys == {
        *("kind", "split", "step", "epoch", "values", "lr", "best", "monitor", "steps"),
        *("loss", "loss/ce", "loss/aux", "accuracy"),
    }
    assert read(tmp_path / "log.jsonl")[-1]["steps"] == [3, 5]
    points = [row for row in read(tmp_path / "speed.jsonl") if row["kind"] == "point"]
    assert [row["images_per_second"] for row in points] == [64.0] * 4
    assert points[1]["wait_share"] == 0.4


def test_a_log_shorter_than_the_checkpoint_remembers_is_told(tmp_path):
    screen = Collect()
    with open_teller(tmp_path, Clock(), screen) as teller:
        teller.resume(4, 1000)
    assert any("remembers 1000" in line for line in screen.lines)


def test_a_torn_last_line_is_passed_over_and_never_swallows_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read(path)] == [1, 2]
    lines = Lines(path, pytest.fail)
    lines.add({"step": 3})
    lines.close()
    assert [row["step"] for row in read(path)] == [1, 2, 3]


def test_a_damaged_line_inside_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n[1]\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2 is damaged"):
        read(path)
    assert [row["step"] for row in read(path, strict=False)] == [1, 3]
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.jsonl")


@given(st.dictionaries(st.text(max_size=8), st.floats(), max_size=5))
def test_every_float_survives_the_file(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("floats") / "log.jsonl"
    path.write_text(encode({"kind": "train", "values": values}) + "\n", encoding="utf-8")
    found = read(path)[0]["values"]
    assert {k: v.hex() for k, v in found.items() if v == v} == {
        k: v.hex() for k, v in values.items() if v == v
    }
    assert {k for k, v in found.items() if v != v} == {k for k, v in values.items() if v != v}


def test_a_row_that_json_has_no_words_for_is_written_all_the_same():
    name = os.fsdecode(b"caf\xe9.png")  # a file name that is not UTF-8
    row = {"name": name, "other": "caf\u00e9", "maps": MappingProxyType({"a": (1, math.inf)}), "step": 3}
    found = encode(row).encode("utf-8")
    assert json.loads(found) == {
        "name": "caf\\udce9.png",
        "other": "caf\u00e9",
        "maps": {"a": [1, "Infinity"]},
        "step": 3,
    }
    assert json.loads(encode({"name": name}).encode("utf-8")) == {"name": "caf\\udce9.png"}
    assert encode({"other": "caf\u00e9", "step": 3}) == '{"other": "caf\u00e9", "step": 3}'


def test_non_finite_values_are_strict_json(tmp_path):
    clock = Clock()
    with open_teller(tmp_path, clock) as teller:
        teller.point(a_point(2, math.nan))
        teller.point(a_point(4, math.inf))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    raw = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["values"]["loss"] for row in raw] == ["NaN", "Infinity"]
    values = [row["values"]["loss"] for row in read(tmp_path / "log.jsonl")]
    assert math.isnan(values[0])
    assert values[1] == math.inf


# ----------------------------------------------------------------------------------------- disks that are full

FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_log import Clock, open_teller, tell_a_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))  # no file grows beyond 600 bytes
clock = Clock()
with open_teller(Path({folder!r}), clock, "plain") as teller:
    tell_a_run(teller, clock, Path("x"))
    print(teller.report())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_never_stops_training_and_is_told_once_per_file(tmp_path):
    code = FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for name in ("log.txt", "log.jsonl", "speed.jsonl", "tensorboard"):
        assert done.stdout.count(f"/{name} (") == 1, done.stdout
    assert done.stdout.count("warning: no report: OSError") == 1
    assert "step 8/8" in done.stdout
    for name in ("log.jsonl", "speed.jsonl"):
        assert (tmp_path / name).read_bytes().endswith(b"}\n"), "half a line stayed"
        assert read(tmp_path / name), name


def test_a_write_that_fails_is_tried_again(tmp_path, monkeypatch):
    told: list[str] = []
    lines = Lines(tmp_path / "log.jsonl", told.append)
    lines.add({"step": 1})
    file = lines._file

    class Full:
        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, data):
            file.write(data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines, "_file", Full())
    lines.add({"step": 2})
    lines.add({"step": 3})
    monkeypatch.setattr(lines, "_file", file)
    lines.add({"step": 4})
    assert lines.offset() == (tmp_path / "log.jsonl").stat().st_size
    lines.close()
    assert [row["step"] for row in read(tmp_path / "log.jsonl")] == [1, 4]
    assert len(told) == 1
    assert "No space left" in told[0]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    screen = Collect()
    with Teller(tmp_path / "gone", total=8, steps_per_epoch=4, batch=1, screen=screen) as teller:
        teller.point(a_point(2))
        assert teller.offset() == 0
        teller.directory.touch()  # a file where TensorBoard wants a folder
    warnings = [line for line in screen.lines if line.startswith("warning")]
    assert len([line for line in warnings if "log.jsonl" in line]) == 1
    assert len([line for line in warnings if "log.txt" in line]) == 1


def test_a_console_that_went_away_is_silent(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        screen = Plain(stream)
        screen.line([("hello", "")])
        screen.line([("again", "")])
        assert screen._broken
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # so that closing it can flush


# ------------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_reads_what_is_written_and_hides_lost_steps(tmp_path):
    import numpy as np
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    clock = Clock()
    with open_teller(tmp_path, clock) as teller:
        tell_a_run(teller, clock, tmp_path, stop=6)
        teller.pictures("val", 4, np.zeros((4, 6, 3), np.uint8))
    with open_teller(tmp_path, clock) as teller:
        teller.resume(4, 0)
        tell_a_run(teller, clock, tmp_path, start=4)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    tags = set(board.Tags()["scalars"])
    assert {"train/loss", "train/accuracy", "train_epoch/loss", "val/loss", "lr/base", "lr/head"} <= tags
    assert {"speed/images_per_second", "speed/wait_share", "speed/memory_bytes"} <= tags
    assert [event.step for event in board.Scalars("train/loss")] == [2, 4, 6, 8]
    picture = board.Images("val/predictions")[0]
    assert (picture.width, picture.height) == (6, 4)


def test_a_return_to_a_checkpoint_in_mid_run_leaves_no_trace(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    whole, back, clock = tmp_path / "whole", tmp_path / "back", Clock()
    whole.mkdir()
    back.mkdir()
    with open_teller(whole, clock) as teller:
        tell_a_run(teller, clock, whole)
    with open_teller(back, clock) as teller:
        tell_a_run(teller, clock, back, stop=4)
        offset = teller.offset()
        tell_a_run(teller, clock, back, start=4, stop=7)
        teller.resume(4, offset)
        tell_a_run(teller, clock, back, start=4)
    assert (back / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    board = EventAccumulator(str(back / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [2, 4, 6, 8]
    assert [row["kind"] for row in read(back / "speed.jsonl")].count("start") == 1


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n == "tensorboard" or n.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    told: list[str] = []
    board = Board(tmp_path / "tensorboard", told.append)
    board.scalars({"a": 1.0}, 1)
    board.scalars({"a": 1.0}, 2)
    board.close()
    assert len(told) == 1
    assert "pip install tensorboard" in told[0]


# ---------------------------------------------------------------------------------------------------- logging


def test_other_loggers_are_shown_by_level_and_reach_log_txt(tmp_path):
    screen = Collect()
    logger = logging.getLogger("visloom.loader")
    with open_teller(tmp_path, Clock(), screen, level="warning") as teller:
        teller.say("not shown")
        logger.info("worker %d started", 3)
        logger.warning("slow\x07 disk\nsecond line")
    logger.warning("after the end")
    assert screen.lines == ["warning: slow\\x07 disk", "         second line"]
    text = (tmp_path / "log.txt").read_text()
    assert "INFO    not shown" in text
    assert "worker 3 started" in text
    assert "after the end" not in text


def test_a_level_that_does_not_exist_is_named():
    with pytest.raises(UsageError, match="--log-level is one of debug, info"):
        Teller(None, total=1, steps_per_epoch=1, batch=1, level="loud")


def test_the_logger_is_left_as_it_was(tmp_path):
    logger = logging.getLogger("visloom")
    before = (logger.level, list(logger.handlers))
    teller = open_teller(tmp_path, Clock(), level="debug")
    assert (logger.level, list(logger.handlers)) != before
    teller.close()
    teller.close()
    assert (logger.level, list(logger.handlers)) == before


def test_the_silent_one_says_nothing(capfd):
    with Teller.silent() as teller:
        teller.header("x", {})
        teller.stage("y")
        teller.point(a_point(2))
        teller.warn("z")
        teller.evaluation("val", 1, {"accuracy": 1.0})
        teller.closing({}, "n")
        assert teller.offset() == 0
        assert teller.report() is None
    assert capfd.readouterr() == ("", "")


def test_a_report_that_fails_is_told_and_its_place_is_in_log_txt(tmp_path, monkeypatch):
    import visloom.report.page

    def broken(folder):
        raise ZeroDivisionError("in the page")

    monkeypatch.setattr(visloom.report.page, "write_report", broken)
    screen = Collect()
    with open_teller(tmp_path, Clock(), screen) as teller:
        assert teller.report() is None
    assert screen.lines == ["warning: no report: ZeroDivisionError: in the page; log.txt has the place"]
    assert "Traceback" in (tmp_path / "log.txt").read_text()


# ------------------------------------------------------------------------------------------------------ words


def test_many_values_become_a_table():
    screen = Collect()
    values = {f"iou/{name}": 0.125 for name in ("car", "truck", "sky", "a very long class name, really")}
    with Teller(None, total=8, steps_per_epoch=4, batch=1, screen=screen) as teller:
        teller.evaluation("val", 4, {"miou": 0.5, **values, "loss": 123456.0}, seconds=65.0)
    assert screen.lines == [
        "  val   epoch 1.00  1m05s",
        "    miou                          0.5000   iou/sky                       0.1250",
        "    iou/car                       0.1250   iou/a very long class na..    0.1250",
        "    iou/truck                     0.1250   loss                        123456.0",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0, "0"), (1.23456, "1.2346"), (0.00012345, "1.234e-04"), (123.456, "123.5"), (-2.0, "-2.0000")],
        *[(1e9, "1.000e+09"), (math.nan, "nan"), (-math.inf, "-inf")],
    ],
)
def test_numbers(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1m00s"), (3599.7, "1h00m")],
        *[(7500, "2h05m"), (90000, "1d01h"), (-1, "0.0 s")],
    ],
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


@given(st.text())
def test_safe_text_is_one_harmless_line(text):
    shown = words.safe(text)
    assert len(shown.splitlines()) <= 1
    assert all(c.isprintable() or c.isspace() for c in shown)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert words.safe(shown) == shown


@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.integers(30, 120))
def test_lines_fit_where_cells_do(names, room):
    cells = [words.cell(name, "0.1234") for name in names]
    for line in words.flow(cells, room, "  head  ", "  "):
        size = sum(words.width(text) for text, _ in line)
        assert size <= room or len(line) == 4, "only a single cell may stand out"


@given(st.text(max_size=40), st.integers(2, 30))
def test_shortened_text_fits(text, room):
    assert words.width(words.shorten(text, room)) <= max(
        room, words.width(text) if words.width(text) <= room else 0
    )


def test_sparkline():
    assert words.sparkline([3, 2, math.nan, 1], 10) == "█▅▁"
    assert words.sparkline([1.0], 10) == ""
    assert words.sparkline([1.0, 1.0], 10) == "▁▁"
    assert len(words.sparkline(range(100), 10)) == 10


def test_a_step_of_the_learning_rate_is_told_from_a_smooth_fall():
    assert is_drop(0.1, 0.1, 0.01)
    assert not is_drop(0.1, 0.1, 0.095)
    assert not is_drop(0.003, 0.002, 0.001)  # the end of a linear decay
    assert not is_drop(0.1, 0.1, 0.2)
    assert not is_drop(0.0, 0.0, 0.0)


def test_which_screen(monkeypatch):
    assert isinstance(choose("off"), Mute)
    assert isinstance(choose("auto"), Plain)  # under pytest, standard output is no terminal
    monkeypatch.setattr(sys, "stdout", None)  # pythonw on Windows
    screen = choose("auto")
    assert isinstance(screen, Plain)


def test_cpu_time_counts_children_that_ended():
    before = _cpu_clock()
    busy = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert _cpu_clock() - before > 0.25
