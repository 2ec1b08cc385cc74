"""What adaptation gains on blood cells: the presets of `visloom train cells`, several seeds, one burn-in for each.

    python benchmarks/adaptation.py --data DIR --out OUT                 about 20 CPU-minutes; prints the tables
    python benchmarks/adaptation.py --data DIR --out OUT --seeds 2       another process may take another seed
    python benchmarks/adaptation.py --out OUT --tables                   the tables of what has been done

DIR holds BCCD and blood-smear-b. For each seed BCCD alone is trained for 150 updates; every preset goes on from those
weights for 100 more, each of 8 labelled pictures, with the same learning rates, and the last state is counted on the
smear's 20 validation pictures. What is done stands in OUT/results.jsonl and is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

BURN_IN, MORE = 150, 100
MAIN = ("source", "ema", "cells", "teacher", "oracle")
CONTROLS = ("zero", "same")
SAYS = {
    "burn-in": "the start of all",
    "source": "source only",
    "ema": "EMA and strong colours",
    "cells": "dafrcnn-2018",
    "teacher": "teacher",
    "oracle": "oracle: the target's labels",
    "zero": "control: discriminator weight 0",
    "same": "control: the target is the source",
}


def main() -> int:
    options = _options()
    file = Path(options.out, "results.jsonl")
    if not options.tables:
        for seed in options.seeds:
            for preset in options.presets:
                if (seed, preset) not in _done(file):
                    _write(file, trained(preset, seed, options, file))
    print(tables(list(_done(file).values())))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default=".", help="folder with BCCD and blood-smear-b")
    parser.add_argument("--out", default="runs", help="folder of the runs and of results.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", choices=SAYS, default=["burn-in", *MAIN, *CONTROLS])
    parser.add_argument("--burn-in", type=int, default=BURN_IN, help="updates on the source alone")
    parser.add_argument("--more", type=int, default=MORE, help="updates of each preset after that")
    parser.add_argument("--tables", action="store_true", help="train nothing, print what there is")
    return parser.parse_args()


def trained(preset: str, seed: int, options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Train one preset from the burn-in of its seed and return what is kept of it."""
    from visloom import change, load, train

    run = load("cells" if preset == "cells" else f"cells:{'source' if preset == 'burn-in' else preset}")
    edits: dict[str, Any] = {
        "name": f"cells-{preset}-{seed}",
        "seed": seed,
        "host.data": options.data,
        "host.out": options.out,
        "length": f"steps:{options.burn_in}",
        "save.every": f"steps:{options.burn_in + options.more}",
    }
    if preset != "burn-in":
        start = _done(file).get((seed, "burn-in"))
        if start is None:
            raise SystemExit(f"there is no burn-in of seed {seed} yet: name it among --presets")
        edits |= {
            "length": f"steps:{options.more}",
            "optim.lr": 0.5 * run.optim.lr,
            "init": {"net": start["directory"]},
        }
    if preset == "teacher":
        edits["task.teacher.burn_in"] = 0.0
    if preset not in ("burn-in", "source"):
        run = replace(run, evals={"smear": run.evals["smear"]})
    started = time.process_time()
    report = train(change(run, edits))
    return {
        "seed": seed,
        "preset": preset,
        "steps": report.step,
        "cpu_seconds": round(time.process_time() - started, 1),
        "directory": str(report.directory),
        **{where: {"ap50": v["ap50"], "ap": v["ap"]} for where, v in report.values.items()},
    }


def _done(file: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """What has been trained already, by seed and preset."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(row["seed"], row["preset"]): row for row in rows}


def _write(file: Path, row: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, and the gain against source-only of the same seed, as Markdown."""
    lines = [
        "| preset | AP50 on the smear, % | each seed | gain on source only | CPU-s a run | n |",
        "|---|---|---|---|---|---|",
    ]
    of = {(row["preset"], row["seed"]): row for row in rows}
    for preset, says in SAYS.items():
        mine = {row["seed"]: 100 * row["smear"]["ap50"] for row in rows if row["preset"] == preset}
        if not mine:
            continue
        gains = [
            value - 100 * of["source", seed]["smear"]["ap50"]
            for seed, value in mine.items()
            if ("source", seed) in of and preset not in ("source", "burn-in")
        ]
        seconds = statistics.mean(row["cpu_seconds"] for row in rows if row["preset"] == preset)
        each = ", ".join(f"{mine[seed]:.1f}" for seed in sorted(mine))
        gain = _spread(gains, "+") if gains else ""
        cells = (says, _spread(list(mine.values())), each, gain, f"{seconds:.0f}", str(len(mine)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    raise SystemExit(main())
