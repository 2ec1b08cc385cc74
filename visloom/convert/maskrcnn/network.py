"""The network of a YAML file of maskrcnn-benchmark."""

from __future__ import annotations

from typing import Any

from visloom.convert.maskrcnn.yacs import Config, as_tuple
from visloom.errors import ConfigError
from visloom.tasks.detect import FasterRCNN, ResNetBody, RetinaNet
from visloom.tasks.detect.nets import DetectorNet


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
        "anchors": tuple(float(v) for v in as_tuple(read(f"{rpn}.ANCHOR_SIZES", f"{where}.anchors"))),
        "ratios": tuple(float(v) for v in as_tuple(read(f"{rpn}.ASPECT_RATIOS", f"{where}.ratios"))),
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
        options["mask_layers"] = tuple(int(v) for v in as_tuple(layers))
        for key in ("FEATURE_EXTRACTOR", "PREDICTOR", "POOLER_SCALES", "SHARE_BOX_FEATURE_EXTRACTOR"):
            read(f"MODEL.ROI_MASK_HEAD.{key}", f"{where}.neck")
        for key in ("POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "RESOLUTION"):
            read(f"MODEL.ROI_MASK_HEAD.{key}", "14 pooled cells; 28 mask cells on a pyramid, 14 on C4")
    if read("MODEL.KEYPOINT_ON", f"{where}.keypoints"):
        options["keypoints"] = int(read("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", f"{where}.keypoints"))
    classes = int(read(f"{box}.NUM_CLASSES", "task.classes, without the background")) - 1
    return FasterRCNN(**options), classes


def _pair(read: Config, train: str, test: str, to: str) -> tuple[int, int]:
    return int(read(train, f"{to}.0")), int(read(test, f"{to}.1"))


def _retinanet(read: Config, body: ResNetBody, channels: int) -> tuple[DetectorNet, int]:
    part, where = "MODEL.RETINANET", "task.net"
    read(f"{part}.ANCHOR_STRIDES", f"{where}.strides")
    for key in ("STRADDLE_THRESH", "NUM_CONVS", "BBOX_REG_WEIGHT", "PRIOR_PROB"):
        read.refuse(f"{part}.{key}", "as in the paper: 4 convolutions, prior .01")
    net = RetinaNet(
        body=body,
        width=channels,
        anchors=tuple(float(v) for v in as_tuple(read(f"{part}.ANCHOR_SIZES", f"{where}.anchors"))),
        ratios=tuple(float(v) for v in as_tuple(read(f"{part}.ASPECT_RATIOS", f"{where}.ratios"))),
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
