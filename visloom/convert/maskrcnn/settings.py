"""maskrcnn-benchmark's YAML files as runs: every key of its defaults and of the domain-adaptive forks is known.

Two spellings of the body's channels are read (MODEL.BACKBONE.OUT_CHANNELS of the fork, MODEL.RESNETS.
BACKBONE_OUT_CHANNELS upstream). The file is data: nothing in it is executed, Python texts such as "(50000,)" are read
as literals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visloom.convert.common import ConvertedConfig, Row
from visloom.convert.maskrcnn import datasets
from visloom.convert.maskrcnn.datasets import Known
from visloom.convert.maskrcnn.defaults import BUILT, DEFAULTS, UNUSED
from visloom.convert.maskrcnn.network import network
from visloom.convert.maskrcnn.yacs import Config, as_tuple, flat, read_yaml
from visloom.data.absent import Absent
from visloom.data.shortside import ShortSide
from visloom.data.target import Target
from visloom.data.transforms import RandomFlip
from visloom.errors import ConfigError
from visloom.place import did_you_mean, nearest
from visloom.run import Eval, How, Optim, Rule, Run, Save
from visloom.schedule import Multistep, Warmup
from visloom.stream import Ordered, Pair, Shuffled
from visloom.tasks.adapt import SADA, Adapt, Align
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.detect import Detect
from visloom.tasks.detect.nets import DetectorNet
from visloom.tasks.detect.views import Views
from visloom.units import Monitor, Steps


def config(file: Path) -> ConvertedConfig:
    """Convert a YAML file of maskrcnn-benchmark or a fork.

    Raises:
        ConfigError: it cannot be read; a key that neither program knows (names the nearest); a value of a kind that
            cannot be used.
    """
    values = flat(read_yaml(file))
    unknown = [key for key in values if key not in DEFAULTS and key not in UNUSED]
    if unknown:
        known = [*DEFAULTS, *UNUSED]
        near = did_you_mean(nearest(unknown[0], known))
        raise ConfigError(f"{file}: {unknown[0]} is no key of maskrcnn-benchmark\n  {near}".rstrip())
    read = Config(file, values)
    if isinstance(values.get("MODEL.RESNETS.BACKBONE_OUT_CHANNELS"), int):
        values.setdefault("MODEL.BACKBONE.OUT_CHANNELS", values["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"])
        read.rows["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"] = Row(
            "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "taken", "task.net.width, or follows from the body"
        )
    run = _run(read)
    for key, built in BUILT.items():
        if key in values and values[key] not in built:
            note = f"{' or '.join(map(str, built))} is built here"
            read.rows[key] = Row(key, "not supported", note)
    for key in values:
        if key not in read.rows:
            read.rows[key] = Row(key, "not needed", UNUSED.get(key, "of a part that this run does not have"))
    return ConvertedConfig(run, tuple(read.rows[key] for key in values))


# ------------------------------------------------------------------------------------------------- the run


def _run(read: Config) -> Run:
    adapting = bool(read("MODEL.DOMAIN_ADAPTATION_ON", "task"))
    read("MODEL.META_ARCHITECTURE", "task.net")
    net, classes = network(read)
    train, names = _train(read, adapting, net, classes)
    shared: dict[str, Any] = {
        "net": net,
        "classes": names,
        "compat": True,
        "normalise": Normalise(
            tuple(map(float, read("INPUT.PIXEL_MEAN", "task.normalise"))),
            tuple(map(float, read("INPUT.PIXEL_STD", "task.normalise"))),
        ),
        "order": "bgr" if read("INPUT.TO_BGR255", "task.order") else "rgb",
        "views": _views(read),
        "divisible": max(1, int(read("DATALOADER.SIZE_DIVISIBILITY", "task.divisible"))),
    }
    if shared["order"] == "rgb":
        read.rows["INPUT.TO_BGR255"] = Row(
            "INPUT.TO_BGR255",
            "not supported",
            "pixels run from 0 to 255 here: multiply PIXEL_MEAN and PIXEL_STD by 255",
        )
    task = Adapt(**shared, align=_align(read)) if adapting else Detect(**shared)
    return Run(
        name=read.file.stem.replace(".", "-").replace(" ", "-"),
        task=task,
        train=train,
        evals=_evaluations(read, net),
        length=Steps(int(read("SOLVER.MAX_ITER", "length"))),
        optim=Optim(
            name="SGD",
            lr=float(read("SOLVER.BASE_LR", "optim.lr")),
            weight_decay=float(read("SOLVER.WEIGHT_DECAY", "optim.weight_decay")),
            options={"momentum": float(read("SOLVER.MOMENTUM", "optim.options.momentum"))},
        ),
        rules=_rules(read),
        schedule=_schedule(read),
        how=How(precision="fp16" if read("DTYPE", "how.precision") == "float16" else "fp32"),
        init=_init(read),
        init_coverage=0.0,
        save=Save(every=Steps(int(read("SOLVER.CHECKPOINT_PERIOD", "save.every"))), keep=3),
    )


def _rules(read: Config) -> tuple[Rule, ...]:
    """Biases learn faster and do not decay. Names, as there: a norm that learns has a bias too."""
    factor = float(read("SOLVER.BIAS_LR_FACTOR", "rules.0.lr"))
    decay = float(read("SOLVER.WEIGHT_DECAY_BIAS", "rules.0.weight_decay"))
    return (Rule(name="bias", lr=factor, weight_decay=decay),)


def _schedule(read: Config) -> Any:
    marks = tuple(Steps(int(step)) for step in as_tuple(read("SOLVER.STEPS", "schedule.inner.at")))
    inner = Multistep(marks, float(read("SOLVER.GAMMA", "schedule.inner.gamma")))
    warmup = int(read("SOLVER.WARMUP_ITERS", "schedule.length"))
    start = float(read("SOLVER.WARMUP_FACTOR", "schedule.start"))
    shape = read("SOLVER.WARMUP_METHOD", "schedule.shape")
    if shape not in ("linear", "constant"):
        raise ConfigError(f"{read.file}: SOLVER.WARMUP_METHOD is linear or constant, got {shape!r}")
    return Warmup(inner, Steps(warmup), start=start, shape=shape) if warmup else inner


def _init(read: Config) -> dict[str, str]:
    """MODEL.WEIGHT starts a run and never resumes one: `visloom resume` does that."""
    weight = str(read("MODEL.WEIGHT", "init: import it first, see its note") or "")
    if weight:
        read.rows["MODEL.WEIGHT"] = Row(
            "MODEL.WEIGHT",
            "not needed",
            f"visloom import-checkpoint maskrcnn {weight} --into THIS --out ckpt, then init.model=ckpt",
        )
    return {}


def _train(
    read: Config, adapting: bool, net: DetectorNet, classes: int
) -> tuple[Shuffled | Pair, tuple[str, ...]]:
    """The stream, and names of the classes: the data set's where they are known, else numbers from 1."""
    batch = int(read("SOLVER.IMS_PER_BATCH", "train.batch, over all processes"))
    sizes = tuple(int(v) for v in as_tuple(read("INPUT.MIN_SIZE_TRAIN", "train.transform: ShortSide")))
    resize = ShortSide(short=sizes, longest=int(read("INPUT.MAX_SIZE_TRAIN", "train.transform: ShortSide")))
    flip = RandomFlip(p=float(read("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "train.transform: RandomFlip")))
    for key in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"):
        read.refuse(f"INPUT.{key}", "add ColorJitter to train.transform")
    read.refuse("INPUT.VERTICAL_FLIP_PROB_TRAIN", "add RandomFlip(direction=vertical) to train.transform")
    grouped = bool(read("DATALOADER.ASPECT_RATIO_GROUPING", "train.group"))
    group: Any = "orientation" if grouped else "none"
    found = _data(read, "SOURCE_TRAIN" if adapting else "TRAIN", net, training=True)
    names = found.classes if len(found.classes) == classes else tuple(map(str, range(1, classes + 1)))
    if not adapting:
        plain = Shuffled(source=found.source, batch=batch, transform=(resize, flip), group=group, tail="wrap")
        return plain, names
    if batch % 2:
        raise ConfigError(f"{read.file}: SOLVER.IMS_PER_BATCH is divided between two domains, got {batch}")
    target = _data(
        read, "TARGET_TRAIN", net, training=False
    ).source  # a picture without boxes is a target too
    half = batch // 2
    pair = Pair(
        source=Shuffled(source=found.source, batch=half, transform=(resize, flip), group=group, tail="wrap"),
        target=Shuffled(
            source=target, batch=half, transform=(Target(), resize, flip), group=group, tail="wrap"
        ),
    )
    return pair, names


def _data(read: Config, key: str, net: DetectorNet, *, training: bool) -> Known:
    """The data set of a key of DATASETS, or one that says that it is missing."""
    names = as_tuple(read(f"DATASETS.{key}", "the stream's source, below --data"))
    return _known(read, key, names, net, training=training)


def _known(read: Config, key: str, names: Sequence[str], net: DetectorNet, *, training: bool) -> Known:
    found = datasets.known(
        names,
        masks=bool(getattr(net, "masks", False)),
        keypoints=bool(getattr(net, "keypoints", 0)),
        training=training,
    )
    if found is None:
        note = "put the reader of this data set into the stream: its files are not known by this name"
        read.refuse(f"DATASETS.{key}", note)
    return found or Known(Absent(), ())


def _evaluations(read: Config, net: DetectorNet) -> dict[str, Eval]:
    """An evaluation of each data set in DATASETS.TEST; the first one decides."""
    resize = ShortSide(
        short=(int(read("INPUT.MIN_SIZE_TEST", "evals.test.stream.transform")),),
        longest=int(read("INPUT.MAX_SIZE_TEST", "evals.test.stream.transform")),
    )
    batch = int(read("TEST.IMS_PER_BATCH", "evals.test.stream.batch"))
    period = int(read("SOLVER.TEST_PERIOD", "evals.test.every"))
    names = [str(name) for name in as_tuple(read("DATASETS.TEST", "evals"))]
    made: dict[str, Eval] = {}
    for name in names or [""]:
        source = _known(read, "TEST", [name] if name else [], net, training=False).source
        made["test" if len(names) < 2 else name] = Eval(
            stream=Ordered(source=source, batch=batch, transform=(resize,)),
            every=Steps(period) if period else None,
            monitor=None if made else Monitor("max", "ap50"),
        )
    return made


def _views(read: Config) -> Views:
    """TEST.BBOX_AUG: lengths of the shorter side there, factors here."""
    aug = "TEST.BBOX_AUG."
    on = read(f"{aug}ENABLED", "task.views")
    flip = bool(read(f"{aug}H_FLIP", "task.views.flip"))
    lengths = as_tuple(read(f"{aug}SCALES", "task.views.scales, as factors on INPUT.MIN_SIZE_TEST"))
    mirrored = bool(read(f"{aug}SCALE_H_FLIP", "task.views.flip"))
    read.refuse(f"{aug}MAX_SIZE", "scales are factors on the picture, whatever its longer side")
    if on and lengths and flip != mirrored:
        note = "the mirror image is taken at every scale or at none: set task.views.flip"
        read.rows[f"{aug}SCALES"] = Row(f"{aug}SCALES", "not supported", note)
    short = int(read("INPUT.MIN_SIZE_TEST", "evals.test.stream.transform"))
    return Views(scales=tuple(length / short for length in lengths), flip=flip) if on else Views()


def _align(read: Config) -> Align:
    part = "MODEL.DA_HEADS"
    if f"{part}.COS_WEIGHT" in read.values:  # of SADA, which has no factors of losses
        return replace(
            SADA,
            image=float(read(f"{part}.DA_IMG_GRL_WEIGHT", "task.align.image")),
            instance=float(read(f"{part}.DA_INS_GRL_WEIGHT", "task.align.instance")),
            consistency_gradient=float(read(f"{part}.COS_WEIGHT", "task.align.consistency_gradient")),
        )
    return Align(
        image=float(read(f"{part}.DA_IMG_GRL_WEIGHT", "task.align.image")),
        instance=float(read(f"{part}.DA_INS_GRL_WEIGHT", "task.align.instance")),
        image_loss=float(read(f"{part}.DA_IMG_LOSS_WEIGHT", "task.align.image_loss")),
        instance_loss=float(read(f"{part}.DA_INS_LOSS_WEIGHT", "task.align.instance_loss")),
        consistency=float(read(f"{part}.DA_CST_LOSS_WEIGHT", "task.align.consistency")),
    )
