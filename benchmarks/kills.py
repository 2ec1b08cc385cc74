"""Kills: SIGKILL a training many times, resume it each time, and compare how it ends with a run left alone.

    python benchmarks/kills.py                            100 kills of the handwritten digits: some minutes
    python benchmarks/kills.py --kills 20 --runs 1
    python benchmarks/kills.py --spawn --recipe cifar10 --data data how.precision=bf16 length=epochs:4

Kills come while a checkpoint is being written, at fault points (before the first checkpoint, inside an evaluation, at
the naming of the best one, ...) and at random moments. The number of data workers changes from life to life. The table
goes to docs/kills.md; the exit code is 1 if a run ended differently. `visloom prove-resume` does this for one run.
Each life is a process of its own that is forked from this one, for importing torch takes longer than the run does;
`--spawn` starts an interpreter for each.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from visloom.prove import Moment, Plan, Process, Proof, prove, spawn

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (  # bf16, accumulation, average and mixup; saves, evaluations and log points fall together and apart
    "how.precision=bf16",
    "how.accumulate=2",
    "task.net.widths=[8,16]",
    "task.net.samples=100",
    "length=steps:150",
    "save.every=steps:3",
    "evals.val.every=steps:4",
    "evals.val.monitor=min loss",
    "log.every=steps:5",
    "log.tensorboard=false",
    "log.report=false",
    "log.images=0",
    "host.threads=1",
)
WRITE, ANY = "in a write", "any time"
_WORDS: dict[Moment, str] = {
    WRITE: "the write of a checkpoint",
    ANY: "a random moment",
    "before-first-checkpoint": "before the first checkpoint of a life",
    "evaluation-batch": "an evaluation",
    "evaluation": "the end of an evaluation",
    "best-save": "the naming of the best checkpoint",
    "after-rename": "a checkpoint in place, not yet synced",
    "before-latest": "before `latest` is written",
    "prune": "the deletion of an old checkpoint",
    "step": "the end of a step",
}


@dataclass(frozen=True)
class Round:
    """One run that was killed, the data workers of its lives in turn, and how long it took."""

    workers: tuple[int, ...]
    proof: Proof
    seconds: float


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not options.spawn:
        _warm_up()
    rounds = []
    for number, kills in enumerate(_shares(options.kills, options.runs)):
        workers = tuple(
            options.workers[number % len(options.workers) :]
            + options.workers[: number % len(options.workers)]
        )
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="visloom-kills-", dir=options.folder) as folder:
            plan = Plan(
                recipe=options.recipe,
                settings=_settings(options),
                options=("--data", options.data) if options.data else (),
                kills=kills,
                seed=options.seed + number,
                folder=Path(folder),
                moments=moments(number),
                workers=workers,
                start=spawn if options.spawn else fork,
            )  # fmt: skip
            print(f"run {number + 1} of {options.runs}: {kills} kills, data workers {workers} in turn")
            proof = prove(plan, lambda text: print(f"  {text}", flush=True))
        rounds.append(Round(workers, proof, time.monotonic() - began))
        print(f"  {_end(rounds[-1])} after {rounds[-1].seconds:.0f} s", flush=True)
    text = page(options, rounds)
    print(text)
    if options.table:
        Path(options.table).write_text(text, encoding="utf-8")
    return 0 if all(each.proof.identical for each in rounds) else 1


def moments(number: int) -> tuple[Moment, ...]:
    """The kinds of twenty kills of one run: twelve in writes, four at random moments, four at fault points."""
    others = ("evaluation", "prune", "before-latest", "after-rename", "step@2")
    points = ("before-first-checkpoint", "evaluation-batch@2", "best-save", others[number % len(others)])
    return tuple(kind for point in points for kind in (point, WRITE, ANY, WRITE, WRITE))


# ------------------------------------------------------------------------------------------------------ processes


def _warm_up() -> None:
    """Import what every life needs; starts no thread, which a fork would lose."""
    import sklearn.datasets
    import torch

    import visloom.commands.training
    import visloom.drive
    import visloom.recipes.digits
    import visloom.tasks.classify  # noqa: F401

    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch
    sklearn.datasets.load_digits()


@dataclass
class Forked:
    """A forked process: what `subprocess.Popen` tells of one."""

    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(0.002)
        return code


def fork(words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> Process:
    """Start `visloom WORDS` in a fork of this process: its own process group, session and output."""
    pid = os.fork()
    if pid:
        return Forked(pid)
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from visloom import faults
        from visloom.cli import main as command

        faults.arm(os.environ.get("VISLOOM_FAULT", ""))
        code = command(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# --------------------------------------------------------------------------------------------------------- words


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="digits:mixed")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5, help="runs that share the kills")
    parser.add_argument("--workers", type=lambda text: [int(w) for w in text.split(",")], default=[0, 2, 4])
    parser.add_argument("--data", help="folder of the data")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments of the kills")
    parser.add_argument("--spawn", action="store_true", help="start an interpreter for each life")
    parser.add_argument(
        "--folder", help="where runs are made and removed again; a temporary folder unless given"
    )
    parser.add_argument(
        "--table", default=str(ROOT / "docs" / "kills.md"), help="file for the table; '' for none"
    )
    parser.add_argument("settings", nargs="*", help="path=value")
    return parser.parse_intermixed_args(words)


def _settings(options: argparse.Namespace) -> tuple[str, ...]:
    """What is given on the command line, after what makes the handwritten digits a short and eventful run."""
    return (*(SETTINGS if options.recipe == "digits:mixed" else ()), *options.settings)


def _shares(kills: int, runs: int) -> list[int]:
    """Divide the kills among the runs as evenly as they go."""
    runs = max(1, min(runs, kills))
    return [(number + 1) * kills // runs - number * kills // runs for number in range(runs)]


def _end(each: Round) -> str:
    differing = [file.name for file in each.proof.files if not file.same]
    return "identical" if each.proof.identical else f"different: {', '.join(differing)}"


def page(options: argparse.Namespace, rounds: Sequence[Round]) -> str:
    """Return docs/kills.md."""
    import torch

    settings = _settings(options)
    kills = [(each.proof.identical, kill) for each in rounds for kill in each.proof.kills]
    none = sum(kill.step is None for _, kill in kills)
    workers = Counter(kill.workers for _, kill in kills)
    lines = [
        "# Kills",
        "",
        "SIGKILL to all processes of a training, then `visloom resume`, until it is done. A kill is survived if the",
        "run ends with the same sha256 of every file of the last checkpoint (weights, moments, average, best value,",
        "ledger) and of log.jsonl as a run that was left alone; nothing is done by hand between the lives. Made by",
        f"`python benchmarks/kills.py --kills {options.kills} --runs {options.runs} --recipe {options.recipe}`",
        f"(torch {torch.__version__}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores;",
        f"{sum(each.seconds for each in rounds):.0f} s), with",
        f"`{' '.join(settings)}`.",
        "",
        "| killed in | injected | left half a checkpoint | survived | lost |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for kind in dict.fromkeys([*_WORDS, *(kill.moment.partition("@")[0] for _, kill in kills)]):
        these = [(same, kill) for same, kill in kills if kill.moment.partition("@")[0] == kind]
        if these:
            survived, torn = sum(same for same, _ in these), sum(kill.torn for _, kill in these)
            words = _WORDS.get(kind, kind)
            lines.append(f"| {words} | {len(these)} | {torn} | {survived} | {len(these) - survived} |")
    survived, torn = sum(same for same, _ in kills), sum(kill.torn for _, kill in kills)
    lines += [
        f"| **all** | {len(kills)} | {torn} | {survived} | {len(kills) - survived} |",
        "",
        f"{none} of them came before there was a checkpoint. Data workers of the lives that were killed: "
        + ", ".join(f"{count} with {number}" for number, count in sorted(workers.items(), key=str))
        + ".",
        "",
        "| run | kills | workers in turn | seconds | end | sha256 of the weights |",
        "|---|---|---|---|---|---|",
    ]
    for number, each in enumerate(rounds, 1):
        weights = next(
            (f.killed[:16] for f in each.proof.files if f.name.endswith("/model.safetensors")), "none"
        )
        lines.append(
            f"| {number} | {len(each.proof.kills)} | {', '.join(map(str, each.workers))} | {each.seconds:.0f} | "
            f"{_end(each)} | {weights} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
