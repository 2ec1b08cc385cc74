"""Detect: the data's side of object detection, a value in the Run. It imports no torch until it is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from visloom.errors import ConfigError
from visloom.metrics import Metric
from visloom.palette import Colour, palette
from visloom.sample import Sample
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.detect.batch import DetectBatch, collate
from visloom.tasks.detect.cityscapes import CityscapesPrecision
from visloom.tasks.detect.coco import CocoPrecision
from visloom.tasks.detect.nets import DETECTRON, DetectorNet, FasterRCNN
from visloom.tasks.detect.results import coco_results, lines_of
from visloom.tasks.detect.views import Views, parse
from visloom.tasks.detect.voc import VocPrecision, matched

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from visloom.tasks.detect.module import DetectModule


@dataclass(frozen=True, kw_only=True)
class Detect:
    """Object detection.

    net: the detector; see `visloom/tasks/detect/nets.py`.
    classes: names by class index, without a background; () takes the data set's own.
    compat: compute as maskrcnn-benchmark does, for weights that were trained so: boxes of inclusive pixels (width =
        x1 - x0 + 1), its anchors, batch norm without epsilon, blue-green-red pixels from 0 to 255, the stride in the
        first 1x1 convolution, suppression class by class. New training wants False.
    normalise: "net" is what the body's weights expect, in the order of `order`.
    order: of the colours that the net sees; None follows `compat` (bgr).
    divisible: pictures are padded right and bottom to a multiple of this.
    shown: least score of a box that is drawn.
    views: what evaluation and prediction look at besides the picture: its mirror image, other scales.
    category_ids: ids of the classes in COCO results; () takes the data set's own, or numbers them from 1.
    counted: by whose rules evaluations count, see `coco.py`, `voc.py` and `cityscapes.py`.
    sigmas: spread of each keypoint in units of the thing's size; () takes COCO's 17, or 0.05 for other numbers.
    colours: one RGB colour per class; () chooses.
    """

    net: DetectorNet = FasterRCNN()
    classes: tuple[str, ...] = ()
    channels: int = 3
    compat: bool = False
    normalise: Normalise | Literal["net"] = "net"
    order: Literal["rgb", "bgr"] | None = None
    divisible: int = 32
    shown: float = 0.5
    views: Views = Views()
    category_ids: tuple[int, ...] = ()
    counted: tuple[Literal["coco", "voc", "cityscapes"], ...] = ("coco", "voc")
    sigmas: tuple[float, ...] = ()
    colours: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        if self.divisible < 1:
            raise ValueError(f"divisible is at least 1, got {self.divisible}")
        if not 0 <= self.shown <= 1:
            raise ValueError(f"shown is a score between 0 and 1, got {self.shown}")
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be different names, got {self.classes}")
        masks, keypoints = self._branches()
        if "cityscapes" in self.counted and not masks:
            raise ValueError(
                "counted: cityscapes counts masks, and the net has none; set task.net.masks=true"
            )
        if self.sigmas and len(self.sigmas) != keypoints:
            raise ValueError(f"{len(self.sigmas)} sigmas for {keypoints} keypoints of the net")
        for name in ("colours", "category_ids"):
            given = getattr(self, name)
            if self.classes and given and len(given) != len(self.classes):
                raise ValueError(f"{len(given)} {name} for {len(self.classes)} classes")

    @property
    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class."""
        return self.colours or palette(len(self.classes))

    @property
    def reversed_channels(self) -> bool:
        """Whether the net sees blue first."""
        bgr = self.compat if self.order is None else self.order == "bgr"
        return bgr and self.channels == 3

    def complete(self, sources: Sequence[Any]) -> Self:
        """Return this task with the numbers that the training data has for the classes, where it has such."""
        found = getattr(sources[0], "category_ids", None)
        numbers: tuple[int, ...] = found() if callable(found) else ()
        if self.category_ids or len(numbers) != len(self.classes):
            return self
        return dataclasses.replace(self, category_ids=tuple(numbers))

    def build(self) -> DetectModule:
        """Make the module, its weights drawn from torch's generator. Raises ConfigError if it cannot be built."""
        from visloom.tasks.detect.module import DetectModule

        return DetectModule(self.build_net(), self)

    def build_net(self) -> Any:
        """Make the network alone."""
        if not self.classes:
            raise ConfigError("the task has no classes yet: set task.classes", path="task.classes")
        net = self.net.build(len(self.classes), self.channels, self.compat)
        self._pretrained(net)
        return net

    def _pretrained(self, net: Any) -> None:
        from visloom.tasks.detect.nets import ResNetBody
        from visloom.tasks.detect.weights import load_imagenet

        body = self.net.body
        if isinstance(body, ResNetBody) and body.pretrained:
            load_imagenet(net, body)

    def normalisation(self) -> Normalise:
        """Return the normalisation in force, in the order of colours that the net sees."""
        if isinstance(self.normalise, Normalise):
            return self.normalise
        if self.compat:
            return DETECTRON.channels(self.channels)
        found = self.net.body.normalisation().channels(self.channels)
        return Normalise(found.mean[::-1], found.std[::-1]) if self.reversed_channels else found

    def collate(self, samples: Sequence[Sample], key: int | None) -> DetectBatch:
        """Join pictures of any sizes, padded. Raises DataError naming a sample that cannot be used."""
        masks, keypoints = self._branches()
        return collate(
            samples,
            key,
            classes=len(self.classes),
            channels=self.channels,
            divisible=self.divisible,
            masks=masks,
            keypoints=keypoints,
        )

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics by the rules in `counted`, of boxes, masks and keypoints as the net has them."""
        masks, keypoints = self._branches()
        found: dict[str, Metric] = {}
        if "coco" in self.counted:
            found["coco"] = CocoPrecision(self.classes, masks=masks, keypoints=keypoints, sigmas=self.sigmas)
        if "voc" in self.counted:
            found["voc"] = VocPrecision(self.classes)
        if "cityscapes" in self.counted:
            found["cityscapes"] = CityscapesPrecision(self.classes)
        return found

    def _branches(self) -> tuple[bool, int]:
        """Whether the net has masks, and how many keypoints."""
        return bool(getattr(self.net, "masks", False)), int(getattr(self.net, "keypoints", 0))

    def goodness(self, predictions: Any, batch: DetectBatch) -> Tensor:
        """Share of boxes and shown detections that agree (F1 at overlap 0.5), 1 where both are none: (B,)."""
        import torch

        found = []
        for row, known in enumerate(batch.known):
            scores, labels, boxes = (
                predictions[name][row].cpu().numpy() for name in ("scores", "labels", "boxes")
            )
            shown = scores >= self.shown
            right, there = 0, int((~known.crowd).sum())
            for label in np.unique(labels[shown]):
                mine, at = known.labels == label, shown & (labels == label)
                hits = matched(
                    boxes[at].astype(np.float64), known.boxes[mine].astype(float), known.crowd[mine]
                )
                right += int((hits == 1).sum())
            total = there + int(shown.sum())
            found.append(2 * right / total if total else 1.0)
        return torch.tensor(found)

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw the boxes shown, and the truth as thin white frames; see `draw.py`."""
        from visloom.tasks.detect.draw import draw

        return draw(
            np.asarray(image), prediction, truth, classes=self.classes, colours=self.palette, least=self.shown
        )

    # ---- what using a trained run asks

    def bare(self) -> Self:
        """Return this task without pretrained weights: those of a checkpoint follow, and no network is there."""
        body = getattr(self.net, "body", None)
        if not getattr(body, "pretrained", False):
            return self
        bare = dataclasses.replace(body, pretrained=False)  # type: ignore[type-var]
        return dataclasses.replace(self, net=dataclasses.replace(self.net, body=bare))  # type: ignore[type-var]

    def with_tta(self, words: str) -> Self:
        """Return this task with the views of `--tta`: flip and scales, such as flip,0.75,1.25. Raises ConfigError."""
        return dataclasses.replace(self, views=parse(words))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that `visloom predict` writes: one line per box."""
        return ("class", "score", "x0", "y0", "x1", "y1")

    def lines(self, row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The lines of one picture in that table; none where nothing was found."""
        return lines_of(row, self.classes)

    def records(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The entries of one picture in predictions.json, which has COCO's result form."""
        return coco_results(row, self.category_ids or tuple(range(1, len(self.classes) + 1)))

    def seen(self, batch: DetectBatch) -> NDArray[np.uint8]:
        """The pictures of a training batch as the network sees them, with their boxes: (B, H, W, 3) uint8."""
        from PIL import Image as Images
        from PIL import ImageDraw

        high = 255.0 / max(255.0, float(batch.image.max()))  # wider integers are scaled to 8 bits
        pictures = (batch.image.float() * high).numpy().astype(np.uint8)
        if pictures.shape[3] != 3:
            pictures = pictures[..., :1].repeat(3, 3)
        for row, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
            picture = Images.fromarray(pictures[row])
            pen = ImageDraw.Draw(picture)
            for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                pen.rectangle(
                    (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=self.palette[label], width=2
                )
            pictures[row] = np.asarray(picture)
        return pictures
