"""Does one network learn all tasks of unified parsing from sources that each label some of them?

    python benchmarks/parsing_learning.py --out DIR [--seeds 0 1 2] [--only joint object part scene material ...]

Writes sights of the embedded town at 128x128 to DIR as Broden+ (one source labels objects, parts and scenes, in the
files of ADE20K and of Pascal, which has no scenes; another one materials, a third one textures), reads them back with
the reader of Broden+, and trains the recipe `sights` on them:

    joint               all tasks
    object ... material one task alone, on as many samples of its source as the joint run had of it; parts are learnt
                        with their objects, since a part counts only where its object is found
    texture-after       textures alone on the encoder of the joint run, as the paper learns them: after all others
    scene-shuffled ...  all tasks, but the labels of one belong to other training pictures

Results are added to DIR/results.jsonl; what stands there is not trained again. Prints the best value that each task
can be compared by, means and standard deviations over seeds. CPU-seconds are of a run without drawing, on one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from visloom import train
from visloom.assemble import bound
from visloom.config import change
from visloom.data.broden import Broden
from visloom.data.town import Sights
from visloom.data.town.broden_root import write_root
from visloom.recipes.sights import HEADS, sights
from visloom.run import Run
from visloom.stream import Mixture, Shuffled
from visloom.units import Steps

TASKS = {
    "object": ("object",), "part": ("object", "part"), "scene": ("scene",), "material": ("material",),
    "texture": ("texture",),
}  # fmt: skip
"""Heads of the network that learns one task alone."""

VALUES = {
    "object": "object_miou", "part": "part_miou", "scene": "scene_accuracy", "material": "material_miou",
    "texture": "texture_accuracy",
}  # fmt: skip
SHUFFLED = {"scene": "objects", "material": "materials", "texture": "textures"}
"""Tasks whose training labels are given to other pictures, and the list that holds them."""

AFTER = "texture-after"
LISTS = ("objects", "materials", "textures")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    kinds = ["joint", *TASKS, AFTER, *(f"{task}-shuffled" for task in SHUFFLED)]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--steps", type=int, default=600, help="of a joint run")
    parser.add_argument("--side", type=int, default=128, help="of pictures of the town, in pixels")
    parser.add_argument("--validation", type=int, default=120, help="pictures of each list")
    args = parser.parse_args()
    data = args.out.absolute() / "data"
    if not data.is_dir():
        write(data, args.validation, args.side)
    file = args.out / "results.jsonl"
    for seed in args.seeds:
        for kind in args.only:
            if (kind, seed) not in {(row["kind"], row["seed"]) for row in rows(file)}:
                add(file, kind, seed, one(kind, seed, data, args.out / "runs", args.steps))
    print(table(rows(file)))


def rows(file: Path) -> list[dict[str, Any]]:
    """What was trained already."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def add(file: Path, kind: str, seed: int, found: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"kind": kind, "seed": seed, **found}) + "\n")


# ----------------------------------------------------------------------------------------------------------- data


def write(data: Path, validation: int, side: int) -> None:
    """Write the sights of the recipe, and copies whose training labels of one task belong to other pictures."""
    part = data.with_name("data-unfinished")
    shutil.rmtree(part, ignore_errors=True)
    parts = {}
    for leaf in sights().train.leaves():
        assert isinstance(leaf.source, Sights)
        shape = {} if leaf.source.records == "textures" else {"height": side, "width": side}
        parts[leaf.source.records] = replace(leaf.source, **shape)
    write_root(
        part,
        {
            "train": parts,
            "validation": {r: replace(s, part="val", samples=validation) for r, s in parts.items()},
        },
    )
    for shuffle in (shuffle_scenes, shuffle_materials, shuffle_textures):
        shuffle(part)
    part.rename(data)


def order(count: int) -> list[int]:
    """Which picture's label each picture gets."""
    return [int(i) for i in np.random.default_rng(0).permutation(count)]


def shuffle_scenes(root: Path) -> None:
    meta = root / "scene-shuffled" / "meta_file"
    shutil.copytree(root / "meta_file", meta)
    file = meta / "ade20k" / "scene_categories.txt"
    lines = [line.split() for line in file.read_text().splitlines()]
    first = [i for i, (stem, _) in enumerate(lines) if stem.startswith("ADE_train")]
    scenes = [lines[i][1] for i in first]
    for i, j in zip(first, order(len(first)), strict=True):
        lines[i][1] = scenes[j]
    file.write_text("".join(f"{stem} {scene}\n" for stem, scene in lines))


def shuffle_materials(root: Path) -> None:
    photos = (root / "broden_dataset/opensurfaces/photos.csv").read_text().splitlines()[1:]
    ids = [photos[i].partition(",")[0] for i in numbers(root, "joint_dataset/broden_os_train.json")]
    swap(root, "material", "opensurfaces", [f"photos-labels/{i}.png" for i in ids])


def shuffle_textures(root: Path) -> None:
    lines = (root / "meta_file/dtd/labels_joint_anno.txt").read_text().splitlines()
    files = [lines[i].split()[0] for i in numbers(root, "dtd/dtd_training_list.json")]
    swap(root, "texture", "dtd", [f"dtd-r1.0.1/images/{file}" for file in files])


def swap(root: Path, task: str, folder: str, files: Sequence[str]) -> None:
    """Copy a data set with some of its files under each other's names."""
    old = root / "broden_dataset" / folder
    new = root / f"{task}-shuffled" / "broden_dataset" / folder
    shutil.copytree(old, new)
    for i, j in enumerate(order(len(files))):
        shutil.copy(old / files[j], new / files[i])


def numbers(root: Path, name: str) -> list[int]:
    """Where the pictures of a record list stand among all of their data set."""
    return [json.loads(line)["file_index"] for line in (root / "meta_file" / name).read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------------- runs


def plan(kind: str, seed: int, data: Path, steps: int) -> Run:
    """The recipe on the pictures on disk, with all tasks or one."""
    if kind == AFTER:
        encoder = {"init.net.encoder": str(joint_run(data.with_name("runs"), seed))}
        return change(replace(plan("texture", seed, data, steps), name=kind), encoder)
    base, wrong = sights(), kind.removesuffix("-shuffled")
    assert isinstance(base.train, Mixture)
    tasks = TASKS.get(kind, tuple(head.name for head in HEADS))
    sources = {
        records: Broden(
            root=str(data / "broden_dataset"),
            records=records,
            only=tuple(task for task in Broden.tasks[records] if task in tasks),
        )
        for records in LISTS
        if {*Broden.tasks[records]} & {*tasks}
    }
    learnt = dict(sources)
    if wrong != kind:
        records, place = SHUFFLED[wrong], data / f"{wrong}-shuffled"
        moved = {"root": str(place / "broden_dataset"), "meta": str(data / "meta_file")}
        learnt[records] = replace(
            sources[records], **({"meta": str(place / "meta_file")} if wrong == "scene" else moved)
        )
    parts = {
        records: replace(part, source=learnt[records])
        for records, part in zip(LISTS, base.train.parts, strict=True)
        if records in learnt
    }
    joint = replace(base.train, parts=tuple(parts.values()))
    stream: Mixture | Shuffled = joint if len(parts) == len(LISTS) else next(iter(parts.values()))
    evals = {
        records: replace(
            base.evals[records],
            stream=replace(base.evals[records].stream, source=replace(source, part="validation")),
            monitor=None,
        )
        for records, source in sources.items()
    }
    if len(parts) == 1:  # as many steps as the joint run gives to this source
        steps = share(replace(base.train, seed=base.train.seed), LISTS.index(next(iter(parts))), seed, steps)
    run = replace(
        base,
        name=kind,
        seed=seed,
        task=replace(base.task, heads=tuple(head for head in HEADS if head.name in tasks)),
        train=stream,
        evals=evals,
        length=Steps(steps),
    )
    quiet = {"log.images": 0, "log.report": False, "log.tensorboard": False, "save.every": Steps(steps)}
    return change(run, quiet)


def joint_run(runs: Path, seed: int) -> Path:
    """The directory of the finished joint run of a seed."""
    for place in sorted(runs.glob("joint-*")):
        if (
            json.loads((place / "run.json").read_text())["seed"] == seed
            and (place / "checkpoints/latest").is_file()
        ):
            return place
    raise SystemExit(
        f"{AFTER} goes on from a joint run, and {runs} has none of seed {seed}: train `joint` first"
    )


def share(mixture: Mixture, number: int, seed: int, steps: int) -> int:
    """How many of a joint run's steps are of one of its sources."""
    stream = bound(mixture, name="train", folder=Path("."), seed=seed)
    return sum(int(stream.tickets(step).source[0]) == number for step in range(steps))


def one(kind: str, seed: int, data: Path, out: Path, steps: int) -> dict[str, Any]:
    """Train and evaluate one run; every value that is a number, and the floors."""
    run = plan(kind, seed, data, steps)
    began = process_time()
    report = train(change(run, {"host.out": str(out)}))
    values: dict[str, float] = {}
    floors: dict[str, float] = {}
    for name in run.evals:
        told = json.loads((report.directory / "evals" / f"{name}.json").read_text())
        values |= {key: value for key, value in told["values"].items() if value is not None}
        floors |= {key: floor["value"] for key, floor in told["floors"].items()}
    return {
        "values": values, "floors": floors, "steps": report.step, "cpu_seconds": round(process_time() - began, 1)
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- table


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """One line per task: without looking, alone, jointly, the ratio; then what shuffled labels do."""
    kinds: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in found:
        kinds.setdefault(row["kind"], {})[row["seed"]] = row
    shuffled = [kind for kind in kinds if kind.endswith("-shuffled")]
    after = [kind for kind in kinds if kind == AFTER]
    lines = [["task", "value", "without looking", "alone", "jointly", "jointly / alone", *after, *shuffled]]
    for task, value in VALUES.items():
        columns = {kind: [row["values"][value] for row in kinds.get(kind, {}).values() if value in row["values"]]
                   for kind in (task, "joint", *after, *shuffled)}  # fmt: skip
        floors = [row["floors"][value] for row in found if value in row["floors"]]
        alone, joint = columns[task], columns["joint"]
        ratio = f"{statistics.mean(joint) / statistics.mean(alone):.2f}" if alone and joint else "-"
        lines.append([task, value, f"{floors[0]:.3f}" if floors else "-", spread(alone), spread(joint), ratio,
                      *(spread(columns[kind]) for kind in (*after, *shuffled))])  # fmt: skip
    seconds = sum(row["cpu_seconds"] for row in found)
    counts = ", ".join(f"{kind} {len(rows)}" for kind, rows in kinds.items())
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\nseeds: {counts}; {seconds / 60:.1f} CPU-minutes"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
