"""The PyTorch-segmentation template: its checkpoints (UNet and PSPNet) and its JSON configs.

A checkpoint is {"arch", "epoch", "state_dict", "optimizer", "monitor_best", "config"}, with "module." before every
name, or a bare state dict. Tensors have the same names here, behind "net.". Every key of a config is accounted for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.convert.common import ConvertedConfig, ConvertedWeights, Row, Verdict, named_classes, only_file
from visloom.convert.oldfiles import Old, read_old
from visloom.data.photometric import GaussianBlur
from visloom.data.transforms import Pad, RandomCrop, RandomFlip, RandomRotation, RandomScale, Resize
from visloom.errors import ConfigError
from visloom.run import Eval, Host, How, Log, Optim, Rule, Run, Save
from visloom.schedule import OneCycle, Poly, Schedule
from visloom.stream import Ordered, Shuffled, Split
from visloom.task import TaskSpec
from visloom.tasks.segment import CrossEntropy, CrossEntropyDice, Dice, Focal, Lovasz, Segment
from visloom.tasks.segment.nets import IMAGENET, Enet, Fcn8s, NetSpec, Normalise, Pspnet, Segnet, Smp, Unet
from visloom.units import Epochs, Monitor, Steps

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("template", "pytorch-segmentation")
TASKS = ("Segment",)

LOSSES: Mapping[str, Any] = {
    "CrossEntropyLoss2d": CrossEntropy(),
    "DiceLoss": Dice(),
    "FocalLoss": Focal(),
    "CE_DiceLoss": CrossEntropyDice(),
    "LovaszSoftmax": Lovasz(),
}
"""The original's losses, in their right forms: ignored pixels are left out."""

VALUES = {"Mean_IoU": "miou_all", "Pixel_Accuracy": "pixel_accuracy", "val_loss": "loss", "loss": "loss"}
"""What the original monitors -> what is reported here. Its mean counts absent classes as 0; `miou` leaves them out."""

_DEPTHS: Mapping[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- weights


def recognises(keys: Collection[str], extra: Mapping[str, Any]) -> bool:
    """Say whether a file with these tensors is a UNet or PSPNet of the template."""
    names = {key.removeprefix("module.") for key in keys}
    return names >= _UNET or names >= _PSP


_UNET = {"start_conv.0.weight", "middle_conv.0.weight", "up1.up_conv.0.weight", "final_conv.weight"}
_PSP = {"layer4.0.conv1.weight", "master_branch.0.stages.0.1.weight", "master_branch.1.weight"}


def weights(
    files: Sequence[Path],
    *,
    into: Run | None = None,
    at: str | None = None,
    classes: str = "",
    data: str = "",
) -> ConvertedWeights:
    """Convert one checkpoint.

    Args:
        into: the run it belongs to; its task must have the same network.
        at: not needed: the file says its epoch.
        classes: a text file with one class name per line, where the data set is not known.
        data: the data set it was trained on (VOC, CityScapes, ADE20K, COCO, DeepScene, Clothes), where the file does
            not say: class names, colours and normalisation are those of the data set.
    Raises:
        ConfigError: the file is no UNet or PSPNet of the template, or does not belong to `into`.
    """
    old = read_old(only_file(files))
    tensors = {name.removeprefix("module."): tensor for name, tensor in old.tensors.items()}
    net, count, channels = _net({name: tuple(tensor.shape) for name, tensor in tensors.items()}, old.path)
    settings = old.extra.get("config")
    given = settings if isinstance(settings, Mapping) else {}
    kind = data or str(_dig(given, "train_loader", "type") or "")
    task, notes = _task(net, count, channels, kind, classes)
    if into is not None:
        task = _joined(task, into, old.path)
    ours = {f"net.{name}": tensor for name, tensor in tensors.items()}
    wanted = _our_names(task)
    rows = [
        Row(name, "taken", f"net.{name.removeprefix('module.')}")
        if f"net.{name.removeprefix('module.')}" in wanted
        else Row(name, "not supported", f"{type(net).__name__} has no such tensor")
        for name in old.tensors
    ]
    ours = {name: tensor for name, tensor in ours.items() if name in wanted}
    run = None if into is None else replace(into, task=task)
    epoch = old.extra.get("epoch")
    notes = (*notes, f"trained for {epoch} epochs") if isinstance(epoch, int) else notes
    return ConvertedWeights(task, ours, (*rows, *_others(old)), notes, run=run)


def _others(old: Old) -> list[Row]:
    """What else stands in the file."""
    about = {
        "arch": "always the name of a wrapper; the tensors tell the network",
        "epoch": "told in a note; steps per epoch are not known without the data",
        "optimizer": "its moments stand in an order that the file does not tell",
        "monitor_best": "of an evaluation of the middle square; the next evaluation counts anew",
        "config": "its data set gives classes and normalisation; visloom import-config takes a whole config",
    }
    return [Row(name, "not needed", about.get(name, "no part of the weights")) for name in old.extra]


def _net(shapes: Mapping[str, tuple[int, ...]], path: Path) -> tuple[NetSpec, int, int]:
    """The network that tensors belong to, its number of classes, and of the images' channels."""
    if shapes.keys() >= _UNET:
        first = shapes["start_conv.0.weight"]
        depth = sum(f"down{level}.down_conv.0.weight" in shapes for level in range(1, 9))
        return (
            Unet(width=shapes["start_conv.3.weight"][0], depth=depth),
            shapes["final_conv.weight"][0],
            first[1],
        )
    if shapes.keys() >= _PSP:
        blocks = tuple(
            len({name.split(".")[1] for name in shapes if name.startswith(f"layer{stage}.")})
            for stage in (1, 2, 3, 4)
        )
        bottleneck = "layer1.0.conv3.weight" in shapes
        name = "resnet34" if blocks == (3, 4, 6, 3) and not bottleneck else _DEPTHS.get(blocks)
        stem = shapes.get("initial.0.0.weight") or shapes.get("initial.0.weight")
        if name is not None and stem is not None:
            return Pspnet(name), shapes["master_branch.1.weight"][0], stem[1]
    older = (
        " It looks like the UNet of the template's first version, which had other layers."
        if "down1.down_conv.0.weight" in shapes and "start_conv.0.weight" not in shapes
        else ""
    )
    raise ConfigError(f"{path} is neither a UNet nor a PSPNet of the template.{older}")


def _task(
    net: NetSpec, count: int, channels: int, kind: str, classes: str
) -> tuple[Segment, tuple[str, ...]]:
    """The task of a network: classes, colours and normalisation of its data set, where that is known."""
    known = _data(kind) if kind else None
    notes: tuple[str, ...] = ()
    names = named_classes(classes)
    if classes:
        if len(names) != count:
            raise ConfigError(f"{len(names)} class names for a head of {count} classes")
    elif known is not None and len(known.classes) == count:
        names = known.classes
    elif known is not None:
        notes = (f"{kind} has {len(known.classes)} classes and the head {count}: classes are numbered",)
    names = names or tuple(map(str, range(count)))
    colours = known.colours if known is not None and len(known.colours) == count else ()
    normalise = known.normalise if known is not None else IMAGENET
    if known is None:
        notes = (
            "the file does not say which data set it was trained on: classes are numbered, and pixels are normalised "
            "as ImageNet's; --option data=VOC (CityScapes, ADE20K, COCO, DeepScene, Clothes) knows better",
        )
    task = Segment(
        net=net, classes=names, colours=colours, channels=channels, normalise=normalise.channels(channels)
    )
    return task, notes


def _joined(task: Segment, into: Run, path: Path) -> Segment:
    """The task of `into`, if its network is that of the file."""
    theirs = into.task
    same = isinstance(theirs, Segment) and (theirs.net, theirs.channels) == (task.net, task.channels)
    if not same or (theirs.classes and len(theirs.classes) != len(task.classes)):
        raise ConfigError(
            f"{path} holds {task.net!r} with {len(task.classes)} classes and {task.channels} channels, --into has "
            f"{getattr(theirs, 'net', type(theirs).__name__)!r} with {len(theirs.classes)} classes",
            path="task.net",
        )
    assert isinstance(theirs, Segment)
    return theirs if theirs.classes else replace(theirs, classes=task.classes, colours=task.colours)


def _our_names(task: Segment) -> set[str]:
    import torch

    with torch.device("meta"):
        return {f"net.{name}" for name in task.net.build(len(task.classes), task.channels).state_dict()}


def original(task: TaskSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's tensors under the template's names. Raises ConfigError for a network it does not have."""
    net = getattr(task, "net", None)
    if not isinstance(net, Unet | Pspnet):
        raise ConfigError(
            f"the template has no {type(net).__name__}: its UNet and PSPNet have old names", path="task.net"
        )
    return {name.removeprefix("net."): tensor for name, tensor in tensors.items() if name.startswith("net.")}


# ----------------------------------------------------------------------------------------------------- data sets


@dataclass(frozen=True)
class _Data:
    """A data set of the template: how ours is made for a split, its classes, colours and normalisation."""

    train: Any
    val: Any
    classes: tuple[str, ...]
    colours: tuple[Any, ...]
    normalise: Normalise


def _data(kind: str) -> _Data:
    """The data set by the original's name for it. Raises ConfigError for another one."""
    from visloom.data import ade20k, cityscapes, clothes, cocostuff, deepscene, voc

    known: Mapping[str, tuple[Any, Any, Any]] = {
        "VOC": (voc, voc.Voc(part="train"), voc.Voc(part="val")),
        "CityScapes": (cityscapes, cityscapes.Cityscapes(part="train"), cityscapes.Cityscapes(part="val")),
        "ADE20K": (ade20k, ade20k.Ade20k(part="training"), ade20k.Ade20k(part="validation")),
        "COCO": (
            cocostuff,
            cocostuff.CocoStuff(part="train2017", unused=True),
            cocostuff.CocoStuff(part="val2017", unused=True),
        ),
        "DeepScene": (
            deepscene,
            deepscene.DeepScene(part="train", void="class"),
            deepscene.DeepScene(part="test", void="class"),
        ),
        "Clothes": (clothes, clothes.Clothes(part="train"), clothes.Clothes(part="val")),
    }
    if kind not in known:
        raise ConfigError(f"the template has no data set {kind!r}; it has {', '.join(known)}")
    module, train, val = known[kind]
    legend = train.legend()
    mean, std = (tuple(255.0 * value for value in numbers) for numbers in (module.MEAN, module.STD))
    return _Data(train, val, legend.names, legend.colours, Normalise(mean, std))


# ------------------------------------------------------------------------------------------------------- configs


class _Keys:
    """The leaves of a config by dotted name, and what became of each."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.left = dict(_leaves(value))
        self.rows: list[Row] = []

    def take(self, key: str, default: Any = None, *, note: str, verdict: Verdict = "taken") -> Any:
        """Return the value of a key and say where it went; the default where it is not there."""
        if key not in self.left:
            return default
        value = self.left.pop(key)
        self.rows.append(Row(key, verdict, note))
        return value

    def whole(self, key: str, default: Any, *, note: str, least: int = 1) -> Any:
        """A whole number, or the default; None and false are 0 where 0 may be. Raises ConfigError."""
        value = self.take(key, default, note=note)
        value = 0 if least == 0 and not value else value
        if value is not default and (type(value) is not int or value < least):
            raise ConfigError(f"{key} is a whole number from {least}, got {value!r}")
        return value

    def number(self, key: str, default: float, *, note: str, positive: bool = False) -> float:
        """A number that is not negative, or the default. Raises ConfigError."""
        value = self.take(key, default, note=note)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value < 0
            or (positive and not value)
        ):
            raise ConfigError(f"{key} is a number {'above 0' if positive else 'from 0'}, got {value!r}")
        return float(value)

    def drop(self, keys: Sequence[str], why: str, verdict: Verdict = "not needed") -> None:
        """Say of keys why they go nowhere."""
        for key in keys:
            self.take(key, note=why, verdict=verdict)

    def finish(self) -> tuple[Row, ...]:
        """Every row, the keys that nobody asked for last."""
        for key in list(self.left):
            self.drop([key], "the original has no such key", "not supported")
        return tuple(self.rows)


def _leaves(value: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, item in value.items():
        key = f"{before}.{name}" if before else str(name)
        found += _leaves(item, key) if isinstance(item, Mapping) and item else [(key, item)]
    return found


def _dig(value: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        found = value.get(name) if isinstance(value, Mapping) else None
        value = found  # type: ignore[assignment]
    return value


def config(file: Path) -> ConvertedConfig:
    """Turn a JSON config of the template into a run.

    Raises:
        ConfigError: the file is no JSON object; it names an architecture, data set or loss that is not known here; a
            value that cannot be.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("arch"), dict):
        raise ConfigError(f"{file} is no config of the template: it has no arch")
    try:
        for place in ("arch", "train_loader", "val_loader", "optimizer", "lr_scheduler"):
            args = _dig(value, place, "args")
            if args is not None and not isinstance(args, Mapping):
                raise ConfigError(f"{place}.args is a JSON object, got {args!r}")
        return _to_run(value)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}", path=error.path) from error


def _to_run(value: Mapping[str, Any]) -> ConvertedConfig:
    """A config as a run. Raises ConfigError, which names the key."""
    keys = _Keys(value)
    name = str(keys.take("name", "imported", note="name"))
    keys.drop(["n_gpu"], "--nproc N, or --gpus 0,1")
    net, rules, frozen_norms = _arch(keys)
    kind = str(keys.take("train_loader.type", "", note="train.source"))
    if not kind:
        raise ConfigError("train_loader.type names no data set")
    data = _data(kind)
    train, host = _train(keys, data)
    optim, schedule, momentum = _optim(keys)
    task = Segment(
        net=net, loss=_loss(keys), classes=data.classes, colours=data.colours, normalise=data.normalise
    )
    keys.drop(["ignore_index"], "readers turn a data set's ignore label into -1")
    evals, save, log, length = _trainer(keys, data, host, train.batch)
    how = How(
        sync_norm=bool(keys.take("use_synch_bn", False, note="how.sync_norm")),
        frozen_norms=".*" if frozen_norms else None,
    )
    out = keys.take("trainer.save_dir", None, note="host.out")
    host = replace(host, out=str(out).rstrip("/") or "runs") if out else host
    run = Run(
        name="".join(c if c.isalnum() or c in "-_" else "-" for c in name) or "imported",
        task=task, train=train, evals=evals, length=length, optim=optim, rules=rules, schedule=schedule,
        momentum=momentum, how=how, host=host, save=save, log=log,
    )  # fmt: skip
    return ConvertedConfig(run, keys.finish())


def _arch(keys: _Keys) -> tuple[NetSpec, tuple[Rule, ...], bool]:
    """The network, the rules of its backbone, and whether batch norms are frozen."""
    kind = str(keys.take("arch.type", "", note="task.net"))
    args = "arch.args."
    has_backbone = kind not in ("UNet", "SegNet", "ENet")
    without = f"{kind} has no backbone: the template ignores it too"

    def take_backbone(key: str, default: Any, note: str, there: bool = has_backbone) -> Any:
        """A setting of the backbone; where there is none, whatever it says."""
        verdict: Verdict = "taken" if there else "not needed"
        return keys.take(key, default, note=note if there else without, verdict=verdict)

    named = "resnet50" if kind != "PSPNet" else "resnet152"
    backbone = str(take_backbone(f"{args}backbone", named, "task.net", has_backbone and kind != "FCN8"))
    pretrained = bool(
        keys.take(
            f"{args}pretrained", True, note="task.net.pretrained; of the template's own nets init.net=FILE"
        )
    )
    aux = bool(keys.take(f"{args}use_aux", True, note="task.net.aux"))
    nets: Mapping[str, Any] = {
        "UNet": lambda: Unet(),
        "PSPNet": lambda: Pspnet(backbone, aux),
        "UNetResnet": lambda: Smp("unet", backbone, pretrained),
        "PSPDenseNet": lambda: Smp("pspnet", backbone if "dense" in backbone else "densenet201", pretrained),
        "DeepLab": lambda: Smp(
            "deeplabv3plus", backbone if backbone != "xception" else "tu-xception65", pretrained
        ),
        "UperNet": lambda: Smp("upernet", backbone, pretrained),
        "FCN8": lambda: Fcn8s(pretrained=pretrained),
        "SegNet": lambda: Segnet(pretrained=pretrained),
        "ENet": lambda: Enet(),
    }
    if kind not in nets:
        raise ConfigError(
            f"arch.type {kind!r} is not here; there is {', '.join(nets)}. docs/where-is.md says what comes nearest"
        )
    try:
        net: NetSpec = nets[kind]()
    except ValueError as error:
        raise ConfigError(f"{args}backbone: {error}") from error
    if isinstance(net, Smp) and kind == "DeepLab":
        stride = keys.take(f"{args}output_stride", 16, note="task.net.options.encoder_output_stride")
        net = replace(net, options={"encoder_output_stride": int(stride)})
    where = r"net\.(initial|layer[1-4])\."
    if isinstance(net, Smp | Fcn8s):
        where = r"model\.encoder\." if isinstance(net, Smp) else r"model\.body\."
    rules: list[Rule] = []
    if take_backbone(f"{args}freeze_backbone", False, "rules: frozen where true") and has_backbone:
        rules.append(Rule(name=where, frozen=True))
    slow = "rules: the backbone at a tenth of the rate where true"
    if take_backbone("optimizer.differential_lr", False, slow) and has_backbone:
        rules.append(Rule(name=where, lr=0.1))
    norms = bool(keys.take(f"{args}freeze_bn", False, note="how.frozen_norms"))
    keys.drop([f"{args}in_channels"], "task.channels is that of the images", "not needed")
    return net, tuple(rules), norms


def _train(keys: _Keys, data: _Data) -> tuple[Shuffled, Host]:
    """The training stream: one warp per sample where the original interpolates after each step."""
    at = "train_loader.args."
    batch = keys.whole(f"{at}batch_size", 8, note="train.batch")
    base = keys.whole(f"{at}base_size", 0, note="train.transform: RandomScale.long, or Resize.long", least=0)
    cropped = "train.transform: Pad and RandomCrop, where it augments; padding is ignored"
    crop = keys.whole(f"{at}crop_size", 321, note=cropped, least=0)
    augment = bool(keys.take(f"{at}augment", True, note="train.transform"))
    scale = bool(keys.take(f"{at}scale", True, note="train.transform: RandomScale"))
    flip = bool(keys.take(f"{at}flip", True, note="train.transform: RandomFlip"))
    rotate = bool(
        keys.take(f"{at}rotate", False, note="train.transform: RandomRotation; corners are ignored")
    )
    blur = bool(keys.take(f"{at}blur", False, note="train.transform: GaussianBlur"))
    transform: list[Any] = []
    if base and augment:
        transform.append(RandomScale(scale=(0.5, 2.0), long=base) if scale else Resize(long=base))
    if rotate and augment:
        transform.append(RandomRotation(degrees=10.0))
    if crop and augment:
        transform += [Pad(size=crop), RandomCrop(size=crop)]
    if flip and augment:
        transform.append(RandomFlip())
    if blur and augment:
        transform.append(GaussianBlur(sigma=(0.1, 1.0), p=0.4))
    source = _source(keys, at, data.train)
    held = keys.take(f"{at}val_split", None, note="train.source.split") or 0
    if not isinstance(held, int | float) or not 0 <= held < 1:
        raise ConfigError(f"{at}val_split is a share from 0 and below 1, got {held!r}")
    if held:
        source = replace(source, split=Split("head", 1 - held))
    shuffle = bool(keys.take(f"{at}shuffle", True, note="train.shuffle"))
    keys.drop([f"{at}return_id"], "samples always carry their id")
    keys.drop([f"{at}val"], "training and evaluation streams have their own transforms")
    workers = keys.whole(f"{at}num_workers", -1, note="host.workers", least=0)
    root = keys.take(f"{at}data_dir", None, note="host.data")
    host = Host(data=str(root or "data"), workers=workers)
    return Shuffled(source=source, batch=batch, transform=tuple(transform), shuffle=shuffle), host


def _source(keys: _Keys, at: str, source: Any) -> Any:
    """The source for the split that a loader names."""
    part = keys.take(f"{at}split", None, note="the source's part")
    partition = keys.take(f"{at}partition", None, note="the source: CocoStuff (164k) or CocoStuff10k")
    mode = keys.take(f"{at}mode", None, note="the source's masks: fine or coarse")
    if partition == "CocoStuff10k":
        from visloom.data.cocostuff import CocoStuff10k

        source = CocoStuff10k(part="train", unused=True)
    try:
        if mode in ("fine", "coarse"):
            source = replace(source, masks=mode)
        return source if part is None else replace(source, part=str(part))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{at}split: {type(source).__name__} has no part {part!r}: {error}") from error


def _loss(keys: _Keys) -> Any:
    kind = str(keys.take("loss", "CrossEntropyLoss2d", note="task.loss"))
    if kind not in LOSSES:
        raise ConfigError(f"loss {kind!r} is not known; there is {', '.join(LOSSES)}")
    return LOSSES[kind]


def _optim(keys: _Keys) -> tuple[Optim, Schedule, Schedule | None]:
    kind = str(keys.take("optimizer.type", "SGD", note="optim.name"))
    rate = keys.number("optimizer.args.lr", 0.01, note="optim.lr", positive=True)
    decay = keys.number("optimizer.args.weight_decay", 0.0, note="optim.weight_decay")
    options = {
        key.rpartition(".")[2]: keys.take(key, note=f"optim.options.{key.rpartition('.')[2]}")
        for key in [key for key in keys.left if key.startswith("optimizer.args.")]
    }
    name = keys.take("lr_scheduler.type", "Poly", note="schedule")
    keys.drop(
        [key for key in keys.left if key.startswith("lr_scheduler.args")],
        "the original never reads these arguments",
    )
    if name == "Poly":
        return Optim(name=kind, lr=rate, weight_decay=decay, options=options), Poly(0.9, lag=-1), None
    if name != "OneCycle":
        raise ConfigError(f"lr_scheduler.type {name!r} is not known; the template has Poly and OneCycle")
    momentum: Schedule | None = None
    if "momentum" in options or kind == "SGD":
        options["momentum"] = 0.85  # the lowest value: the schedule goes from .95 down to it and back
        momentum = OneCycle(div=0.85 / 0.95, final_div=1.0, ends="total", lag=-1)
    return (
        Optim(name=kind, lr=rate, weight_decay=decay, options=options),
        OneCycle(ends="total", lag=-1),
        momentum,
    )


def _trainer(keys: _Keys, data: _Data, host: Host, batch: int) -> tuple[dict[str, Eval], Save, Log, Epochs]:
    """Evaluations, saves, logs and length."""
    length = Epochs(keys.whole("trainer.epochs", 80, note="length"))
    wanted = bool(keys.take("trainer.val", True, note="evals"))
    every = Epochs(keys.whole("trainer.val_per_epochs", 1, note="evals.val.every"))
    monitor = str(
        keys.take("trainer.monitor", "off", note="evals.val.monitor; the mean over all classes is miou_all")
    )
    waits = "evals.val.patience; the original waits for one evaluation more"
    patience = keys.whole("trainer.early_stop", 0, note=waits, least=0)
    kept = "save.every; best and last are always kept"
    save = Save(every=Epochs(keys.whole("trainer.save_period", 10, note=kept)))
    steps = (keys.whole("trainer.log_per_iter", 20, note="log.every, in steps", least=0) or 20) // batch + 1
    board = bool(keys.take("trainer.tensorboard", True, note="log.tensorboard"))
    keys.drop(["trainer.log_dir"], "tensorboard/ in the run directory")
    kind = keys.take("val_loader.type", None, note="evals.val.stream.source")
    at = "val_loader.args."
    source = _source(keys, at, (_data(str(kind)) if kind else data).val)
    size = keys.whole(f"{at}batch_size", 8, note="evals.val.stream.batch")
    root = keys.take(f"{at}data_dir", host.data, note="host.data")
    if str(root) != host.data:
        source = replace(source, root=str(Path(str(root)).absolute()))
    native = (
        "evaluation is at native size; the original scores the middle square alone: "
        "evals.val.stream.transform=[{kind: Resize, short: N}, {kind: CenterCrop, size: N}]"
    )
    keys.drop([f"{at}crop_size", f"{at}base_size"], native)
    keys.drop(
        [f"{at}{name}" for name in ("num_workers", "return_id", "shuffle")],
        "an evaluation reads every sample once",
    )
    keys.drop(
        [f"{at}{name}" for name in ("val", "augment", "scale", "flip", "rotate", "blur", "val_split")],
        "evaluation streams have no augmentation",
    )
    log = Log(every=Steps(steps), tensorboard=board, images=15)
    if not wanted:
        return {}, save, log, length
    setting = Eval(stream=Ordered(source=source, batch=size), every=every, monitor=_monitor(monitor))
    return {"val": replace(setting, patience=patience if setting.monitor else 0)}, save, log, length


def _monitor(text: str) -> Monitor | None:
    if text == "off":
        return None
    mode, _, name = text.partition(" ")
    if mode not in ("max", "min") or name not in VALUES:
        raise ConfigError(
            f"trainer.monitor {text!r} is not known; it is max or min of {', '.join(VALUES)}, or off"
        )
    return Monitor(mode, VALUES[name])  # type: ignore[arg-type]
