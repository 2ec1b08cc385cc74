"""maskrcnn-benchmark's YAML files as runs: every key of its defaults and of the domain-adaptive forks is known.

Two spellings of the body's channels are read (MODEL.BACKBONE.OUT_CHANNELS of the fork, MODEL.RESNETS.
BACKBONE_OUT_CHANNELS upstream). The file is data: nothing in it is executed, Python texts such as "(50000,)" are read
as literals.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visloom.convert.common import ConvertedConfig, Row
from visloom.convert.maskrcnn.defaults import DEFAULTS, UNUSED
from visloom.data.absent import Absent
from visloom.data.shortside import ShortSide
from visloom.data.target import Target
from visloom.data.transforms import RandomFlip
from visloom.errors import ConfigError
from visloom.place import did_you_mean, nearest
from visloom.run import Eval, How, Optim, Rule, Run, Save
from visloom.schedule import Multistep, Warmup
from visloom.stream import Ordered, Pair, Shuffled
from visloom.tasks.adapt import Adapt, Align
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.detect import Detect, FasterRCNN, ResNetBody, RetinaNet
from visloom.tasks.detect.nets import DetectorNet
from visloom.tasks.detect.views import Views
from visloom.units import Monitor, Steps


@dataclass
class _Config:
    """Values by dotted key, defaults where the file is silent; remembers which were asked for, and what was said."""

    file: Path
    values: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)

    def __call__(self, key: str, to: str) -> Any:
        """The value of a key, which goes to `to`."""
        if key in self.values:
            self.rows[key] = Row(key, "taken", to)
        return self.values.get(key, DEFAULTS[key])

    def refuse(self, key: str, note: str) -> None:
        """Say that a key that the file sets cannot be followed."""
        if key in self.values and self.values[key] != DEFAULTS[key]:
            self.rows[key] = Row(key, "not supported", note)
        elif key in self.values:
            self.rows[key] = Row(key, "not needed", "the default")


def config(file: Path) -> ConvertedConfig:
    """Convert a YAML file of maskrcnn-benchmark or a fork.

    Raises:
        ConfigError: it cannot be read; a key that neither program knows (names the nearest); a value of a kind that
            cannot be used.
    """
    values = _flat(_read(file))
    unknown = [key for key in values if key not in DEFAULTS and key not in UNUSED]
    if unknown:
        known = [*DEFAULTS, *UNUSED]
        near = did_you_mean(nearest(unknown[0], known))
        raise ConfigError(f"{file}: {unknown[0]} is no key of maskrcnn-benchmark\n  {near}".rstrip())
    read = _Config(file, values)
    if isinstance(values.get("MODEL.RESNETS.BACKBONE_OUT_CHANNELS"), int):
        values.setdefault("MODEL.BACKBONE.OUT_CHANNELS", values["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"])
        read.rows["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"] = Row(
            "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "taken", "task.net.width, or follows from the body"
        )
    run = _run(read)
    for key in values:
        if key not in read.rows:
            read.rows[key] = Row(key, "not needed", UNUSED.get(key, "of a part that this run does not have"))
    return ConvertedConfig(run, tuple(read.rows[key] for key in values))


def _read(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{file}: expected sections such as MODEL and SOLVER, found {type(found).__name__}")
    return found


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values by dotted key; texts that are Python literals as what they mean."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{key}.")
        else:
            found[key] = _literal(value)
    return found


def _literal(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "([{'\"-.0123456789":
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return tuple(value) if isinstance(value, list) else value


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


# ------------------------------------------------------------------------------------------------- the run


def _run(read: _Config) -> Run:
    adapting = bool(read("MODEL.DOMAIN_ADAPTATION_ON", "task"))
    read("MODEL.META_ARCHITECTURE", "task.net")
    net, classes = _net(read)
    names = tuple(map(str, range(1, classes + 1)))
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
    batch = int(read("SOLVER.IMS_PER_BATCH", "train.batch, over all processes"))
    return Run(
        name=read.file.stem.replace(".", "-").replace(" ", "-"),
        task=task,
        train=_train(read, adapting, batch),
        evals={"test": _evaluation(read)},
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


def _rules(read: _Config) -> tuple[Rule, ...]:
    """Biases learn faster and do not decay. Names, as there: a norm that learns has a bias too."""
    factor = float(read("SOLVER.BIAS_LR_FACTOR", "rules.0.lr"))
    decay = float(read("SOLVER.WEIGHT_DECAY_BIAS", "rules.0.weight_decay"))
    return (Rule(name="bias", lr=factor, weight_decay=decay),)


def _schedule(read: _Config) -> Any:
    marks = tuple(Steps(int(step)) for step in _tuple(read("SOLVER.STEPS", "schedule.inner.at")))
    inner = Multistep(marks, float(read("SOLVER.GAMMA", "schedule.inner.gamma")))
    warmup = int(read("SOLVER.WARMUP_ITERS", "schedule.length"))
    start = float(read("SOLVER.WARMUP_FACTOR", "schedule.start"))
    shape = read("SOLVER.WARMUP_METHOD", "schedule.shape")
    if shape not in ("linear", "constant"):
        raise ConfigError(f"{read.file}: SOLVER.WARMUP_METHOD is linear or constant, got {shape!r}")
    return Warmup(inner, Steps(warmup), start=start, shape=shape) if warmup else inner


def _init(read: _Config) -> dict[str, str]:
    """MODEL.WEIGHT starts a run and never resumes one: `visloom resume` does that."""
    weight = str(read("MODEL.WEIGHT", "init: import it first, see its note") or "")
    if weight:
        read.rows["MODEL.WEIGHT"] = Row(
            "MODEL.WEIGHT",
            "not needed",
            f"visloom import-checkpoint maskrcnn {weight} --into THIS --out ckpt, then init.model=ckpt",
        )
    return {}


def _train(read: _Config, adapting: bool, batch: int) -> Shuffled | Pair:
    sizes = tuple(int(v) for v in _tuple(read("INPUT.MIN_SIZE_TRAIN", "train.transform: ShortSide")))
    resize = ShortSide(short=sizes, longest=int(read("INPUT.MAX_SIZE_TRAIN", "train.transform: ShortSide")))
    flip = RandomFlip(p=float(read("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "train.transform: RandomFlip")))
    for key in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"):
        read.refuse(f"INPUT.{key}", "add ColorJitter to train.transform")
    read.refuse("INPUT.VERTICAL_FLIP_PROB_TRAIN", "add RandomFlip(direction=vertical) to train.transform")
    grouped = bool(read("DATALOADER.ASPECT_RATIO_GROUPING", "train.group"))
    for key in ("TRAIN", "SOURCE_TRAIN", "TARGET_TRAIN", "TEST"):
        note = "put the reader of this data set into the stream: file and folder names are not in the config"
        read.refuse(f"DATASETS.{key}", note)
    group: Any = "orientation" if grouped else "none"
    if not adapting:
        return Shuffled(source=Absent(), batch=batch, transform=(resize, flip), group=group, tail="wrap")
    if batch % 2:
        raise ConfigError(f"{read.file}: SOLVER.IMS_PER_BATCH is divided between two domains, got {batch}")
    half = batch // 2
    return Pair(
        source=Shuffled(source=Absent(), batch=half, transform=(resize, flip), group=group, tail="wrap"),
        target=Shuffled(
            source=Absent(), batch=half, transform=(Target(), resize, flip), group=group, tail="wrap"
        ),
    )


def _evaluation(read: _Config) -> Eval:
    resize = ShortSide(
        short=(int(read("INPUT.MIN_SIZE_TEST", "evals.test.stream.transform")),),
        longest=int(read("INPUT.MAX_SIZE_TEST", "evals.test.stream.transform")),
    )
    batch = int(read("TEST.IMS_PER_BATCH", "evals.test.stream.batch"))
    period = int(read("SOLVER.TEST_PERIOD", "evals.test.every"))
    return Eval(
        stream=Ordered(source=Absent(), batch=batch, transform=(resize,)),
        every=Steps(period) if period else None,
        monitor=Monitor("max", "ap50"),
    )


def _views(read: _Config) -> Views:
    """TEST.BBOX_AUG: lengths of the shorter side there, factors here."""
    aug = "TEST.BBOX_AUG."
    on = read(f"{aug}ENABLED", "task.views")
    flip = bool(read(f"{aug}H_FLIP", "task.views.flip"))
    lengths = _tuple(read(f"{aug}SCALES", "task.views.scales, as factors on INPUT.MIN_SIZE_TEST"))
    mirrored = bool(read(f"{aug}SCALE_H_FLIP", "task.views.flip"))
    read.refuse(f"{aug}MAX_SIZE", "scales are factors on the picture, whatever its longer side")
    if on and lengths and flip != mirrored:
        note = "the mirror image is taken at every scale or at none: set task.views.flip"
        read.rows[f"{aug}SCALES"] = Row(f"{aug}SCALES", "not supported", note)
    short = int(read("INPUT.MIN_SIZE_TEST", "evals.test.stream.transform"))
    return Views(scales=tuple(length / short for length in lengths), flip=flip) if on else Views()


# ------------------------------------------------------------------------------------------------- the network


def _net(read: _Config) -> tuple[DetectorNet, int]:
    name = str(read("MODEL.BACKBONE.CONV_BODY", "task.net.body"))
    words = name.split("-")
    if (
        words[0] != "R"
        or len(words) < 3
        or words[1] not in ("50", "101", "152")
        or words[2] not in ("C4", "FPN")
    ):
        raise ConfigError(
            f"{read.file}: MODEL.BACKBONE.CONV_BODY {name} is not built here; there are R-50, R-101 and R-152 with C4 "
            "and FPN, and any timm body as a net of its own"
        )
    body = ResNetBody(
        depth=int(words[1]),
        frozen=int(read("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", "task.net.body.frozen")),
        groups=int(read("MODEL.RESNETS.NUM_GROUPS", "task.net.body.groups")),
        group_width=int(read("MODEL.RESNETS.WIDTH_PER_GROUP", "task.net.body.group_width")),
        stem=int(read("MODEL.RESNETS.STEM_OUT_CHANNELS", "task.net.body.stem")),
        out=int(read("MODEL.RESNETS.RES2_OUT_CHANNELS", "task.net.body.out")),
        stride_in_1x1=bool(read("MODEL.RESNETS.STRIDE_IN_1X1", "task.net.body.stride_in_1x1")),
        norm="group" if "GN" in str(read("MODEL.RESNETS.TRANS_FUNC", "task.net.body.norm")) else "frozen",
    )
    read("MODEL.RESNETS.STEM_FUNC", "task.net.body.norm")
    note = "the parts of maskrcnn-benchmark that are not built here"
    for key in (
        "MODEL.RESNETS.RES5_DILATION",
        "MODEL.RESNETS.STAGE_WITH_DCN",
        "MODEL.RESNETS.WITH_MODULATED_DCN",
        "MODEL.RESNETS.DEFORMABLE_GROUPS",
        "MODEL.BACKBONE.USE_GN",
        "MODEL.FPN.USE_GN",
        "MODEL.FPN.USE_RELU",
        "MODEL.RPN.RPN_HEAD",
        "MODEL.RPN_ONLY",
        "MODEL.ROI_BOX_HEAD.USE_GN",
        "MODEL.ROI_BOX_HEAD.DILATION",
        "MODEL.ROI_MASK_HEAD.USE_GN",
        "MODEL.ROI_MASK_HEAD.DILATION",
    ):
        read.refuse(key, note)
    pyramid = words[2] == "FPN"
    channels = int(read("MODEL.BACKBONE.OUT_CHANNELS", "task.net.width, or follows from the body"))
    if read("MODEL.RETINANET_ON", "task.net"):
        return _retinanet(read, body, channels)
    return _rcnn(read, body, pyramid, channels)


def _rcnn(read: _Config, body: ResNetBody, pyramid: bool, channels: int) -> tuple[DetectorNet, int]:
    where = "task.net"
    heads = "MODEL.ROI_HEADS"
    rpn = "MODEL.RPN"
    box = "MODEL.ROI_BOX_HEAD"
    for key in (
        "MODEL.RPN.USE_FPN",
        "MODEL.ROI_HEADS.USE_FPN",
        f"{rpn}.ANCHOR_STRIDE",
        f"{box}.POOLER_SCALES",
    ):
        read(key, f"{where}.neck")
    for key in (f"{box}.FEATURE_EXTRACTOR", f"{box}.PREDICTOR"):
        read(key, f"{where}.neck")
    options: dict[str, Any] = {
        "body": body,
        "neck": "fpn" if pyramid else "c4",
        "anchors": tuple(float(v) for v in _tuple(read(f"{rpn}.ANCHOR_SIZES", f"{where}.anchors"))),
        "ratios": tuple(float(v) for v in _tuple(read(f"{rpn}.ASPECT_RATIOS", f"{where}.ratios"))),
        "straddle": float(read(f"{rpn}.STRADDLE_THRESH", f"{where}.straddle")),
        "rpn_high": float(read(f"{rpn}.FG_IOU_THRESHOLD", f"{where}.rpn_high")),
        "rpn_low": float(read(f"{rpn}.BG_IOU_THRESHOLD", f"{where}.rpn_low")),
        "rpn_batch": int(read(f"{rpn}.BATCH_SIZE_PER_IMAGE", f"{where}.rpn_batch")),
        "rpn_fraction": float(read(f"{rpn}.POSITIVE_FRACTION", f"{where}.rpn_fraction")),
        "rpn_nms": float(read(f"{rpn}.NMS_THRESH", f"{where}.rpn_nms")),
        "least": float(read(f"{rpn}.MIN_SIZE", f"{where}.least")),
        "before": _pair(read, f"{rpn}.PRE_NMS_TOP_N_TRAIN", f"{rpn}.PRE_NMS_TOP_N_TEST", f"{where}.before"),
        "after": _pair(read, f"{rpn}.POST_NMS_TOP_N_TRAIN", f"{rpn}.POST_NMS_TOP_N_TEST", f"{where}.after"),
        "all": _pair(
            read, f"{rpn}.FPN_POST_NMS_TOP_N_TRAIN", f"{rpn}.FPN_POST_NMS_TOP_N_TEST", f"{where}.all"
        ),
        "per_batch": bool(read(f"{rpn}.FPN_POST_NMS_PER_BATCH", f"{where}.per_batch")),
        "roi_high": float(read(f"{heads}.FG_IOU_THRESHOLD", f"{where}.roi_high")),
        "roi_low": float(read(f"{heads}.BG_IOU_THRESHOLD", f"{where}.roi_low")),
        "weights": tuple(float(v) for v in read(f"{heads}.BBOX_REG_WEIGHTS", f"{where}.weights")),
        "roi_batch": int(read(f"{heads}.BATCH_SIZE_PER_IMAGE", f"{where}.roi_batch")),
        "roi_fraction": float(read(f"{heads}.POSITIVE_FRACTION", f"{where}.roi_fraction")),
        "score": float(read(f"{heads}.SCORE_THRESH", f"{where}.score")),
        "nms": float(read(f"{heads}.NMS", f"{where}.nms")),
        "most": int(read(f"{heads}.DETECTIONS_PER_IMG", f"{where}.most")),
        "pool": int(read(f"{box}.POOLER_RESOLUTION", f"{where}.pool")),
        "samples": int(read(f"{box}.POOLER_SAMPLING_RATIO", f"{where}.samples")),
        "agnostic": bool(read("MODEL.CLS_AGNOSTIC_BBOX_REG", f"{where}.agnostic")),
        "masks": bool(read("MODEL.MASK_ON", f"{where}.masks")),
    }
    if pyramid:
        options |= {"width": channels, "head": int(read(f"{box}.MLP_HEAD_DIM", f"{where}.head"))}
    if options["masks"]:
        layers = read("MODEL.ROI_MASK_HEAD.CONV_LAYERS", f"{where}.mask_layers")
        options["mask_layers"] = tuple(int(v) for v in _tuple(layers))
        for key in ("FEATURE_EXTRACTOR", "PREDICTOR", "POOLER_SCALES", "SHARE_BOX_FEATURE_EXTRACTOR"):
            read(f"MODEL.ROI_MASK_HEAD.{key}", f"{where}.neck")
        for key in ("POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "RESOLUTION"):
            read(f"MODEL.ROI_MASK_HEAD.{key}", "14 pooled cells; 28 mask cells on a pyramid, 14 on C4")
    if read("MODEL.KEYPOINT_ON", f"{where}.keypoints"):
        options["keypoints"] = int(read("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", f"{where}.keypoints"))
    classes = int(read(f"{box}.NUM_CLASSES", "task.classes, without the background")) - 1
    return FasterRCNN(**options), classes


def _pair(read: _Config, train: str, test: str, to: str) -> tuple[int, int]:
    return int(read(train, f"{to}.0")), int(read(test, f"{to}.1"))


def _retinanet(read: _Config, body: ResNetBody, channels: int) -> tuple[DetectorNet, int]:
    part, where = "MODEL.RETINANET", "task.net"
    read(f"{part}.ANCHOR_STRIDES", f"{where}.strides")
    for key in ("STRADDLE_THRESH", "NUM_CONVS", "BBOX_REG_WEIGHT", "PRIOR_PROB"):
        read.refuse(f"{part}.{key}", "as in the paper: 4 convolutions, prior .01")
    net = RetinaNet(
        body=body,
        width=channels,
        anchors=tuple(float(v) for v in _tuple(read(f"{part}.ANCHOR_SIZES", f"{where}.anchors"))),
        ratios=tuple(float(v) for v in _tuple(read(f"{part}.ASPECT_RATIOS", f"{where}.ratios"))),
        octave=float(read(f"{part}.OCTAVE", f"{where}.octave")),
        scales=int(read(f"{part}.SCALES_PER_OCTAVE", f"{where}.scales")),
        from_pyramid=not read(f"{part}.USE_C5", f"{where}.from_pyramid"),
        high=float(read(f"{part}.FG_IOU_THRESHOLD", f"{where}.high")),
        low=float(read(f"{part}.BG_IOU_THRESHOLD", f"{where}.low")),
        beta=float(read(f"{part}.BBOX_REG_BETA", f"{where}.beta")),
        alpha=float(read(f"{part}.LOSS_ALPHA", f"{where}.alpha")),
        gamma=float(read(f"{part}.LOSS_GAMMA", f"{where}.gamma")),
        score=float(read(f"{part}.INFERENCE_TH", f"{where}.score")),
        before=int(read(f"{part}.PRE_NMS_TOP_N", f"{where}.before")),
        nms=float(read(f"{part}.NMS_TH", f"{where}.nms")),
        most=int(read("TEST.DETECTIONS_PER_IMG", f"{where}.most")),
    )
    return net, int(read(f"{part}.NUM_CLASSES", "task.classes, without the background")) - 1


def _align(read: _Config) -> Align:
    part = "MODEL.DA_HEADS"
    return Align(
        image=float(read(f"{part}.DA_IMG_GRL_WEIGHT", "task.align.image")),
        instance=float(read(f"{part}.DA_INS_GRL_WEIGHT", "task.align.instance")),
        image_loss=float(read(f"{part}.DA_IMG_LOSS_WEIGHT", "task.align.image_loss")),
        instance_loss=float(read(f"{part}.DA_INS_LOSS_WEIGHT", "task.align.instance_loss")),
        consistency=float(read(f"{part}.DA_CST_LOSS_WEIGHT", "task.align.consistency")),
    )
