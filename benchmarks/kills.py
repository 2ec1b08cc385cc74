"""Kill a training with SIGKILL again and again, resume it each time, and compare its end with one left alone.

    python benchmarks/kills.py --kills 20 --recipe digits:mixed how.precision=bf16
    python benchmarks/kills.py --kills 100 --recipe cifar10:fast --data DIR length=epochs:1

Half of the kills come at a random moment, of set-up too, the others while a checkpoint is being written (VISLOOM_FAULT
makes the writer slow). The kills are spread over several runs; the number of data workers differs from run to run, and
between the first life of a run and those that resume it. Nothing is done by hand between two lives. The table goes to
docs/kills.md; the exit code is 1 if a run ended differently. `visloom prove-resume` does the same for one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visloom.prove import Moment, Plan, Proof, prove

ROOT = Path(__file__).resolve().parents[1]
_KINDS: dict[Moment, str] = {"any time": "a random moment", "in a write": "the write of a checkpoint"}


@dataclass(frozen=True)
class Round:
    """One run that was killed. workers: of its first life, and of the others."""

    workers: tuple[int, int]
    proof: Proof


def main(words: Sequence[str] | None = None) -> int:
    options = _options(words)
    share = [len(part) for part in _shares(options.kills, options.runs)]
    rounds = []
    for number, kills in enumerate(share):
        workers = (
            options.workers[number % len(options.workers)],
            options.workers[(number + 1) % len(options.workers)],
        )
        with tempfile.TemporaryDirectory(prefix="visloom-kills-", dir=options.folder) as folder:
            plan = Plan(
                recipe=options.recipe,
                settings=(*options.settings, f"host.workers={workers[0]}"),
                options=("--data", options.data) if options.data else (),
                again=(f"host.workers={workers[1]}",),
                kills=kills,
                seed=options.seed + number,
                folder=Path(folder),
            )
            print(f"run {number + 1} of {len(share)}: {kills} kills, workers {workers[0]}, then {workers[1]}")
            rounds.append(Round(workers, prove(plan, lambda text: print(f"  {text}", flush=True))))
            print(
                f"  {'identical' if rounds[-1].proof.identical else 'DIFFERENT: ' + ', '.join(_differing(rounds[-1]))}"
            )
    text = page(options, rounds)
    print(text)
    if options.table:
        Path(options.table).write_text(text, encoding="utf-8")
    return 0 if all(each.proof.identical for each in rounds) else 1


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="digits:mixed")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5, help="runs that share the kills")
    parser.add_argument("--workers", type=lambda text: [int(w) for w in text.split(",")], default=[0, 2])
    parser.add_argument("--data", help="folder of the data")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments of the kills")
    parser.add_argument(
        "--folder", help="where runs are made and removed again; a temporary folder unless given"
    )
    parser.add_argument(
        "--table", default=str(ROOT / "docs" / "kills.md"), help="file for the table; '' for none"
    )
    parser.add_argument("settings", nargs="*", help="path=value")
    return parser.parse_intermixed_args(words)


def _shares(kills: int, runs: int) -> Iterator[range]:
    """Divide the kills among the runs as evenly as they go."""
    runs = max(1, min(runs, kills))
    for number in range(runs):
        yield range(number * kills // runs, (number + 1) * kills // runs)


def _differing(each: Round) -> list[str]:
    return [file.name for file in each.proof.files if not file.same]


def page(options: argparse.Namespace, rounds: Sequence[Round]) -> str:
    """Return docs/kills.md."""
    import torch

    command = " ".join(
        [
            "python benchmarks/kills.py",
            f"--kills {options.kills} --recipe {options.recipe}",
            *options.settings,
        ]
    )
    lines = [
        "# Kills",
        "",
        "SIGKILL to all processes of a training, then `visloom resume`, until it is done. A kill is survived if the",
        "run ends with the same sha256 of every file of the last checkpoint (weights, moments, average, ledger) and of",
        f"log.jsonl as a run that was left alone. Made by `{command}`",
        f"(torch {torch.__version__}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores).",
        "",
        "| killed in | injected | left half a checkpoint | survived | lost |",
        "|---|---|---|---|---|",
    ]
    for kind, words in _KINDS.items():
        kills = [
            (each.proof.identical, kill)
            for each in rounds
            for kill in each.proof.kills
            if kill.moment == kind
        ]
        survived = sum(identical for identical, _ in kills)
        torn = sum(kill.torn for _, kill in kills)
        lines.append(f"| {words} | {len(kills)} | {torn} | {survived} | {len(kills) - survived} |")
    lines += ["", "| run | kills | workers, then | end | sha256 of the weights |", "|---|---|---|---|---|"]
    for number, each in enumerate(rounds, 1):
        end = "identical" if each.proof.identical else f"different: {', '.join(_differing(each))}"
        weights = next(
            (f.killed[:16] for f in each.proof.files if f.name.endswith("/model.safetensors")), "none"
        )
        lines.append(
            f"| {number} | {len(each.proof.kills)} | {each.workers[0]}, {each.workers[1]} | {end} | {weights} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
