"""Several processes: what the launcher makes of their endings, and the words it takes from the command line."""

from __future__ import annotations

import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visloom import launcher
from visloom.commands.training import without
from visloom.errors import UsageError
from visloom.launcher import LastWord, judge

codes = st.sampled_from([0, 1, 2, 3, 4, 5, 75, 130, 137, 143])


@given(st.lists(codes, min_size=1, max_size=5))
def test_a_job_is_well_only_if_every_process_is(found):
    last = judge([LastWord(rank, code, str(code)) for rank, code in enumerate(found)])
    assert (last.code == 0) == all(code == 0 for code in found)
    assert last.code in found
    failed = [code for code in found if code not in (0, 75)]
    if failed:  # a failure is never hidden behind a saved run
        assert last.code in failed


def test_the_first_cause_is_told_not_its_consequences():
    words = [
        LastWord(0, 1, "RuntimeError: connection closed by peer"),
        LastWord(1, 4, "error: bad.jpg is broken"),
    ]
    last = judge(words)
    assert last.code == 4 and last.message == "[process 1 of 2] error: bad.jpg is broken"


def test_what_all_processes_say_is_said_once():
    last = judge([LastWord(rank, 3, "error: no such recipe") for rank in range(4)])
    assert last == LastWord(0, 3, "error: no such recipe")


def test_a_saved_run_is_told_by_process_0():
    last = judge([LastWord(0, 75, "stopped: saved at step 9"), LastWord(1, 75, "stopped: saved")])
    assert last == LastWord(0, 75, "stopped: saved at step 9")


@pytest.mark.parametrize("text", ["", "a", "0,", "0,0", "-1", "0;1", "0, 1"])
def test_bad_gpu_lists_are_refused(text, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UsageError, match="--gpus"):
        launcher.choose_gpus(text)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_chosen_gpus_are_the_only_ones_to_be_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert launcher.choose_gpus("0,2") == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,2"


def test_options_of_the_launcher_do_not_reach_its_processes():
    words = ["train", "--nproc", "2", "town", "--gpus=0,1", "a=1", "--nproc=3", "--data", "D"]
    assert without(words, ("--nproc", "--gpus")) == ["train", "town", "a=1", "--data", "D"]


# ------------------------------------------------------------------------------ with processes that do not train

CHILD = """
import os, signal, sys, time
from visloom.launcher import leave_word
rank = int(os.environ["RANK"])
{body}
"""


@pytest.fixture
def children(monkeypatch, tmp_path):
    """Makes `launch` start a script in place of `python -m visloom`; the script is given as text."""
    real = launcher.subprocess.Popen

    def use(body):
        script = tmp_path / "child.py"
        script.write_text(CHILD.format(body=body))
        root = os.path.dirname(os.path.dirname(launcher.__file__))

        def start(words, env, **more):
            env = {**env, "PYTHONPATH": root}
            return real([words[0], str(script), *words[3:]], env=env, **more)

        monkeypatch.setattr(launcher.subprocess, "Popen", start)

    return use


def test_processes_get_what_torchrun_would_give_them(children, tmp_path):
    children(
        "import json\n"
        "names = ['RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT']\n"
        "open(f'{sys.argv[1]}/{rank}', 'w').write(json.dumps([os.environ[n] for n in names] + sys.argv[2:]))\n"
        "leave_word(0, '')\n"
    )
    assert launcher.launch(3, [str(tmp_path), "a=1"]) == LastWord(0, 0)
    rows = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [row[:5] for row in rows] == [[str(r), str(r), "3", "3", "127.0.0.1"] for r in range(3)]
    assert len({row[5] for row in rows}) == 1 and int(rows[0][5]) > 0
    assert all(row[6:] == ["a=1"] for row in rows)


def test_a_failed_process_ends_the_job(children, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    children(
        "if rank == 1:\n    leave_word(4, 'error: bad.jpg')\n    sys.exit(4)\n"
        "time.sleep(600)\n"  # waits for the other one for ever
    )
    last = launcher.launch(2, [])
    assert last.code == 4 and "bad.jpg" in last.message


def test_what_a_process_said_counts_though_it_is_slow_to_end(children, monkeypatch):
    """It knows which process was lost; the launcher would say only how that one ended."""
    monkeypatch.setattr(launcher, "GRACE", 2.0)
    children(
        "if rank == 0:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "leave_word(6, 'error: process 0 is gone')\ntime.sleep(600)\n"
    )
    assert launcher.launch(2, []) == LastWord(1, 6, "error: process 0 is gone")


def test_a_killed_process_is_named(children, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    children("if rank == 0:\n    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)\n")
    last = launcher.launch(2, [])
    assert last.code == 137 and "SIGKILL" in last.message


def test_signals_reach_every_process_and_the_job_ends_as_they_say(children, tmp_path):
    children(
        "def leave(number, frame):\n"
        "    leave_word(75, f'stopped: {signal.Signals(number).name}')\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGUSR1, leave)\n"
        "open(f'{sys.argv[1]}/{rank}', 'w').close()\n"
        "if rank == 0:\n"
        "    while len(os.listdir(sys.argv[1])) < 3: time.sleep(0.01)\n"  # both, and this script
        "    os.kill(os.getppid(), signal.SIGUSR1)\n"
        "time.sleep(600)\n"
    )
    before = signal.getsignal(signal.SIGUSR1)
    assert launcher.launch(2, [str(tmp_path)]) == LastWord(0, 75, "stopped: SIGUSR1")
    assert signal.getsignal(signal.SIGUSR1) is before
