"""mmclassification's configs as runs: `to_run(keys)` takes what it can of a config and notes every key.

The order here is that of the config files: model, data, optimizer, schedule, runtime. What the original leaves to the
command line (the number of GPUs, say) is read off the file where it can be: `b16x8` in a name is 8 times 16 pictures.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visloom.convert.keys import Keys
from visloom.convert.mmcls import zoo
from visloom.convert.mmcls.pipelines import Part, prefixes, read_part
from visloom.convert.mmcls_rules import paramwise_rules
from visloom.convert.mmcls_schedules import lr_schedule, momentum_schedule
from visloom.errors import ConfigError
from visloom.run import Clip, Ema, Eval, Host, How, Log, Optim, Rule, Run, Save
from visloom.schedule import Schedule
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Asymmetric, BinaryCrossEntropy, Classify, Focal, MultiLabel, NetSpec
from visloom.units import Epochs, Monitor, Steps

TOP = (
    "model", "data", "dataset_type", "img_norm_cfg", "train_pipeline", "test_pipeline", "optimizer",
    "optimizer_config", "lr_config", "momentum_config", "total_epochs", "runner", "checkpoint_config", "log_config",
    "evaluation", "dist_params", "log_level", "load_from", "resume_from", "workflow", "work_dir", "gpu_ids", "seed",
    "cudnn_benchmark", "find_unused_parameters", "custom_hooks", "custom_imports", "fp16", "device",
)  # fmt: skip
_MODES = ("train", "val")
_CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "MNIST": 10, "FashionMNIST": 10, "ImageNet": 1000, "VOC": 20}
_PLAIN_OPTIONS = ("type", "lr", "weight_decay", "paramwise_cfg", "constructor")


@dataclass
class Reading:
    """What is gathered on the way. compat: keep the original's mistakes. notes: what the user should know."""

    keys: Keys
    name: str
    compat: bool = False
    notes: list[str] = field(default_factory=list)


def to_run(keys: Keys, name: str, *, compat: bool = False) -> tuple[Run, tuple[str, ...]]:
    """Return the run that a config describes, and notes.

    name: of the config file, without its ending.  compat: with the original's mistakes in schedules and rules.
    Raises ConfigError for what cannot be: an unknown workflow mode, values out of range, no model.
    """
    read = Reading(keys, name, compat)
    _workflow(read)
    net, frozen, norms = _backbone(read)
    parts, folder = _parts(read)
    task = _task(read, net, parts)
    length, by_epoch = _length(read)
    optim, rules, schedule, momentum = _optimizer(read, task, by_epoch)
    batch, workers = _batch(read)
    run = Run(
        name=_run_name(read),
        task=task,
        train=_train(parts["train"], batch),
        evals=_evals(read, parts, batch),
        length=length,
        optim=optim,
        rules=(*frozen, *rules),
        schedule=schedule,
        momentum=momentum,
        how=_how(read, norms),
        host=Host(data=folder, workers=workers),
        save=_save(read, by_epoch),
        log=_log(read),
        seed=keys.take("seed", "seed", 0) or 0,
    )
    _rest(read)
    return run, tuple(read.notes)


def _run_name(read: Reading) -> str:
    from visloom.rundir import safe_name

    folder = str(read.keys.take("work_dir", "name; host.out is the folder of all runs", "") or "")
    # mmcv writes texts without escaping them: a Windows path comes back with \r or \t in it
    folder = re.sub(r"[\x00-\x1f]", lambda found: found[0].encode("unicode_escape").decode(), folder)
    last = re.split(r"[/\\]", folder.rstrip("/\\"))[-1]
    return safe_name(last or read.name)


# ------------------------------------------------------------------------------------------------------- the model


def _backbone(read: Reading) -> tuple[NetSpec, tuple[Rule, ...], str | None]:
    """The network; rules that freeze the first stages; which norms keep their statistics."""
    keys, at = read.keys, "model.backbone"
    if not isinstance(keys.get(at), Mapping):
        raise ConfigError("the config has no model.backbone: it trains nothing")
    keys.take("model.type", "task", "ImageClassifier")
    if keys.get("model.type") not in (None, "ImageClassifier"):
        keys.refuse("model.type", "only an ImageClassifier classifies images")
    keys.leave("model.train_cfg", "the loop is in visloom/drive.py")
    keys.leave("model.test_cfg", "the loop is in visloom/evaluation.py")
    if keys.get("model.pretrained") is None:
        keys.leave("model.pretrained", "there are none")
    else:
        keys.refuse("model.pretrained", "weights come from files: init.net=FILE, or task.net.pretrained=true")
    for option in keys.children(at):
        name = option.rpartition(".")[2]
        usual = _USUAL.get(name)
        if name in (
            "type",
            "depth",
            "groups",
            "width_per_group",
            "widen_factor",
            "norm_cfg",
            "deep_stem",
            "avg_down",
        ):
            keys.take(option, "task.net")
        elif name == "num_classes":
            keys.take(option, "task.classes")
        elif name in ("frozen_stages", "norm_eval"):
            keys.take(option, "rules and how.frozen_norms")
        elif usual is not None and keys.get(option) in usual:
            keys.take(option, "as in the network")
        else:
            keys.refuse(
                option, f"only {' or '.join(map(str, usual))}" if usual else "the network has no such option"
            )
    neck = keys.take("model.neck", "the network ends with it", {"type": "GlobalAveragePooling"})
    if neck is not None and neck.get("type") != "GlobalAveragePooling":
        keys.refuse("model.neck", "only GlobalAveragePooling")
    try:
        net = zoo.of_config(keys.get(at))
    except ConfigError as error:
        raise keys.error(at, f"is not known here: {error}") from error
    return net, *_frozen(read, net)


_USUAL: dict[str, tuple[Any, ...]] = {
    "in_channels": (3, 1), "stem_channels": (64,), "base_channels": (64,), "num_stages": (4,), "style": ("pytorch",),
    "out_indices": ((3,), [3], (4,), [4], (7,), [7], (2,), [2], -1), "conv_cfg": (None,), "with_cp": (False, True),
    "zero_init_residual": (True,), "se_ratio": (16,), "strides": ((1, 2, 2, 2),), "dilations": ((1, 1, 1, 1),),
    "act_cfg": ({"type": "ReLU"}, {"type": "ReLU6"}), "dilation": (1,), "with_last_pool": (True,),
    "dropout_ratio": (0.5,),
}  # fmt: skip


def _frozen(read: Reading, net: NetSpec) -> tuple[tuple[Rule, ...], str | None]:
    keys, at = read.keys, "model.backbone"
    stages, frozen_norms = keys.get(f"{at}.frozen_stages", -1), keys.get(f"{at}.norm_eval", False)
    resnet = str(keys.get(f"{at}.type")).startswith(("ResNe", "SERes"))
    if stages >= 0 and not resnet:
        keys.refuse(f"{at}.frozen_stages", "only of the ResNets: write rules with frozen=true")
        stages = -1
    if stages < 0:
        return (), (r"^net\." if frozen_norms else None)
    names = "|".join([r"conv1\.", r"bn1\.", *(rf"layer{stage}\." for stage in range(1, stages + 1))])
    norms = r"^net\." if frozen_norms else rf"^net\.({names.replace(chr(92) + '.', '')})(\.|$)"
    return (Rule(name=rf"^net\.({names})", frozen=True),), norms


def _task(read: Reading, net: NetSpec, parts: Mapping[str, Part]) -> Classify:
    keys, at = read.keys, "model.head"
    kind = keys.get(f"{at}.type", "LinearClsHead")
    count = keys.take(f"{at}.num_classes", "the data's classes", keys.get("model.backbone.num_classes"))
    keys.take(f"{at}.type", "task")
    keys.leave(f"{at}.in_channels", "follows from the network")
    keys.leave(f"{at}.cal_acc", "train/accuracy is always there")
    more: dict[str, Any] = {}
    if kind in ("MultiLabelClsHead", "MultiLabelLinearClsHead"):
        more |= _multi_label(read)
    elif kind not in ("LinearClsHead", "ClsHead"):
        keys.refuse(at, f"there is no head {kind}")
    else:
        more |= {"smoothing": _loss(read)}
    pipelines = {name: part.pipeline for name, part in parts.items()}
    order = [pipelines[name].normalise for name in ("train", "val", "test") if name in pipelines]
    if any(each != order[0] for each in order):
        keys.refuse("data.val.pipeline", "training and validation are normalised differently")
    part = parts["train"]
    classes = part.classes or _numbered(part.kind, count)
    topk = tuple(keys.get(f"{at}.topk", (1, 5))) if keys.has(f"{at}.topk") else (1, 5)
    keys.take(f"{at}.topk", "task.topk")
    most = count or _CLASSES.get(part.kind, 1)
    if "smoothing" in more:
        more["topk"] = tuple(k for k in topk if k <= most)
    make = MultiLabel if "loss" in more else Classify
    return make(
        net=net,
        classes=classes,
        channels=1 if "MNIST" in part.kind else 3,
        normalise=order[0] if order[0] is not None else "net",
        **more,
    )


def _numbered(kind: str, count: Any) -> tuple[str, ...]:
    """() where the data name as many classes as the head has; else numbers."""
    usual = _CLASSES.get(kind)
    return (
        ()
        if usual == count or kind == "ImageNet" or not isinstance(count, int)
        else tuple(map(str, range(count)))
    )


def _loss(read: Reading) -> float:
    """Label smoothing."""
    keys, at = read.keys, "model.head.loss"
    kind = keys.get(f"{at}.type", "CrossEntropyLoss")
    for option in keys.children(at):
        keys.refuse(option, f"no such option of {kind} here")
    keys.take(f"{at}.type", "cross entropy")
    for name, usual in (("loss_weight", (1, 1.0)), ("use_sigmoid", (False,)), ("reduction", ("mean",))):
        if keys.get(f"{at}.{name}") in usual:
            keys.take(f"{at}.{name}", "as here")
    keys.leave(f"{at}.num_classes", "follows from the head")
    if kind == "LabelSmoothLoss":
        return float(keys.take(f"{at}.label_smooth_val", "task.smoothing", 0.1))
    if kind != "CrossEntropyLoss":
        keys.refuse(at, f"there is no loss {kind} for one label per picture")
    return 0.0


def _multi_label(read: Reading) -> dict[str, Any]:
    """The loss of several labels per picture; the task is then a MultiLabel."""
    keys, at = read.keys, "model.head.loss"
    kind = keys.get(f"{at}.type", "CrossEntropyLoss")
    known: dict[str, tuple[type[Any], tuple[str, ...]]] = {
        "CrossEntropyLoss": (BinaryCrossEntropy, ()),
        "FocalLoss": (Focal, ("gamma", "alpha")),
        "AsymmetricLoss": (Asymmetric, ("gamma_pos", "gamma_neg", "clip", "eps")),
    }
    if kind not in known:
        keys.refuse("model.head", f"there is no loss {kind} for several labels per picture")
        return {}
    make, options = known[kind]
    for option in keys.children(at):
        keys.refuse(option, f"no such option of {kind} here")
    keys.take(f"{at}.type", "task.loss")
    for name, usual in (("loss_weight", (1, 1.0)), ("use_sigmoid", (True,)), ("reduction", ("mean",))):
        if keys.get(f"{at}.{name}") in usual:
            keys.take(f"{at}.{name}", "as here")
    given = {
        name: keys.take(f"{at}.{name}", f"task.loss.{name}") for name in options if keys.has(f"{at}.{name}")
    }
    return {"loss": make(**given)}


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


def _evals(read: Reading, parts: Mapping[str, Part], batch: int) -> dict[str, Eval]:
    keys = read.keys
    interval = keys.take("evaluation.interval", "evals.val.every", 1)
    metric = keys.take("evaluation.metric", "evals.val.monitor", "accuracy")
    keys.take("evaluation.metric_options", "task.topk")
    by_epoch = keys.get("evaluation.by_epoch", keys.get("runner.type") != "IterBasedRunner")
    keys.take("evaluation.by_epoch", "evals.val.every")
    first = metric[0] if isinstance(metric, list | tuple) and metric else metric
    name = {"accuracy": "accuracy", "f1_score": "f1", "mAP": "mAP"}.get(str(first), "")
    evals = {}
    if "val" in parts:
        evals["val"] = Eval(
            stream=_ordered(parts["val"], batch),
            every=Epochs(interval) if by_epoch else Steps(interval),
            monitor=Monitor("max", name) if name else None,
        )
    if "test" in parts and parts["test"] != parts.get("val"):
        evals["test"] = Eval(stream=_ordered(parts["test"], batch), every=None)
    return evals


def _ordered(part: Part, batch: int) -> Ordered:
    return Ordered(source=part.source, batch=batch, transform=part.pipeline.transforms)


# ----------------------------------------------------------------------------------------- optimizer and schedule


def _length(read: Reading) -> tuple[Epochs | Steps, bool]:
    """How long, and whether what does not say counts epochs."""
    keys = read.keys
    kind = keys.take("runner.type", "length", "EpochBasedRunner")
    if kind not in ("EpochBasedRunner", "IterBasedRunner"):
        keys.refuse("runner.type", "there are EpochBasedRunner and IterBasedRunner")
    epochs, steps = keys.take("runner.max_epochs", "length"), keys.take("runner.max_iters", "length")
    total = keys.take("total_epochs", "length")
    if kind == "IterBasedRunner" or steps is not None:
        if steps is None:
            raise keys.error("runner.max_iters", "is missing")
        return Steps(steps), kind != "IterBasedRunner"
    epochs = total if epochs is None else epochs
    if epochs is None:
        raise ConfigError(
            "the config says no length: neither runner.max_epochs nor total_epochs (a base is missing?)"
        )
    return Epochs(epochs), True


def _optimizer(
    read: Reading, task: Classify, by_epoch: bool
) -> tuple[Optim, tuple[Rule, ...], Schedule, Schedule | None]:
    keys = read.keys
    config = keys.get("optimizer")
    if not isinstance(config, Mapping) or "type" not in config or "lr" not in config:
        raise keys.error("optimizer", "has no type or no lr (a base is missing?)")
    for option in keys.children("optimizer"):
        name = option.rpartition(".")[2]
        where = f"optim.{name}" if name in ("lr", "weight_decay") else f"optim.options.{name}"
        keys.take(option, {"type": "optim.name", "paramwise_cfg": "rules"}.get(name, where))
    if keys.get("optimizer.constructor", "DefaultOptimizerConstructor") == "DefaultOptimizerConstructor":
        keys.leave("optimizer.constructor", "rules say it all")
    else:
        keys.refuse("optimizer.constructor", "write its groups as rules")
    scheduled = lr_schedule(_mapping(read, "lr_config"), by_epoch=by_epoch, compat=read.compat)
    momentum = momentum_schedule(_mapping(read, "momentum_config"), by_epoch=by_epoch, compat=read.compat)
    keys.take("lr_config", "schedule")
    keys.take("momentum_config", "momentum")
    read.notes += [*scheduled.notes, *(momentum.notes if momentum else ())]
    options = {name: value for name, value in config.items() if name not in _PLAIN_OPTIONS}
    if scheduled.base is not None:
        keys.take("lr_config.max_lr", "optim.lr")
        keys.leave("optimizer.lr", "OneCycle's max_lr is the peak")
    if momentum is not None and momentum.base is not None:
        options |= _base_momentum(read, str(config["type"]), options, momentum.base)
    decay = config.get("weight_decay")
    default = 0.01 if config["type"] == "AdamW" else 0.0
    optim = Optim(
        name=str(config["type"]),
        lr=config["lr"] if scheduled.base is None else scheduled.base,
        weight_decay=default if decay is None else decay,
        options=options,
    )
    found = paramwise_rules(
        config.get("paramwise_cfg"), _module(task), decay, names=_old_names(task), compat=read.compat
    ) if config.get("paramwise_cfg") else None  # fmt: skip
    read.notes += found.notes if found else ()
    return optim, found.rules if found else (), scheduled.schedule, momentum.schedule if momentum else None


def _base_momentum(read: Reading, optimizer: str, options: Mapping[str, Any], base: float) -> dict[str, Any]:
    """The option that OneCycle's base_momentum is: the first beta of Adam's kind, else the momentum."""
    name = "betas" if "betas" in options or optimizer.startswith(("Adam", "NAdam", "RAdam")) else "momentum"
    read.keys.take("momentum_config.base_momentum", f"optim.options.{name}")
    if name == "betas":
        return {name: (base, options.get(name, (0.9, 0.999))[1])}
    read.keys.leave("optimizer.momentum", "OneCycle's base_momentum is what it starts from")
    return {name: base}


def _mapping(read: Reading, key: str) -> Mapping[str, Any] | None:
    value = read.keys.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise read.keys.error(key, f"is a dict, got {value!r}")
    return value


def _module(task: Classify) -> Any:
    """The task's module, its tensors without values: rules look at names and layers only."""
    import torch
    from torch import nn

    with torch.device("meta"):
        holder = nn.Module()
        holder.net = task.net.build(max(2, len(task.classes)), task.channels)
    return holder


def _old_names(task: Classify) -> dict[str, str]:
    """The original's name of each parameter, which is what its custom keys are compared with."""
    return {
        name: zoo.old_name(task.net, name.removeprefix("net."))
        for name, _ in _module(task).named_parameters()
    }


# --------------------------------------------------------------------------------------------------- at run time


def _workflow(read: Reading) -> None:
    """Refuse modes that there are not, by name; what is left is one loop with evaluations."""
    keys = read.keys
    flow = keys.take("workflow", "train; the losses on the validation data are part of every evaluation", ())
    for place, entry in enumerate(flow or ()):
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise keys.error("workflow", f"is a list of (mode, epochs), got {entry!r}")
        mode, epochs = entry
        if not isinstance(mode, str):
            raise keys.error(
                f"workflow.{place}", f"has a mode of type {type(mode).__name__}: {mode!r}; it is a text"
            )
        if mode not in _MODES:
            raise keys.error(
                f"workflow.{place}",
                f"has the mode {mode!r}, which no runner has; there are {' and '.join(_MODES)}",
            )
        if not isinstance(epochs, int) or epochs < 1:
            raise keys.error(
                f"workflow.{place}", f"runs {mode} for {epochs!r} epochs; that is a number from 1"
            )
    if flow and not any(mode == "train" for mode, _ in flow):
        raise keys.error("workflow", "never trains")


def _how(read: Reading, norms: str | None) -> How:
    keys = read.keys
    clip = None
    grad = keys.take("optimizer_config.grad_clip", "how.clip")
    if grad:
        clip = Clip(norm=float(grad["max_norm"]), norm_type=float(grad.get("norm_type", 2)))
    half = keys.take("fp16", "how.precision") is not None
    kind = keys.get("optimizer_config.type", "OptimizerHook")
    if kind in ("OptimizerHook", "Fp16OptimizerHook"):
        keys.take("optimizer_config.type", "how")
        half = half or kind == "Fp16OptimizerHook"
        keys.leave("optimizer_config.loss_scale", "the scale finds itself")
    else:
        keys.refuse("optimizer_config.type", "there are OptimizerHook and Fp16OptimizerHook")
    keys.leave("optimizer_config.distributed", "launching decides")
    return How(
        precision="fp16" if half else "fp32",
        clip=clip,
        ema=_ema(read),
        frozen_norms=norms,
        cudnn_benchmark=bool(keys.take("cudnn_benchmark", "how.cudnn_benchmark", False)),
    )


def _ema(read: Reading) -> Ema | None:
    """mmcv's EMAHook. Its factor for an interval is momentum ** interval, which is far too small; here it is exact."""
    keys, found = read.keys, None
    for hook in keys.children("custom_hooks"):
        if keys.get(f"{hook}.type") != "EMAHook" or keys.get(f"{hook}.resume_from") is not None:
            keys.refuse(hook, "write it as a statement of your own loop (examples/own_loop.py)")
            continue
        momentum = keys.get(f"{hook}.momentum", 0.0002)
        every = keys.get(f"{hook}.interval", 1)
        keys.take(hook, "how.ema")
        keys.leave(f"{hook}.warm_up", "it never comes into force there for a momentum below 1 / warm_up")
        found = Ema(decay=(1.0 - momentum) ** every, ramp=1.0, every=every)
    return found


def _save(read: Reading, by_epoch: bool) -> Save:
    keys, at = read.keys, "checkpoint_config"
    interval = keys.take(f"{at}.interval", "save.every", 1)
    keep = keys.take(f"{at}.max_keep_ckpts", "save.keep", -1)
    epochs = keys.take(f"{at}.by_epoch", "save.every", by_epoch)
    for name, why in _SAVE_LEFT.items():
        keys.leave(f"{at}.{name}", why)
    if keys.get(at) and keep < 1:
        read.notes.append(
            "the original keeps every checkpoint; here two and the best stay: save.keep, save.milestones"
        )
    every: Any = None if interval < 1 else Epochs(interval) if epochs else Steps(interval)
    return Save(every=every, keep=keep if keep >= 1 else 2)


_SAVE_LEFT = {
    "save_optimizer": "checkpoints hold everything that a run needs", "create_symlink": "`latest` is a one-line file",
    "out_dir": "checkpoints lie in the run's directory", "meta": "run.json and provenance.json hold it",
    "sync_buffer": "batch norm is told by how.sync_norm",
}  # fmt: skip


def _log(read: Reading) -> Log:
    keys, board = read.keys, False
    interval = keys.take("log_config.interval", "log.every", 10)
    for hook in keys.children("log_config.hooks"):
        kind = keys.get(f"{hook}.type")
        if kind == "TextLoggerHook":
            keys.take(hook, "console, log.txt, log.jsonl: always")
        elif kind == "TensorboardLoggerHook":
            keys.take(hook, "log.tensorboard")
            board = True
        else:
            keys.refuse(hook, "logs go to the console, files and TensorBoard")
    return Log(every=Steps(interval), tensorboard=board)


_LEFT = {
    "dist_params": "gloo or nccl, whichever fits the device", "log_level": "--log-level",
    "find_unused_parameters": "a task knows whether it has idle parts", "device": "host.device",
    "resume_from": "a run goes on by: visloom import-checkpoint mmcls FILE --into THIS --out CKPT; visloom resume CKPT",
    "dataset_type": "a variable of the file", "img_norm_cfg": "a variable of the file",
    "train_pipeline": "a variable of the file", "test_pipeline": "a variable of the file",
}  # fmt: skip


def _rest(read: Reading) -> None:
    """Say a word about what is left at the top level."""
    keys = read.keys
    for name, why in _LEFT.items():
        keys.leave(name, why)
    if keys.get("load_from") is None:
        keys.leave("load_from", "there is none")
    else:
        keys.refuse("load_from", "visloom import-checkpoint mmcls FILE --out CKPT, then init.model=CKPT")
    keys.refuse("custom_imports", "a config is read, not executed: name classes of your own in the recipe")
    seen = _texts([value for name, value in keys.tree.values.items() if name in ("model", "data")])
    for name, value in keys.tree.values.items():
        if name not in TOP and (name in keys.tree.variables or repr(value) in seen):
            keys.leave(name, "a variable of the file")


def _texts(value: Any) -> set[str]:
    """Every value inside a value, as text."""
    found = {repr(value)}
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        found |= _texts(item)
    return found
