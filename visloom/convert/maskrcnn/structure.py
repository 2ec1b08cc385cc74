"""Which detector a file holds, from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from visloom.errors import ConfigError
from visloom.tasks.detect.nets import BLOCKS, FCOS, DetectorNet, FasterRCNN, ResNetBody, RetinaNet

Shapes = Mapping[str, tuple[int, ...]]
_STAGES = {
    "benchmark": ("backbone.body.stem.conv1", "backbone.body.layer{}"),
    "torchvision": ("backbone.body.conv1", "backbone.body.layer{}"),
}


def detector(kind: str, shapes: Shapes) -> tuple[DetectorNet, int]:
    """The detector and its number of classes, without the background. Raises ConfigError if it is none of ours."""
    if kind == "detectron2":
        return _detectron2(shapes)
    stem, layer = _STAGES[kind]
    if kind == "torchvision" and "head.classification_head.cls_logits.weight" in shapes:
        return _one_stage(shapes)
    pyramid = any(key.startswith("backbone.fpn.") for key in shapes)
    body = _body(shapes, f"{stem}.weight", layer)
    if any(key.startswith("rpn.head.cls_tower.") for key in shapes):
        count = shapes["rpn.head.cls_logits.weight"][0] // 9
        net = RetinaNet(body=body, width=shapes["rpn.head.cls_logits.weight"][1], nms=0.4, from_pyramid=False)
        return net, count
    box = "roi_heads.box.predictor" if kind == "benchmark" else "roi_heads.box_predictor"
    if f"{box}.cls_score.weight" not in shapes:
        raise ConfigError("the file holds a proposal network alone, or a head that is not known here")
    count = shapes[f"{box}.cls_score.weight"][0] - 1
    mask = "roi_heads.mask" if kind == "benchmark" else "roi_heads.mask_"
    masks = any(key.startswith((f"{mask}.predictor.", f"{mask}predictor.")) for key in shapes)
    layers = _mask_layers(shapes)
    common: dict[str, Any] = {
        "body": body,
        "masks": masks,
        "keypoints": next((s[1] for k, s in shapes.items() if k.endswith("kps_score_lowres.weight")), 0),
        "agnostic": shapes[f"{box}.bbox_pred.weight"][0] == 8 and count > 1,
    }
    if not pyramid:
        return FasterRCNN(neck="c4", before=(12000, 6000), after=(2000, 1000), **common), count
    fc6 = next(s for k, s in shapes.items() if k.endswith("fc6.weight"))
    width = shapes["rpn.head.cls_logits.weight"][1]
    if masks:
        common["mask_layers"] = layers
    return FasterRCNN(width=width, head=fc6[0], pool=round((fc6[1] / width) ** 0.5), **common), count


def _mask_layers(shapes: Shapes) -> tuple[int, ...]:
    found = {
        int(m[1]): shape[0]
        for key, shape in shapes.items()
        if (m := re.search(r"mask_(?:fcn|head\.)(\d)(?:\.0)?\.weight$", key)) is not None
    }
    return tuple(found[number] for number in sorted(found))


def _one_stage(shapes: Shapes) -> tuple[DetectorNet, int]:
    body = _body(shapes, "backbone.body.conv1.weight", "backbone.body.layer{}")
    logits = shapes["head.classification_head.cls_logits.weight"]
    if "head.regression_head.bbox_ctrness.weight" in shapes:
        return FCOS(body=body, width=logits[1], from_pyramid=_from_pyramid(shapes)), logits[0]
    return RetinaNet(body=body, width=logits[1], from_pyramid=_from_pyramid(shapes)), logits[0] // 9


def _from_pyramid(shapes: Shapes) -> bool:
    return (
        shapes["backbone.fpn.extra_blocks.p6.weight"][1] == shapes["backbone.fpn.extra_blocks.p6.weight"][0]
    )


def _body(shapes: Shapes, stem: str, layer: str, shift: int = 0) -> ResNetBody:
    """The ResNet of a file. layer: its stages' beginning, `{}` for the number."""
    third = layer.format(3 + shift)
    blocks = {
        int(m[1]) for key in shapes if (m := re.match(re.escape(third) + r"\.(\d+)\.", key)) is not None
    }
    depth = next((d for d, counts in BLOCKS.items() if counts[2] == len(blocks)), None)
    first = layer.format(1 + shift)
    if depth is None or f"{first}.0.conv2.weight" not in shapes:
        raise ConfigError(
            f"the file's body is no ResNet-50, 101 or 152: {len(blocks)} blocks in its third stage"
        )
    middle, inside = shapes[f"{first}.0.conv2.weight"][:2]
    groups = middle // inside
    return ResNetBody(
        depth=depth,
        groups=groups,
        group_width=inside,
        stem=shapes[stem][0],
        out=shapes[f"{first}.0.conv3.weight"][0],
        stride_in_1x1=False if groups > 1 else None,
    )


def _detectron2(shapes: Shapes) -> tuple[DetectorNet, int]:
    pyramid = any(key.startswith("backbone.fpn_") for key in shapes)
    root = "backbone.bottom_up" if pyramid else "backbone"
    if "roi_heads.box_predictor.cls_score.weight" not in shapes:
        raise ConfigError(
            "of detectron2, Faster, Mask and Keypoint R-CNN are read; this file is none of them"
        )
    body = _body(shapes, f"{root}.stem.conv1.weight", f"{root}.res{{}}", shift=1)
    if body.groups == 1:  # detectron2's models start from MSRA weights
        body = ResNetBody(
            depth=body.depth, stem=body.stem, out=body.out, group_width=body.group_width, stride_in_1x1=True
        )
    count = shapes["roi_heads.box_predictor.cls_score.weight"][0] - 1
    cells = [s for k, s in shapes.items() if "anchor_generator.cell_anchors" in k]
    per_cell = shapes["proposal_generator.rpn_head.objectness_logits.weight"][0]
    if per_cell != (3 if pyramid else 15) or any(cell[0] != per_cell for cell in cells):
        raise ConfigError(
            f"the file has {per_cell} anchors per cell; the standard models have 3 on a pyramid and 15 on C4, and "
            "others cannot be told from the file: name the run that it belongs to with --into"
        )
    common: dict[str, Any] = {
        "body": body,
        "rounded": False,
        "aligned": True,
        "samples": 0,
        "beta": 0.0,
        "masks": any(key.startswith("roi_heads.mask_head.predictor.") for key in shapes),
        "keypoints": next((s[1] for k, s in shapes.items() if k.endswith("score_lowres.weight")), 0),
    }
    if not pyramid:
        return FasterRCNN(neck="c4", before=(12000, 6000), after=(2000, 1000), **common), count
    fc1 = shapes["roi_heads.box_head.fc1.weight"]
    width = shapes["backbone.fpn_output2.weight"][0]
    return FasterRCNN(width=width, head=fc1[0], pool=round((fc1[1] / width) ** 0.5), **common), count
