"""mmclassification's configs as runs: `to_run(keys)` takes what it can of a config and notes every key.

The order is that of the config files: model (`model.py`), data (here, with `pipelines.py`), optimizer and schedule
(`updates.py`), runtime (`running.py`). What the original leaves to the command line (the number of GPUs, say) is read
off the file where it can be: `b16x8` in a name is 8 times 16 pictures.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping

from visloom.convert.keys import Keys
from visloom.convert.mmcls import model, running, updates
from visloom.convert.mmcls.pipelines import Part, prefixes, read_part
from visloom.convert.mmcls.reading import Reading
from visloom.place import did_you_mean, nearest, one_of
from visloom.run import Eval, Host, Run
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import MultiLabel
from visloom.units import Epochs, Monitor, Steps

TOP = running.TOP


def to_run(keys: Keys, name: str, *, compat: bool = False) -> tuple[Run, tuple[str, ...]]:
    """Return the run that a config describes, and notes.

    name: of the config file, without its ending.  compat: with the original's mistakes in schedules and rules.
    Raises ConfigError for what cannot be: an unknown workflow mode, values out of range, no model.
    """
    read = Reading(keys, name, compat)
    running.check_workflow(read)
    net, frozen, norms = model.backbone(read)
    sync, still = model.norms(read)
    parts, folder = _parts(read)
    task = model.head(read, net, parts)
    length, by_epoch = updates.length(read)
    optim, rules, schedule, momentum = updates.optimizer(read, task, by_epoch)
    batch, workers = _batch(read)
    with keys.making("data.workers_per_gpu"):
        host = Host(data=folder, workers=workers)
    run = Run(
        name=_run_name(read),
        task=task,
        train=_train(parts["train"], batch),
        evals=_evals(read, parts, batch, several=isinstance(task, MultiLabel)),
        length=length,
        optim=optim,
        rules=(*frozen, *still, *rules),
        schedule=schedule,
        momentum=momentum,
        how=running.how(read, norms, sync=sync),
        host=host,
        save=running.save(read, by_epoch),
        log=running.log(read),
        seed=keys.take("seed", "seed", 0) or 0,
    )
    running.rest(read)
    return run, tuple(read.notes)


def _run_name(read: Reading) -> str:
    from visloom.rundir import safe_name

    folder = str(read.keys.take("work_dir", "name; host.out is the folder of all runs", "") or "")
    # mmcv writes texts without escaping them: a Windows path comes back with \r or \t in it
    folder = re.sub(r"[\x00-\x1f]", lambda found: found[0].encode("unicode_escape").decode(), folder)
    last = re.split(r"[/\\]", folder.rstrip("/\\"))[-1]
    return safe_name(last or read.name)


# -------------------------------------------------------------------------------------------------------- the data


def _parts(read: Reading) -> tuple[dict[str, Part], str]:
    """The data sets by name, and the folder that all of them lie in."""
    keys = read.keys
    found = [
        p.replace("\\", "/") for name in ("train", "val", "test") for p in prefixes(keys, f"data.{name}")
    ]
    folder = os.path.commonpath(found) if found and len({p.startswith("/") for p in found}) == 1 else "."
    folder = folder or "."
    parts = {
        name: part
        for name in ("train", "val", "test")
        if keys.has(f"data.{name}")
        and (part := read_part(keys, f"data.{name}", train=name == "train", folder=folder))
    }
    if "train" not in parts:
        raise keys.error("data.train", "is no data set that is known here")
    for name in ("samples_per_gpu", "workers_per_gpu"):
        keys.take(f"data.{name}", {"samples_per_gpu": "train.batch", "workers_per_gpu": "host.workers"}[name])
    return parts, folder


def _batch(read: Reading) -> tuple[int, int]:
    """Pictures of one update over all GPUs, and data workers."""
    keys = read.keys
    each = keys.get("data.samples_per_gpu")
    if not isinstance(each, int) or each < 1:
        raise keys.error("data.samples_per_gpu", f"is a number of pictures, got {each!r}")
    ids = keys.take("gpu_ids", "train.batch")
    named = re.search(r"(?:^|_)b(\d+)x(\d+)(?:_|$)", read.name)
    if ids is not None:
        if not isinstance(ids, list | tuple) or not ids:
            raise keys.error("gpu_ids", f"is a list of GPUs, one or more, got {ids!r}")
        count = len(ids)
    elif named and int(named[1]) == each:
        count = int(named[2])
        read.notes.append(
            f"{read.name} is meant for {count} GPUs: batch {count * each}. On one GPU the original takes {each} "
            f"pictures: train.batch={each}"
        )
    else:
        count = 1
    return count * each, int(keys.get("data.workers_per_gpu", -1))


def _train(part: Part, batch: int) -> Shuffled:
    return Shuffled(source=part.source, batch=batch, transform=part.pipeline.transforms, tail="keep")


_METRICS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1_score": "f1",
    "support": "",
}
"""Names of metrics there and here, "" for a count, which is no better if it is higher."""
_SEVERAL = {name: name for name in ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")}


def _monitored(read: Reading, *, several: bool) -> Monitor | None:
    """The first metric that a config names is the one that decides what is best. All are reported."""
    keys, known = read.keys, _SEVERAL if several else _METRICS
    given = keys.take("evaluation.metric", "evals.val.monitor: the first; all are reported")
    names = [next(iter(known))] if given is None else given if isinstance(given, list | tuple) else [given]
    for name in names:
        if name not in known:
            near = did_you_mean(nearest(str(name), known))
            said = f"has {name!r}, which this data set does not know; it has {one_of(known, 'and')}"
            raise keys.error("evaluation.metric", "\n  ".join(line for line in (said, near) if line))
    first = known[names[0]] if names else ""
    return Monitor("max", first) if first else None


def _evals(read: Reading, parts: Mapping[str, Part], batch: int, *, several: bool) -> dict[str, Eval]:
    keys = read.keys
    interval = keys.take("evaluation.interval", "evals.val.every", 1)
    by_epoch = keys.get("evaluation.by_epoch", keys.get("runner.type") != "IterBasedRunner")
    keys.take("evaluation.by_epoch", "evals.val.every")
    monitor = _monitored(read, several=several)
    evals = {}
    with keys.making("evaluation.interval"):
        every = Epochs(interval) if by_epoch else Steps(interval)
    if "val" in parts:
        evals["val"] = Eval(stream=_ordered(parts["val"], batch), every=every, monitor=monitor)
    if "test" in parts and parts["test"] != parts.get("val"):
        evals["test"] = Eval(stream=_ordered(parts["test"], batch), every=None)
    return evals


def _ordered(part: Part, batch: int) -> Ordered:
    return Ordered(source=part.source, batch=batch, transform=part.pipeline.transforms)
