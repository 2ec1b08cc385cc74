"""What adaptation gains on blood cells: the presets of `visloom train cells`, several seeds, one burn-in for each.

    python benchmarks/adaptation.py --data DIR --out OUT                 about 40 CPU-minutes; prints the tables
    python benchmarks/adaptation.py --data DIR --out OUT --seeds 2       another process may take another seed
    python benchmarks/adaptation.py --out OUT --tables                   the tables of what has been done

DIR holds BCCD and blood-smear-b. For each seed BCCD alone is trained for 250 updates; every preset goes on from those
weights for 150 more, each of 8 labelled pictures, with the same learning rates, and the last state is counted on the
smear's 20 validation pictures. It is counted once more after batch norm's means and variances were taken anew from the
smear's 60 training pictures, no weight changed (AdaBN, Li et al. 2016): what is left of a gain then is in the weights.
What is done stands in OUT/results.jsonl and is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

BURN_IN, MORE = 250, 150
MAIN = ("source", "ema", "cells", "norms", "teacher", "oracle")
CONTROLS = ("zero", "same")
SAYS = {
    "burn-in": "the start of all",
    "source": "source only",
    "ema": "EMA and strong colours",
    "cells": "dafrcnn-2018",
    "norms": "norms of the target",
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
                row = _done(file).get((seed, preset)) or trained(preset, seed, options, file)
                if "own" not in row:
                    _write(file, with_own_norms(row, options.data))
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


def with_own_norms(row: dict[str, Any], data: str) -> dict[str, Any]:
    """The row, with what its network reaches when batch norm has the statistics of the target's training pictures."""
    from torch.optim.swa_utils import update_bn

    from visloom import load
    from visloom.assemble import bound
    from visloom.evaluation import evaluating, run_evaluation, share_of
    from visloom.saved import open_saved
    from visloom.stream import Ordered, Pair, Stream

    saved, adapted = open_saved(row["directory"]), load("cells")
    assert isinstance(adapted.train, Pair)

    def loader(stream: Stream) -> Any:
        placed = bound(stream, name="smear", folder=Path(data), seed=0)
        return share_of(placed, saved.spec, saved.run.host, saved.device)

    seen = adapted.evals["smear"].stream
    assert isinstance(seen, Ordered)
    target = loader(replace(seen, source=adapted.train.leaves()[1].source, batch=10))
    judge = _Judge(saved.task)
    with evaluating(saved.task):
        update_bn(itertools.islice(target.open(0), target.stop), judge)
    found = run_evaluation(saved.task, saved.spec, loader(seen), autocast=saved.autocast(), losses=False)
    return {**row, "own": {name: found.values[name] for name in ("ap50", "ap")}}


class _Judge(nn.Module):
    """The network that answers, shown a batch."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.net, self.images = task.judge, task.images

    def forward(self, batch: Any) -> None:
        self.net.features(self.images(batch.image, batch.sizes))


def _done(file: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """What has been trained already, by seed and preset; later lines count."""
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
        "| preset | AP50 on the smear, % | each seed | gain on source only | the smear's norms | gain with them "
        "| CPU-s a run | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    of = {(row["preset"], row["seed"]): row for row in rows}
    for preset, says in SAYS.items():
        mine = [row for row in sorted(rows, key=lambda row: row["seed"]) if row["preset"] == preset]
        if not mine:
            continue
        cells = [says]
        for where in ("smear", "own"):
            values = [100 * row[where]["ap50"] for row in mine if where in row]
            gains = [
                100 * (row[where]["ap50"] - of["source", row["seed"]][where]["ap50"])
                for row in mine
                if where in row
                and where in of.get(("source", row["seed"]), {})
                and preset not in ("source", "burn-in")
            ]
            cells.append(_spread(values))
            if where == "smear":
                cells.append(", ".join(f"{value:.1f}" for value in values))
            cells.append(_spread(gains, "+"))
        seconds = statistics.mean(row["cpu_seconds"] for row in mine)
        lines.append(f"| {' | '.join([*cells, f'{seconds:.0f}', str(len(mine))])} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    raise SystemExit(main())
