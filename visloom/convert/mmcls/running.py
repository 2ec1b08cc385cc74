"""What a config of mmclassification says of running: workflow, precision, hooks, checkpoints, logs, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visloom.convert.mmcls.reading import Reading
from visloom.run import Clip, Ema, How, Log, Save
from visloom.units import Epochs, Steps

TOP = (
    "model", "data", "dataset_type", "img_norm_cfg", "train_pipeline", "test_pipeline", "optimizer",
    "optimizer_config", "lr_config", "momentum_config", "total_epochs", "runner", "checkpoint_config", "log_config",
    "evaluation", "dist_params", "log_level", "load_from", "resume_from", "workflow", "work_dir", "gpu_ids", "seed",
    "cudnn_benchmark", "find_unused_parameters", "custom_hooks", "custom_imports", "fp16", "device",
)  # fmt: skip
_MODES = ("train", "val")


def check_workflow(read: Reading) -> None:
    """Refuse modes that there are not, by name; what is left is one loop with evaluations."""
    keys = read.keys
    said = "train; the losses on the validation data are part of every evaluation"
    flow = keys.take("workflow", said)
    if flow is not None and not isinstance(flow, list | tuple):
        raise keys.error("workflow", f"is a list of (mode, epochs), got {flow!r}")
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
    if flow is not None and not any(mode == "train" for mode, _ in flow):
        raise keys.error("workflow", "never trains")


def how(read: Reading, norms: str | None, *, sync: bool = False) -> How:
    """How updates are computed. norms: which keep their statistics.  sync: whether processes share them."""
    keys = read.keys
    clip = None
    grad = keys.take("optimizer_config.grad_clip", "how.clip")
    if grad:
        if "max_norm" not in grad:
            raise keys.error("optimizer_config.grad_clip", "has no max_norm")
        with keys.making("optimizer_config.grad_clip"):
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
        sync_norm=sync,
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
        with keys.making(hook):
            found = Ema(decay=(1.0 - momentum) ** every, ramp=1.0, every=every)
    return found


def save(read: Reading, by_epoch: bool) -> Save:
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
    with keys.making(f"{at}.interval"):
        every: Any = None if interval < 1 else Epochs(interval) if epochs else Steps(interval)
    return Save(every=every, keep=keep if keep >= 1 else 2)


_SAVE_LEFT = {
    "save_optimizer": "checkpoints hold everything that a run needs", "create_symlink": "`latest` is a one-line file",
    "out_dir": "checkpoints lie in the run's directory", "meta": "run.json and provenance.json hold it",
    "sync_buffer": "batch norm is told by how.sync_norm",
}  # fmt: skip


def log(read: Reading) -> Log:
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
    with keys.making("log_config.interval"):
        return Log(every=Steps(interval), tensorboard=board)


_SECTIONS = (
    "evaluation", "checkpoint_config", "log_config", "optimizer_config", "lr_config", "momentum_config", "fp16",
    "custom_hooks", "runner",
)  # fmt: skip
_LEFT = {
    "dist_params": "gloo or nccl, whichever fits the device", "log_level": "--log-level",
    "find_unused_parameters": "a task knows whether it has idle parts", "device": "host.device",
    "resume_from": "a run goes on by: visloom import-checkpoint mmcls FILE --into THIS --out CKPT; visloom resume CKPT",
    "dataset_type": "a variable of the file", "img_norm_cfg": "a variable of the file",
    "train_pipeline": "a variable of the file", "test_pipeline": "a variable of the file",
}  # fmt: skip


def rest(read: Reading) -> None:
    """Say a word about what is left at the top level."""
    keys = read.keys
    for name, why in _LEFT.items():
        keys.leave(name, why)
    for name in _SECTIONS:
        if keys.get(name) is None:
            keys.leave(name, "it says nothing")
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
