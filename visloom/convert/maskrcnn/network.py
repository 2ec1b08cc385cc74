"""The network of a YAML file of maskrcnn-benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from visloom.convert.maskrcnn.yacs import Config, as_tuple
from visloom.errors import ConfigError
from visloom.tasks.detect import FasterRCNN, ResNetBody, RetinaNet
from visloom.tasks.detect.nets import DetectorNet


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in as_tuple(value))


Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]

_FASTER_RCNN: Fields = {
    "anchors": ("MODEL.RPN.ANCHOR_SIZES", _floats),
    "ratios": ("MODEL.RPN.ASPECT_RATIOS", _floats),
    "straddle": ("MODEL.RPN.STRADDLE_THRESH", float),
    "rpn_high": ("MODEL.RPN.FG_IOU_THRESHOLD", float),
    "rpn_low": ("MODEL.RPN.BG_IOU_THRESHOLD", float),
    "rpn_batch": ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", int),
    "rpn_fraction": ("MODEL.RPN.POSITIVE_FRACTION", float),
    "rpn_nms": ("MODEL.RPN.NMS_THRESH", float),
    "least": ("MODEL.RPN.MIN_SIZE", float),
    "per_batch": ("MODEL.RPN.FPN_POST_NMS_PER_BATCH", bool),
    "roi_high": ("MODEL.ROI_HEADS.FG_IOU_THRESHOLD", float),
    "roi_low": ("MODEL.ROI_HEADS.BG_IOU_THRESHOLD", float),
    "weights": ("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS", _floats),
    "roi_batch": ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", int),
    "roi_fraction": ("MODEL.ROI_HEADS.POSITIVE_FRACTION", float),
    "score": ("MODEL.ROI_HEADS.SCORE_THRESH", float),
    "nms": ("MODEL.ROI_HEADS.NMS", float),
    "most": ("MODEL.ROI_HEADS.DETECTIONS_PER_IMG", int),
    "pool": ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", int),
    "samples": ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", int),
    "agnostic": ("MODEL.CLS_AGNOSTIC_BBOX_REG", bool),
    "masks": ("MODEL.MASK_ON", bool),
}
"""Fields of FasterRCNN, the keys that they come from, and of which type they are."""

_RETINANET: Fields = {
    "anchors": ("MODEL.RETINANET.ANCHOR_SIZES", _floats),
    "ratios": ("MODEL.RETINANET.ASPECT_RATIOS", _floats),
    "octave": ("MODEL.RETINANET.OCTAVE", float),
    "scales": ("MODEL.RETINANET.SCALES_PER_OCTAVE", int),
    "high": ("MODEL.RETINANET.FG_IOU_THRESHOLD", float),
    "low": ("MODEL.RETINANET.BG_IOU_THRESHOLD", float),
    "beta": ("MODEL.RETINANET.BBOX_REG_BETA", float),
    "alpha": ("MODEL.RETINANET.LOSS_ALPHA", float),
    "gamma": ("MODEL.RETINANET.LOSS_GAMMA", float),
    "score": ("MODEL.RETINANET.INFERENCE_TH", float),
    "before": ("MODEL.RETINANET.PRE_NMS_TOP_N", int),
    "nms": ("MODEL.RETINANET.NMS_TH", float),
    "most": ("TEST.DETECTIONS_PER_IMG", int),
}


def _taken(read: Config, fields: Fields) -> dict[str, Any]:
    return {name: kind(read(key, f"task.net.{name}")) for name, (key, kind) in fields.items()}


def network(read: Config) -> tuple[DetectorNet, int]:
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


def _rcnn(read: Config, body: ResNetBody, pyramid: bool, channels: int) -> tuple[DetectorNet, int]:
    where = "task.net"
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
    options = {"body": body, "neck": "fpn" if pyramid else "c4", **_taken(read, _FASTER_RCNN)}
    for name, end in (
        ("before", "PRE_NMS_TOP_N"),
        ("after", "POST_NMS_TOP_N"),
        ("all", "FPN_POST_NMS_TOP_N"),
    ):
        options[name] = tuple(
            int(read(f"{rpn}.{end}_{part}", f"{where}.{name}.{i}"))
            for i, part in enumerate(("TRAIN", "TEST"))
        )
    if pyramid:
        options |= {"width": channels, "head": int(read(f"{box}.MLP_HEAD_DIM", f"{where}.head"))}
    if options["masks"]:
        layers = read("MODEL.ROI_MASK_HEAD.CONV_LAYERS", f"{where}.mask_layers")
        options["mask_layers"] = tuple(int(v) for v in as_tuple(layers))
        for key in ("FEATURE_EXTRACTOR", "PREDICTOR", "POOLER_SCALES", "SHARE_BOX_FEATURE_EXTRACTOR"):
            read(f"MODEL.ROI_MASK_HEAD.{key}", f"{where}.neck")
        for key in ("POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "RESOLUTION"):
            read(f"MODEL.ROI_MASK_HEAD.{key}", "14 pooled cells; 28 mask cells on a pyramid, 14 on C4")
    if read("MODEL.KEYPOINT_ON", f"{where}.keypoints"):
        options["keypoints"] = int(read("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", f"{where}.keypoints"))
    classes = int(read(f"{box}.NUM_CLASSES", "task.classes, without the background")) - 1
    return FasterRCNN(**options), classes


def _retinanet(read: Config, body: ResNetBody, channels: int) -> tuple[DetectorNet, int]:
    part, where = "MODEL.RETINANET", "task.net"
    read(f"{part}.ANCHOR_STRIDES", f"{where}.strides")
    for key in ("STRADDLE_THRESH", "NUM_CONVS", "BBOX_REG_WEIGHT", "PRIOR_PROB"):
        read.refuse(f"{part}.{key}", "as in the paper: 4 convolutions, prior .01")
    from_pyramid = not read(f"{part}.USE_C5", f"{where}.from_pyramid")
    net = RetinaNet(body=body, width=channels, from_pyramid=from_pyramid, **_taken(read, _RETINANET))
    return net, int(read(f"{part}.NUM_CLASSES", "task.classes, without the background")) - 1
