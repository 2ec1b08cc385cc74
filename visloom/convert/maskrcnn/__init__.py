"""Detectors of maskrcnn-benchmark and its domain-adaptive forks, Detectron (.pkl), torchvision and detectron2.

A checkpoint is {"model": {...}, "optimizer": ..., "iteration": ...} or the tensors alone; Detectron's is a pickle of
blobs. Which detector it is (C4 or pyramid, depth, width, classes, branches, discriminators) follows from the shapes.
`config` reads the YAML files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visloom.convert.common import ConvertedWeights, Row, named_classes, only_file, without_data
from visloom.convert.maskrcnn import names
from visloom.convert.maskrcnn.catalog import resolve
from visloom.convert.maskrcnn.settings import config
from visloom.convert.maskrcnn.structure import detector
from visloom.convert.oldfiles import Old, read_old
from visloom.data.shortside import ShortSide
from visloom.errors import ConfigError
from visloom.run import Run
from visloom.task import TaskSpec
from visloom.tasks.adapt import DAFRCNN_2018, SADA, Adapt
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.detect import Detect, FasterRCNN, RetinaNet

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NAMES", "TASKS", "config", "original", "recognises", "weights"]

NAMES = ("maskrcnn", "maskrcnn-benchmark", "detectron", "detectron2", "torchvision-detection")
TASKS = ("Detect", "Adapt")

Flavour = Literal["benchmark", "detectron", "torchvision", "detectron2"]
DETECTRON2 = Normalise((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))


def recognises(keys: Collection[str], extra: Mapping[str, Any]) -> bool:
    """Say whether a file with these tensors is a detector of one of these programs."""
    return flavour(keys) is not None


def flavour(keys: Collection[str]) -> Flavour | None:
    """Which program wrote these tensors."""
    bare = {key.removeprefix("module.") for key in keys}
    if any(k.startswith(("proposal_generator.", "backbone.bottom_up.")) for k in bare):
        return "detectron2"
    if any(k.startswith(("backbone.body.stem.", "roi_heads.box.predictor.")) for k in bare):
        return "benchmark"
    if any(k.startswith(("rpn.head.conv.0.0.", "head.classification_head.")) for k in bare):
        return "torchvision"
    if any(re.fullmatch(r"res\d_\d+_branch2a_w", k) for k in bare):
        return "detectron"
    return None


def weights(
    files: Sequence[Path], *, into: Run | None = None, at: str | None = None, classes: str = ""
) -> ConvertedWeights:
    """Convert one checkpoint.

    Args:
        files: one file, or a catalog name (`catalog://ImageNetPretrained/MSRA/R-50`, `torchvision://...`).
        into: the run it belongs to. Tensors that the file does not have, or has in another shape (another number of
            classes), then start afresh.
        at: not used: the file says how far its training was, and weights alone never continue it.
        classes: a text file with one class name per line, without the background.
    Raises:
        ConfigError: the file is of none of these programs, or does not belong to `into`.
    """
    path = resolve(str(only_file(files)))
    old = read_old(path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in old.tensors.items()}
    kind = flavour(tensors)
    if kind is None:
        raise ConfigError(f"{path} holds no detector of {', '.join(NAMES)}")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if into is not None:
        task: Detect = _task_of(into)
    elif kind == "detectron":
        if not any(name.startswith("cls_score") for name in shapes):
            raise ConfigError(
                f"{path} holds a backbone alone: name the run that it starts with --into RECIPE; heads start afresh"
            )
        raise ConfigError(
            f"{path}: a Detectron model needs --into RECIPE, whose net says how its parts are joined"
        )
    else:
        task = _task(kind, shapes, named_classes(classes))
    return _converted(old, tensors, kind, task, into)


def _task_of(run: Run) -> Detect:
    if not isinstance(run.task, Detect):
        raise ConfigError(f"--into has the task {type(run.task).__name__}, these weights are of a detector")
    if not run.task.classes:
        raise ConfigError("the task of --into has no classes yet: set task.classes", path="task.classes")
    return run.task


def _task(kind: Flavour, shapes: Mapping[str, tuple[int, ...]], named: tuple[str, ...]) -> Detect:
    """The task that a file's tensors are of."""
    net, count = detector(kind, shapes)
    if named and len(named) != count:
        raise ConfigError(f"{len(named)} class names for a head of {count} classes")
    classes = named or tuple(map(str, range(1, count + 1)))
    if kind == "torchvision":
        return Detect(net=net, classes=classes)
    if kind == "detectron2":
        return Detect(net=net, classes=classes, normalise=DETECTRON2, order="bgr")
    domain = {key for key in shapes if key.startswith("da_heads.")}
    if domain:
        align = SADA if any("_level" in key for key in domain) else DAFRCNN_2018
        if not any("inshead" in key for key in domain):
            align = replace(align, instance=0.0)
        if not any("imghead" in key for key in domain):
            align = replace(align, image=0.0)
        return Adapt(net=net, classes=classes, compat=True, align=align)
    return Detect(net=net, classes=classes, compat=True)


def _converted(
    old: Old, tensors: Mapping[str, Tensor], kind: Flavour, task: Detect, into: Run | None
) -> ConvertedWeights:
    """Tensors under our names, fresh ones where `into` allows it, and what became of each of the file's."""
    fresh = _fresh(task)
    back = _changes(kind, task)
    wanted = {name: _old_name(name, kind, task) for name in fresh}
    loaded, used = dict(tensors), {}
    if kind == "detectron":
        renamed = names.caffe2_names(list(tensors))
        used = {new: blob for blob, new in renamed.items()}
        loaded = {new: tensors[blob] for new, blob in used.items()}
    ready = {name: _ready(back, name, wanted[name], loaded) for name in fresh}
    shapes = {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    ours: dict[str, Tensor] = {}
    taken: dict[str, str] = {}
    loose = names.by_suffix({wanted[n]: tuple(fresh[n].shape) for n in fresh if ready[n] is None}, shapes)
    for name, start in fresh.items():
        exact = ready[name]
        if exact is not None and exact.shape == start.shape:
            ours[name], taken[wanted[name]] = exact, name
        elif exact is None and wanted[name] in loose:
            ending = loose[wanted[name]]
            ours[name], taken[ending] = loaded[ending], name
    missing = [name for name in fresh if name not in ours]
    if missing and into is None:
        raise ConfigError(
            f"{old.path} lacks {len(missing)} of {len(fresh)} tensors of its own network, for one "
            f"{wanted[missing[0]]}; to start a run from what is there, name it with --into RECIPE"
        )
    for name in missing:
        ours[name] = fresh[name]
    rows = tuple(_row(name, used, taken, loaded) for name in old.tensors)
    if kind == "detectron":  # its norms are affine alone: means of 0 and variances of 1 are right
        missing = [name for name in missing if not name.endswith((".running_mean", ".running_var"))]
    notes = [f"{kind}: {type(task.net).__name__}, {len(task.classes)} classes", *_colours(task)]
    if missing:
        notes.append(f"{len(missing)} tensors start afresh: {', '.join(missing[:3])}, ...")
    run = (
        without_data(task, transform=(ShortSide(short=(800,), longest=1333),), batch=1)
        if into is None
        else replace(into, task=task)
    )
    return ConvertedWeights(task, ours, rows, tuple(notes), run=run)


def _colours(task: Detect) -> list[str]:
    order = "blue, green, red" if task.reversed_channels else "red, green, blue"
    return [f"the network sees {order}, minus {task.normalisation().mean}; pictures are turned on the device"]


def _fresh(task: Detect) -> dict[str, Tensor]:
    """The task's tensors as they start, drawn under a fixed key."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(task.bare().build().state_dict())


def _row(name: str, used: Mapping[str, str], taken: Mapping[str, str], loaded: Mapping[str, Tensor]) -> Row:
    """What became of one tensor of the file."""
    bare = name.removeprefix("module.")
    new = next((key for key, blob in used.items() if blob == bare), bare)
    if new in taken:
        return Row(name, "taken", taken[new])
    if "anchor" in bare:
        return Row(name, "not needed", "anchors are computed")
    if bare.endswith("_momentum") or bare in ("lr", "weight_order", "model_iter"):
        return Row(name, "not needed", "state of the old optimizer")
    if bare.endswith("num_batches_tracked"):
        return Row(name, "not needed", "counts batches; frozen norms have none")
    if re.search(r"mask\.feature_extractor\.head\.layer4\.", bare):
        return Row(name, "not needed", "the box head's last stage, which the masks share")
    if re.fullmatch(r"(fc1000|pred|fc)[._].*", bare):
        return Row(name, "not needed", "ImageNet's classes")
    if new in loaded and re.search(r"cls_score|bbox_pred|cls_logits|mask_fcn_logits|_da|da_", new):
        return Row(
            name, "not needed", "of another number of classes, or of a head that the run does not have"
        )
    return Row(name, "not supported", "the network has no such tensor")


def _old_name(name: str, kind: Flavour, task: Detect) -> str:
    """Our name in the old program."""
    if name.startswith("teacher."):
        name = "net." + name.removeprefix("teacher.")
    if name.startswith("domain."):
        align = task.align if isinstance(task, Adapt) else None
        return names.discriminator_name(name, levels=align is not None and align.heads == "levels")
    if kind == "torchvision":
        return names.torchvision_name(name)
    if kind == "detectron2":
        pyramid = getattr(task.net, "neck", "fpn") == "fpn"
        return names.detectron2_name(name).replace("BODY", "backbone.bottom_up" if pyramid else "backbone")
    return names.benchmark_name(name, retina=isinstance(task.net, RetinaNet))


def _changes(kind: Flavour, task: Detect) -> dict[str, names.Change]:
    """What is done to tensors of detectron2, by our name."""
    import torch

    if kind != "detectron2":
        return {}

    def background_first(rows: int) -> Callable[[Tensor], Tensor]:
        return lambda t: torch.cat([t[-rows:], t[:-rows]])

    def no_background(rows: int) -> Callable[[Tensor], Tensor]:
        return lambda t: torch.cat([t.new_zeros(rows, *t.shape[1:]), t])

    found: dict[str, names.Change] = {}
    for rest in ("weight", "bias"):
        found[f"net.roi.predictor.cls_score.{rest}"] = background_first(1)
        found[f"net.roi.predictor.bbox_pred.{rest}"] = no_background(4)
        found[f"net.masks.predictor.mask_fcn_logits.{rest}"] = no_background(1)
    net = task.net
    if isinstance(net, FasterRCNN) and net.neck == "c4":
        sizes, ratios = len(net.anchors), len(net.ratios)

        def by_ratio(each: int) -> Callable[[Tensor], Tensor]:
            return lambda t: (
                t.view(sizes, ratios, each, *t.shape[1:]).transpose(0, 1).reshape(t.shape).contiguous()
            )

        for rest in ("weight", "bias"):
            found[f"net.rpn.head.cls_logits.{rest}"] = by_ratio(1)
            found[f"net.rpn.head.bbox_pred.{rest}"] = by_ratio(4)
    return found


def _ready(
    changes: Mapping[str, names.Change], name: str, old: str, loaded: Mapping[str, Tensor]
) -> Tensor | None:
    """The tensor of exactly that name, changed as its program demands; None if there is none."""
    tensor = loaded.get(old)
    if tensor is None:
        return None
    change = changes.get(name)
    return tensor if change is None else change(tensor)


def original(task: TaskSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a detector's tensors under the names of maskrcnn-benchmark and its forks.

    Raises ConfigError for a body that they do not have.
    """
    assert isinstance(task, Detect)
    if not isinstance(task.net, FasterRCNN | RetinaNet) or type(task.net.body).__name__ != "ResNetBody":
        raise ConfigError(f"maskrcnn-benchmark has no such network: {task.net!r}")
    return {
        _old_name(name, "benchmark", task): tensor
        for name, tensor in tensors.items()
        if not name.startswith("teacher.")
    }
