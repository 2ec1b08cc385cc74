"""Detectors as plain values of a recipe. Nothing here imports torch until `build`.

FasterRCNN(body=ResNetBody(50), neck="c4")             Faster R-CNN R-50-C4
FasterRCNN(body=Features("resnet18"))                  any timm backbone with FPN
FasterRCNN(masks=True), FasterRCNN(keypoints=17)       Mask R-CNN, Keypoint R-CNN
RetinaNet(), FCOS()                                    one-stage detectors

`compat` of the task turns each into what maskrcnn-benchmark computes; fields that are None follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from visloom.errors import ConfigError
from visloom.tasks.classify.nets import Normalise

if TYPE_CHECKING:
    from torch import nn

    from visloom.nets.detection.backbone import Pyramid, Single, TimmBody
    from visloom.nets.detection.rcnn import RCNN
    from visloom.nets.detection.resnet import ResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of the four stages of a ResNet, by depth."""

IMAGENET = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
DETECTRON = Normalise((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
"""Blue, green, red means of Detectron's ImageNet models; their pixels run from 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class ResNetBody:
    """A ResNet or ResNeXt.

    depth: 50, 101 or 152.  norm: "frozen" is a fixed affine map of the pretrained statistics.
    groups, group_width: 32 and 8 for ResNeXt-101-32x8d.  stem, out: channels after the stem and after stage 1.
    frozen: 2 freezes the stem and stage 1, 0 nothing.
    stride_in_1x1: where a block takes its stride; None follows `compat` (MSRA weights True, torchvision False).
    pretrained: start from torchvision's ImageNet weights, from its cache or over the network.
    """

    depth: int = 50
    norm: Literal["frozen", "batch", "group"] = "frozen"
    groups: int = 1
    group_width: int = 64
    stem: int = 64
    out: int = 256
    frozen: int = 2
    stride_in_1x1: bool | None = None
    pretrained: bool = False

    def __post_init__(self) -> None:
        if self.depth not in (50, 101, 152):
            raise ValueError(f"depth is 50, 101 or 152, got {self.depth}; other bodies: Features(name)")
        if not 0 <= self.frozen <= 5:
            raise ValueError(f"frozen counts the stem and four stages, 0 to 5, got {self.frozen}")

    def build(self, channels: int, strides: tuple[int, ...], compat: bool, stages: int = 4) -> ResNet:
        """Make the body with maps of these strides."""
        from visloom.nets.detection.resnet import ResNet

        if any(stride not in (4, 8, 16, 32) for stride in strides):
            raise ConfigError(
                f"a ResNet has maps of stride 4, 8, 16 and 32, got {strides}", path="task.net.strides"
            )
        return ResNet(
            self.depth,
            stages=stages,
            returned=tuple(stride.bit_length() - 2 for stride in strides),
            channels=channels,
            stem=self.stem,
            out=self.out,
            width=self.group_width,
            groups=self.groups,
            norm=self.norm,
            eps=0.0 if compat else 1e-5,
            first=self.first(compat),
            frozen=self.frozen,
        )

    def first(self, compat: bool) -> bool:
        """Whether the stride sits in the first 1x1 convolution."""
        return compat if self.stride_in_1x1 is None else self.stride_in_1x1

    def normalisation(self) -> Normalise:
        return IMAGENET


@dataclass(frozen=True)
class Features:
    """Feature maps of a timm model, with the normalisation of its weights.

    name: `resnet18`, `convnext_tiny`, ...  options: further arguments of the model.
    """

    name: str
    pretrained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, channels: int, strides: tuple[int, ...], compat: bool, stages: int = 4) -> TimmBody:
        """Make the body with maps of these strides. Raises ConfigError if the model has none of a stride."""
        from visloom.nets.detection.backbone import TimmBody

        return TimmBody(self.name, strides, channels, self.pretrained, self.options)

    def normalisation(self) -> Normalise:
        from visloom.nets.backbone import expected

        found = expected(self.name)
        return Normalise(found.mean, found.std)


@runtime_checkable
class DetectorNet(Protocol):
    """A detector as a value."""

    @property
    def body(self) -> ResNetBody | Features: ...

    def build(self, classes: int, channels: int, compat: bool) -> nn.Module:
        """Make the network: `features`, `losses` and `detect`, as in `visloom/nets/detection/rcnn.py`."""
        ...


@dataclass(frozen=True, kw_only=True)
class FasterRCNN:
    """Faster R-CNN on one map ("c4": the ResNet's last stage is the box head) or on a pyramid ("fpn").

    width: channels of the pyramid.  strides: of the body's maps that it takes.
    anchors: sides in pixels; one per level of a pyramid (one more than `strides`), all at once on C4.
    rounded: anchors of whole pixels; detectron2's are not.
    rpn_*: overlaps that make an anchor positive and background, anchors per picture, share of positives,
        suppression; straddle: anchors further than this outside are not trained (below 0: all are).
    before, after: proposals per level around suppression, all: in the end; in training and in tests.
    per_batch: `all` counts the whole training batch, as maskrcnn-benchmark does (targets starve); None follows compat.
    roi_*: the same for proposals; beta of the smooth L1 loss.  pool, samples, aligned: RoIAlign (detectron2: True).
    head: width of the two linear layers of a pyramid's box head.
    score, nms, most: of the answers.  masks: a mask per box.  keypoints: how many per box, 0 for none.
    """

    body: ResNetBody | Features = ResNetBody()
    neck: Literal["fpn", "c4"] = "fpn"
    width: int = 256
    strides: tuple[int, ...] = (4, 8, 16, 32)
    anchors: tuple[float, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = True
    rpn_high: float = 0.7
    rpn_low: float = 0.3
    rpn_batch: int = 256
    rpn_fraction: float = 0.5
    rpn_nms: float = 0.7
    least: float | None = None
    straddle: float | None = None
    before: tuple[int, int] = (2000, 1000)
    after: tuple[int, int] = (2000, 1000)
    all: tuple[int, int] = (2000, 1000)
    per_batch: bool | None = None
    roi_high: float = 0.5
    roi_low: float = 0.5
    roi_batch: int = 512
    roi_fraction: float = 0.25
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    beta: float | None = None
    pool: int | None = None
    samples: int | None = None
    aligned: bool = False
    head: int = 1024
    agnostic: bool = False
    score: float = 0.05
    nms: float = 0.5
    most: int = 100
    masks: bool = False
    mask_layers: tuple[int, ...] = (256, 256, 256, 256)
    keypoints: int = 0

    def __post_init__(self) -> None:
        if self.neck == "fpn" and len(self.anchors) != len(self.strides) + 1:
            raise ValueError(
                f"a pyramid of {len(self.strides)} strides and one level on top needs {len(self.strides) + 1} anchor "
                f"sizes, got {len(self.anchors)}"
            )
        if self.neck == "c4" and not isinstance(self.body, ResNetBody):
            raise ValueError("neck c4 takes a ResNetBody, whose last stage is the box head")

    def build(self, classes: int, channels: int, compat: bool) -> RCNN:
        """Make the network."""
        from visloom.nets.detection import rcnn, roi, rpn
        from visloom.nets.detection.anchors import Anchors
        from visloom.nets.detection.branches import KeypointBranch, MaskBranch
        from visloom.nets.detection.matching import Matcher, Sampler

        plus = 1.0 if compat else 0.0
        backbone, head = self._backbone(channels, compat)
        sizes = [(side,) for side in self.anchors] if self.neck == "fpn" else [self.anchors]
        anchors = Anchors(
            sizes,
            self.ratios,
            backbone.strides,
            legacy=compat,
            rounded=self.rounded,
            fixed=not self.rounded,
        )
        first = rpn.RPN(
            backbone.width,
            anchors,
            matcher=Matcher(self.rpn_high, self.rpn_low, rescue=True),
            sampler=Sampler(self.rpn_batch, self.rpn_fraction),
            threshold=self.rpn_nms,
            least=(0.0 if compat else 1e-3) if self.least is None else self.least,
            straddle=(0.0 if compat else -1.0) if self.straddle is None else self.straddle,
            plus=plus,
        )
        pool = (14 if self.neck == "c4" else 7) if self.pool is None else self.pool
        samples = (0 if self.neck == "c4" else 2) if self.samples is None else self.samples

        def pooler(size: int) -> roi.Pooler:
            return roi.Pooler(size, samples, backbone.pooled, aligned=self.aligned, plus=plus)

        box_head = head if head is not None else roi.TwoMLP(backbone.width * pool * pool, self.head)
        second = roi.ROI(
            pooler(pool),
            box_head,
            roi.Predictor(box_head.outputs, classes, agnostic=self.agnostic),
            matcher=Matcher(self.roi_high, self.roi_low),
            sampler=Sampler(self.roi_batch, self.roi_fraction),
            weights=self.weights,
            beta=(1.0 if compat else 1 / 9) if self.beta is None else self.beta,
            score=self.score,
            threshold=self.nms,
            most=self.most,
            plus=plus,
        )
        masks = points = None
        if self.masks:
            inputs = backbone.width if head is None else head.outputs
            layers = self.mask_layers if head is None else ()
            masks = MaskBranch(pooler(14), inputs, classes, layers)
        if self.keypoints:
            points = KeypointBranch(pooler(14), backbone.width, self.keypoints)
        per_batch = compat if self.per_batch is None else self.per_batch
        top = (
            rpn.Top(self.before[0], self.after[0], self.all[0], per_batch),
            rpn.Top(self.before[1], self.after[1], self.all[1]),
        )
        return rcnn.RCNN(backbone, first, second, top=top, masks=masks, keypoints=points)

    def _backbone(self, channels: int, compat: bool) -> tuple[Pyramid | Single, Any]:
        """The backbone, and the box head where the body's last stage is it."""
        from visloom.nets.detection.backbone import Pyramid, Single
        from visloom.nets.detection.resnet import norm_of, stage, start
        from visloom.nets.detection.roi import StageHead

        if self.neck == "fpn":
            return Pyramid(self.body.build(channels, self.strides, compat), self.width), None
        body = self.body
        assert isinstance(body, ResNetBody)
        last = stage(
            4,
            body.depth,
            stem=body.stem,
            out=body.out,
            width=body.group_width,
            groups=body.groups,
            norm=norm_of(body.norm, 0.0 if compat else 1e-5),
            first=body.first(compat),
        )
        start(last)
        return Single(body.build(channels, (16,), compat, stages=3)), StageHead(last, body.out * 8)


@dataclass(frozen=True, kw_only=True)
class RetinaNet:
    """RetinaNet (Lin et al., 2017).

    anchors: of each level, in three steps of an octave.  from_pyramid: the two coarsest levels come from the pyramid
        rather than from the body.  high, low: overlaps of positives and background.
    beta: of the smooth L1 loss, 0 for L1; None follows compat (0.11).  before: cells per level that are looked at.
    """

    body: ResNetBody | Features = ResNetBody()
    width: int = 256
    strides: tuple[int, ...] = (8, 16, 32)
    anchors: tuple[float, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    octave: float = 2.0
    scales: int = 3
    from_pyramid: bool = True
    high: float = 0.5
    low: float = 0.4
    rescue: bool = True
    weights: tuple[float, float, float, float] | None = None
    beta: float | None = None
    alpha: float = 0.25
    gamma: float = 2.0
    score: float = 0.05
    before: int = 1000
    nms: float = 0.5
    most: int = 100

    def build(self, classes: int, channels: int, compat: bool) -> nn.Module:
        """Make the network."""
        from visloom.nets.detection.anchors import Anchors
        from visloom.nets.detection.backbone import Pyramid
        from visloom.nets.detection.dense import RetinaNet as Net
        from visloom.nets.detection.dense import Taken
        from visloom.nets.detection.matching import Matcher

        body = self.body.build(channels, self.strides, compat)
        backbone = Pyramid(body, self.width, "p6p7", from_pyramid=self.from_pyramid)
        steps = [self.octave ** (i / self.scales) for i in range(self.scales)]
        sizes = [[_whole(side * step, compat) for step in steps] for side in self.anchors]
        weights = ((10.0, 10.0, 5.0, 5.0) if compat else (1.0,) * 4) if self.weights is None else self.weights
        return Net(
            backbone,
            Anchors(sizes, self.ratios, backbone.strides, legacy=compat),
            classes,
            Taken(self.score, self.before, self.nms, self.most),
            matcher=Matcher(self.high, self.low, self.rescue),
            weights=weights,
            beta=(0.11 if compat else 0.0) if self.beta is None else self.beta,
            alpha=self.alpha,
            gamma=self.gamma,
            plus=1.0 if compat else 0.0,
        )


def _whole(side: float, compat: bool) -> float:
    """torchvision rounds the sides of RetinaNet's anchors down."""
    return side if compat else float(int(side))


@dataclass(frozen=True, kw_only=True)
class FCOS:
    """FCOS (Tian et al., 2019): a cell answers for the box it lies in; there are no anchors."""

    body: ResNetBody | Features = ResNetBody()
    width: int = 256
    strides: tuple[int, ...] = (8, 16, 32)
    from_pyramid: bool = True
    radius: float = 1.5
    score: float = 0.2
    before: int = 1000
    nms: float = 0.6
    most: int = 100

    def build(self, classes: int, channels: int, compat: bool) -> nn.Module:
        """Make the network. There is no such detector in maskrcnn-benchmark, so `compat` concerns the body alone."""
        from visloom.nets.detection.backbone import Pyramid
        from visloom.nets.detection.dense import FCOS as Net
        from visloom.nets.detection.dense import Taken

        body = self.body.build(channels, self.strides, compat)
        backbone = Pyramid(body, self.width, "p6p7", from_pyramid=self.from_pyramid)
        taken = Taken(self.score, self.before, self.nms, self.most)
        return Net(backbone, classes, taken, radius=self.radius)
