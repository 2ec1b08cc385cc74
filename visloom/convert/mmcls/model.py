"""The model of a config of mmclassification: backbone, neck, head and loss become a network and a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visloom.convert.mmcls import zoo
from visloom.convert.mmcls.pipelines import Part
from visloom.convert.mmcls.reading import CLASSES, Reading
from visloom.errors import ConfigError
from visloom.run import Rule
from visloom.tasks.classify import Asymmetric, BinaryCrossEntropy, Classify, Focal, MultiLabel, NetSpec


def backbone(read: Reading) -> tuple[NetSpec, tuple[Rule, ...], str | None]:
    """The network; rules that freeze the first stages; which norms keep their statistics."""
    keys, at = read.keys, "model.backbone"
    if not isinstance(keys.get(at), Mapping):
        raise ConfigError("the config has no model.backbone: it trains nothing")
    keys.take("model.type", "task", "ImageClassifier")
    if keys.get("model.type") not in (None, "ImageClassifier"):
        keys.refuse("model.type", "only an ImageClassifier classifies images")
    for option in ("model.train_cfg", "model.test_cfg"):
        if keys.get(option):
            keys.refuse(option, "mixed pictures are task.mixup and task.cutmix; nothing else is known of it")
        else:
            keys.leave(option, "it says nothing")
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


def norms(read: Reading) -> tuple[bool, tuple[Rule, ...]]:
    """Whether several processes share the statistics of norms, and a rule that freezes norms that do not learn."""
    keys, at = read.keys, "model.backbone.norm_cfg"
    kind = keys.get(f"{at}.type", "BN")
    if kind not in ("BN", "SyncBN"):
        keys.refuse(f"{at}.type", "the networks have BN, or SyncBN")
    for name, usual in (("momentum", 0.1), ("eps", 1e-5)):
        if keys.get(f"{at}.{name}", usual) != usual:
            keys.refuse(f"{at}.{name}", f"only {usual}")
    learns = keys.get(f"{at}.requires_grad", True)
    return kind == "SyncBN", () if learns else (Rule(kind="norm", frozen=True),)


def head(read: Reading, net: NetSpec, parts: Mapping[str, Part]) -> Classify:
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
    part = parts["train"]
    normalise = part.pipeline.normalise
    for name, other in parts.items():
        if other.pipeline.normalise != normalise:
            steps = keys.children(f"data.{name}.pipeline")
            own = [step for step in steps if keys.get(f"{step}.type") == "Normalize"]
            keys.refuse(own[0] if own else f"data.{name}", "normalised differently than in training")
    channels = 1 if "MNIST" in part.kind else 3
    if keys.get("model.backbone.in_channels", channels) != channels:
        keys.refuse("model.backbone.in_channels", f"the data's pictures have {channels}")
    if part.classes and count and len(part.classes) != count:
        raise keys.error("data.train.classes", f"names {len(part.classes)} classes, the head has {count}")
    names = part.classes
    if names and part.kind in _NAMED:
        for key in (f"data.{name}.classes" for name in parts):
            if keys.has(key):
                keys.refuse(key, f"the classes of {part.kind} keep the names that the data give them")
        names = ()
    classes = names or _numbered(part.kind, count)
    if "smoothing" in more:
        more["topk"] = _topk(read, count or CLASSES.get(part.kind, 1))
    make = MultiLabel if "loss" in more else Classify
    with keys.making(at):
        return make(
            net=net,
            classes=classes,
            channels=channels,
            normalise="net" if normalise is None else normalise,
            **more,
        )


_NAMED = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
"""Data sets that name their classes: a run compares those with its task's, so others could not be trained."""


def _topk(read: Reading, classes: int) -> tuple[int, ...]:
    """Which top-k accuracies an evaluation counts: its own, else the head's, else mmclassification's (1, 5)."""
    keys, own, heads = read.keys, "evaluation.metric_options.topk", "model.head.topk"
    keys.leave("evaluation.metric_options.average_mode", "the report has the values of each class")
    keys.take(own, "task.topk")
    keys.take(heads, "task.topk", None)
    key = own if keys.has(own) else heads
    value = keys.get(key, (1, 5))
    topk = (value,) if isinstance(value, int) else value
    if not isinstance(topk, list | tuple) or not topk or any(type(k) is not int or k < 1 for k in topk):
        raise keys.error(key, f"is a number from 1 or several, got {value!r}")
    useful = tuple(k for k in topk if k == 1 or k < classes)
    if keys.has(key) and len(useful) < len(topk):
        read.notes.append(
            f"top-{max(topk)} of {classes} classes says nothing: {key} is cut to {useful or (1,)}"
        )
    return useful or (1,)


def _numbered(kind: str, count: Any) -> tuple[str, ...]:
    """() where the data name as many classes as the head has; else numbers."""
    usual = CLASSES.get(kind)
    return (
        ()
        if usual == count or kind == "ImageNet" or not isinstance(count, int)
        else tuple(map(str, range(count)))
    )


_ONE_LOSS: dict[str, tuple[Any, ...]] = {"loss_weight": (1, 1.0), "reduction": ("mean",)}


def _options_of_a_loss(read: Reading, kind: str, usual: Mapping[str, tuple[Any, ...]]) -> None:
    """Take what is as here, and refuse the rest with its reason; who knows more options takes them afterwards."""
    keys, at = read.keys, "model.head.loss"
    for option in keys.children(at):
        name = option.rpartition(".")[2]
        if name not in usual:
            keys.refuse(option, f"no such option of {kind} here")
        elif keys.get(option) in usual[name]:
            keys.take(option, "as here")
        else:
            keys.refuse(option, f"only {usual[name][0]}")


def _loss(read: Reading) -> float:
    """Label smoothing."""
    keys, at = read.keys, "model.head.loss"
    kind = keys.get(f"{at}.type", "CrossEntropyLoss")
    _options_of_a_loss(read, kind, {**_ONE_LOSS, "use_sigmoid": (False,)})
    keys.take(f"{at}.type", "cross entropy")
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
    _options_of_a_loss(read, kind, {**_ONE_LOSS, "use_sigmoid": (True,)})
    keys.take(f"{at}.type", "task.loss")
    if kind == "CrossEntropyLoss" and keys.has(f"{at}.type") and not keys.get(f"{at}.use_sigmoid", False):
        keys.refuse(f"{at}.type", "several labels per picture need use_sigmoid=True")
    given = {
        name: keys.take(f"{at}.{name}", f"task.loss.{name}") for name in options if keys.has(f"{at}.{name}")
    }
    chosen = {
        ours: keys.take(f"evaluation.metric_options.{theirs}", f"task.{ours}")
        for theirs, ours in (("thr", "threshold"), ("k", "k"))
        if keys.get(f"evaluation.metric_options.{theirs}") is not None
    }
    if len(chosen) == 2:  # as there
        del chosen["k"]
        keys.leave("evaluation.metric_options.k", "not looked at where there is a thr")
    with keys.making(at):
        return {"loss": make(**given), **chosen}
