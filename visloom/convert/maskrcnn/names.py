"""Names of a detector's tensors in four programs, each as a function of ours; and the original's suffix rule, repaired.

maskrcnn-benchmark and its domain-adaptive forks, Detectron (Caffe2), torchvision, detectron2. detectron2 keeps the
background last and gives it no box; its C4 anchors run size by size: `Change` says what is done to a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor"], "Tensor"]


def benchmark_name(name: str, retina: bool = False) -> str:
    """Our name in maskrcnn-benchmark. retina: the pyramid begins at the second stage there."""
    shift = 2 if retina else 1
    rules: list[tuple[str, Any]] = [
        (r"^net\.backbone\.body\.(conv1|bn1)\.", r"backbone.body.stem.\1."),
        (r"^net\.backbone\.body\.", "backbone.body."),
        (
            r"^net\.backbone\.fpn\.inner_blocks\.(\d)\.0\.",
            lambda m: f"backbone.fpn.fpn_inner{int(m[1]) + shift}.",
        ),
        (
            r"^net\.backbone\.fpn\.layer_blocks\.(\d)\.0\.",
            lambda m: f"backbone.fpn.fpn_layer{int(m[1]) + shift}.",
        ),
        (r"^net\.backbone\.fpn\.extra_blocks\.", "backbone.fpn.top_blocks."),
        (r"^net\.rpn\.", "rpn."),
        (
            r"^net\.head\.classification_head\.conv\.(\d)\.0\.",
            lambda m: f"rpn.head.cls_tower.{2 * int(m[1])}.",
        ),
        (r"^net\.head\.regression_head\.conv\.(\d)\.0\.", lambda m: f"rpn.head.bbox_tower.{2 * int(m[1])}."),
        (r"^net\.head\.classification_head\.cls_logits\.", "rpn.head.cls_logits."),
        (r"^net\.head\.regression_head\.bbox_reg\.", "rpn.head.bbox_pred."),
        (r"^net\.roi\.head\.layer4\.", "roi_heads.box.feature_extractor.head.layer4."),
        (r"^net\.roi\.head\.", "roi_heads.box.feature_extractor."),
        (r"^net\.roi\.predictor\.", "roi_heads.box.predictor."),
        (
            r"^net\.masks\.head\.(\d)\.0\.",
            lambda m: f"roi_heads.mask.feature_extractor.mask_fcn{int(m[1]) + 1}.",
        ),
        (r"^net\.masks\.predictor\.", "roi_heads.mask.predictor."),
        (
            r"^net\.keypoints\.head\.(\d+)\.",
            lambda m: f"roi_heads.keypoint.feature_extractor.conv_fcn{int(m[1]) // 2 + 1}.",
        ),
        (r"^net\.keypoints\.predictor\.", "roi_heads.keypoint.predictor."),
    ]
    return _applied(rules, name)


def discriminator_name(name: str, levels: bool) -> str:
    """Our name of a discriminator's tensor in the domain-adaptive forks: one head, or one per level (SADA)."""
    found = re.fullmatch(r"domain\.(image|instance)\.(\d)\.(conv|fc)(\d)\.(weight|bias)", name)
    if found is None:
        return name
    kind, level, layer, number, rest = found.groups()
    head = "imghead" if kind == "image" else "inshead"
    if not levels:
        return f"da_heads.{head}.{layer}{number}_da.{rest}"
    middle = f"da_img_conv{number}_level{level}" if kind == "image" else f"da_ins_fc{number}_level{level}"
    return f"da_heads.{head}.{middle}.{rest}"


def torchvision_name(name: str) -> str:
    """Our name in torchvision's detectors."""
    rules: list[tuple[str, Any]] = [
        (r"^net\.rpn\.head\.conv\.", "rpn.head.conv.0.0."),
        (r"^net\.rpn\.", "rpn."),
        (r"^net\.roi\.head\.", "roi_heads.box_head."),
        (r"^net\.roi\.predictor\.", "roi_heads.box_predictor."),
        (r"^net\.masks\.head\.", "roi_heads.mask_head."),
        (r"^net\.masks\.predictor\.", "roi_heads.mask_predictor."),
        (r"^net\.keypoints\.head\.", "roi_heads.keypoint_head."),
        (r"^net\.keypoints\.predictor\.", "roi_heads.keypoint_predictor."),
        (r"^net\.", ""),
    ]
    return _applied(rules, name)


def detectron2_name(name: str) -> str:
    """Our name in detectron2."""
    rules: list[tuple[str, Any]] = [
        (r"^net\.backbone\.body\.conv1\.", "BODY.stem.conv1."),
        (r"^net\.backbone\.body\.bn1\.", "BODY.stem.conv1.norm."),
        (r"^net\.backbone\.body\.layer(\d)\.", lambda m: f"BODY.res{int(m[1]) + 1}."),
        (r"^net\.roi\.head\.layer4\.", "roi_heads.res5."),
        (r"^net\.backbone\.fpn\.inner_blocks\.(\d)\.0\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
        (r"^net\.backbone\.fpn\.layer_blocks\.(\d)\.0\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
        (r"^net\.rpn\.head\.conv\.", "proposal_generator.rpn_head.conv."),
        (r"^net\.rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
        (r"^net\.rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
        (r"^net\.roi\.head\.fc(\d)\.", lambda m: f"roi_heads.box_head.fc{int(m[1]) - 5}."),
        (r"^net\.roi\.predictor\.", "roi_heads.box_predictor."),
        (r"^net\.masks\.head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
        (r"^net\.masks\.predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
        (r"^net\.masks\.predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
        (
            r"^net\.keypoints\.head\.(\d+)\.",
            lambda m: f"roi_heads.keypoint_head.conv_fcn{int(m[1]) // 2 + 1}.",
        ),
        (r"^net\.keypoints\.predictor\.kps_score_lowres\.", "roi_heads.keypoint_head.score_lowres."),
    ]
    found = _applied(rules, name)
    found = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", found)
    return found.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")


def _applied(rules: Iterable[tuple[str, Any]], name: str) -> str:
    """The first rule that fits."""
    for pattern, new in rules:
        changed, count = re.subn(pattern, new, name)
        if count:
            return changed
    return name


# ------------------------------------------------------------------------------------------- Detectron's blobs


def caffe2_names(blobs: Sequence[str]) -> dict[str, str]:
    """Names of Detectron's blobs in maskrcnn-benchmark, or endings of them: blob -> name. Momentum is left out."""
    return {blob: _caffe2_name(blob) for blob in blobs if not blob.endswith("_momentum")}


_LAST = {"res2": ("2",), "res3": ("3", "7"), "res4": ("5", "22", "35"), "res5": ("2",)}


def _caffe2_name(blob: str) -> str:
    stem, _, kind = blob.rpartition("_")
    kinds = {"w": "weight", "b": "bias", "s": "weight"}
    if kind not in kinds:
        return blob
    rest = kinds[kind]
    if stem in ("conv1", "res_conv1_bn"):
        return f"conv1.{rest}" if stem == "conv1" else f"bn1.{rest}"
    block = re.fullmatch(r"res([2-5])_(\d+)_branch(1|2[abc])(_bn)?", stem)
    if block is not None:
        number, i, branch, norm = block.groups()
        if branch == "1":
            middle = "downsample.1" if norm else "downsample.0"
        else:
            middle = ("bn" if norm else "conv") + str("abc".index(branch[1]) + 1)
        return f"layer{int(number) - 1}.{i}.{middle}.{rest}"
    level = re.fullmatch(r"fpn_inner_res([2-5])_\d+_sum(?:_lateral)?", stem)
    if level is not None:
        return f"fpn_inner{int(level[1]) - 1}.{rest}"
    level = re.fullmatch(r"fpn_res([2-5])_\d+_sum", stem)
    if level is not None:
        return f"fpn_layer{int(level[1]) - 1}.{rest}"
    plain = re.sub(r"_fpn\d$", "", stem)
    table = {
        "conv_rpn": "rpn.head.conv",
        "rpn_cls_logits": "rpn.head.cls_logits",
        "rpn_bbox_pred": "rpn.head.bbox_pred",
        "cls_score": "cls_score",
        "bbox_pred": "bbox_pred",
        "fc6": "fc6",
        "fc7": "fc7",
        "conv5_mask": "conv5_mask",
        "mask_fcn_logits": "mask_fcn_logits",
        "kps_score_lowres": "kps_score_lowres",
    }
    if plain in table:
        return f"{table[plain]}.{rest}"
    numbered = re.fullmatch(r"_\[mask\]_fcn(\d)", plain)
    return f"mask_fcn{numbered[1]}.{rest}" if numbered else f"{plain}.{rest}"


# ------------------------------------------------------------------------------------------- the suffix rule


def by_suffix(wanted: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Which loaded tensor each wanted one takes: wanted name -> loaded name.

    The original's rule (the longest loaded name that the wanted one ends with), with what it lacked: the ending begins
    at a dot, so that `fc6.weight` does not feed `xfc6.weight`; and shapes must agree, so that a head of another number
    of classes starts afresh instead of failing.
    """
    found = {}
    for name, shape in wanted.items():
        parts = name.split(".")
        for start in range(len(parts)):
            ending = ".".join(parts[start:])
            if there.get(ending) == shape:
                found[name] = ending
                break
    return found
