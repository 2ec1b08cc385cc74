"""Fusion3d: 3D boxes with velocities and attributes from single pictures and radar, as a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from visloom.data.nuscenes.names import ATTRIBUTES, CLASSES, GROUPS
from visloom.errors import ConfigError, DataError
from visloom.palette import palette
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.fusion3d.batch import FusionBatch
from visloom.tasks.fusion3d.compat import Compat
from visloom.tasks.fusion3d.nds import Rules
from visloom.tasks.fusion3d.nets import DlaNet, TimmNet, TrunkSpec

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from visloom.metrics import Metric
    from visloom.prediction import Answer
    from visloom.sample import Sample
    from visloom.saved import Saved
    from visloom.stream import Ordered
    from visloom.tasks.fusion3d.module import FusionModule

Colour = tuple[int, int, int]
COLUMNS_OF_TABLE = (
    "class", "score", "x", "y", "z", "length", "width", "height", "heading", "vx", "vy", "attribute",
)  # fmt: skip
"""What a line of predictions.csv says of a box: metres and m/s in the world, heading in radians about its z."""


@dataclass(frozen=True, kw_only=True)
class Fusion3d:
    """3D detection from one camera and radar at a time (CenterFusion), or from the camera alone (CenterNet).

    net: the trunk.  hidden: channels inside a head.
    classes, attributes: names.  groups: class -> beginning of the names of the attributes that it can have.
    radar: use it; off, all heads are primary.  velocity: predict it.
    max_depth: metres beyond which radar is left out.  depth_scale, speed: what depth and velocities of radar features
    are divided by; None is max_depth. A smaller scale is a louder radar beside the picture's features.
    pillar: height, width and length of a radar pillar, metres.  middle: share of a box that gets its radar features.
    expand: by how much the window of depths in which radar belongs to a box is wider than the box.  slack: and by which
    share of its depth; a box whose depth the camera guesses wrong by more than the window finds no radar.
    overlap: a box moved to the edge of its Gaussian still overlaps itself by this much; less makes wider Gaussians.
    spread: cells around the middle of a box that learn its values too; 0 is the original, 1 learns faster.
    detections: boxes per picture.  merge: where two cameras see one thing, keep the surer box.
    weights: factors of losses by head.  slots: annotated boxes (cells, with `spread`) per picture at
    most.  prior: of the heat maps' bias.
    flip_test: average with the mirrored picture in evaluation and prediction.
    rules: how an evaluation judges.  shown: least score of a drawn box.
    compat: the original's defects, one by one.
    """

    net: TrunkSpec = field(default_factory=DlaNet)
    hidden: int = 256
    classes: tuple[str, ...] = CLASSES
    attributes: tuple[str, ...] = ATTRIBUTES
    groups: Mapping[str, str] = field(default_factory=lambda: dict(GROUPS))
    radar: bool = True
    velocity: bool = True
    max_depth: float = 60.0
    depth_scale: float | None = None
    speed: float = 1.0
    pillar: tuple[float, float, float] = (1.5, 0.2, 0.2)
    expand: float = 0.0
    slack: float = 0.0
    middle: float = 0.3
    detections: int = 100
    merge: bool = True
    weights: Mapping[str, float] = field(default_factory=lambda: {"size": 0.1})
    slots: int = 128
    overlap: float = 0.7
    spread: int = 0
    prior: float = -4.6
    normalise: Normalise | Literal["net"] = "net"
    flip_test: bool = False
    rules: Rules = field(default_factory=Rules)
    shown: float = 0.3
    colours: tuple[Colour, ...] = ()
    compat: Compat = field(default_factory=Compat)

    stride = 4

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be different names, got {self.classes}")
        if self.colours and len(self.colours) != len(self.classes):
            raise ValueError(f"{len(self.colours)} colours for {len(self.classes)} classes")
        if self.hidden < 1 or self.detections < 1 or self.slots < 1:
            raise ValueError("hidden, detections and slots are at least 1")
        if (
            self.max_depth <= 0
            or self.speed <= 0
            or (self.depth_scale or 1.0) <= 0
            or not 0 < self.middle <= 1
        ):
            raise ValueError("max_depth, depth_scale and speed are positive, middle lies in (0, 1]")
        if self.spread < 0 or not 0 < self.overlap < 1:
            raise ValueError("spread is not negative, overlap lies between 0 and 1")
        if self.expand < 0 or self.slack < 0:
            raise ValueError("expand and slack are not negative")
        known = {name for head in self.outputs() for name in head}
        unknown = sorted(set(self.weights) - known - {f"{name}/secondary" for name in known})
        if unknown:
            raise ValueError(
                f"weights for {', '.join(unknown)}, but the heads are {', '.join(sorted(known))}"
            )

    # ---- shapes

    def outputs(self) -> tuple[dict[str, int], dict[str, int]]:
        """Channels of the primary and of the secondary heads."""
        first = {
            "heat": len(self.classes),
            "offset": 2,
            "size": 2,
            "depth": 1,
            "rotation": 8,
            "dims": 3,
            "center": 2,
        }
        more = {"attribute": len(self.attributes)} if self.attributes else {}
        if self.velocity:
            more["velocity"] = 3
        if not self.radar:
            return {**first, **more}, {}
        return first, {"depth": 1, "rotation": 8, **more}

    def allowed(self) -> list[list[bool]]:
        """Which attributes each class can have: C rows of A."""
        return [
            [
                bool(start := self.groups.get(name, "")) and attribute.startswith(start)
                for attribute in self.attributes
            ]
            for name in self.classes
        ]

    @property
    def radar_scale(self) -> tuple[float, float, float]:
        """What depth and velocities of radar features are divided by."""
        return self.depth_scale or self.max_depth, self.speed, self.speed

    @property
    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class."""
        return self.colours or palette(len(self.classes))

    def normalisation(self) -> Normalise:
        """Return the normalisation in force."""
        return self.normalise if isinstance(self.normalise, Normalise) else self.net.normalisation()

    # ---- what the engine asks

    def build(self) -> FusionModule:
        """Make the module, its weights drawn from torch's generator. Raises ConfigError if it cannot be built."""
        from visloom.tasks.fusion3d.module import FusionModule

        if not self.classes:
            raise ConfigError("the task has no classes yet: set task.classes", path="task.classes")
        return FusionModule(self.net.trunk(), self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> FusionBatch:
        """Stack pictures, paint radar, make targets and associate them.

        Raises:
            DataError: names the sample that does not fit.
        """
        from visloom.tasks.fusion3d.collate import collate

        check_samples(samples)
        self._check_attributes(samples[0])
        return collate(self, samples, truth=key is None)

    def _check_attributes(self, sample: Sample) -> None:
        """Raise DataError where annotated data number their attributes otherwise; to be predicted, they may."""
        theirs = sample.extra.get("attributes") if sample.extra.get("truth") is not None else None
        if self.attributes and theirs is not None and tuple(theirs) != self.attributes:
            raise DataError(
                f"sample {sample.id!r}: the data have the attributes {list(theirs)}, task.attributes "
                f"{list(self.attributes)}: set task.attributes to those of the data, or to [] to do without"
            )

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics: NDS, mAP and the five errors."""
        from visloom.tasks.fusion3d.metric import Nds

        return {"nds": Nds(self)}

    def goodness(self, predictions: Any, batch: FusionBatch) -> Tensor:
        """How well the best boxes of a picture lie: the mean, over its annotated boxes, of exp(-distance / 2
        m): (B,).
        """
        from visloom.tasks.fusion3d.metric import goodness

        return goodness(predictions, batch)

    steady = True  # evaluations draw moments at fixed places

    def companions(self, stream: Ordered, position: int) -> Sequence[int]:
        """Positions of an evaluation that show one moment, in order: all of its cameras."""
        from visloom.tasks.fusion3d.answering import moment_at

        return moment_at(stream, position)

    def draw_together(self, samples: Sequence[Sample], predictions: Sequence[Mapping[str, Any]]) -> Image:
        """Draw a moment: all its cameras, and the ground from above with radar, the truth and what was found."""
        from visloom.tasks.fusion3d.answering import drawn_moment

        return drawn_moment(self, samples, predictions)

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw 3D boxes into the picture, beside them the same from above with radar and velocities; see `draw.py`."""
        from visloom.tasks.fusion3d.draw import draw

        return draw(self, np.asarray(image), prediction, truth)

    # ---- what using a trained run asks

    def bare(self) -> Fusion3d:
        """Return this task without pretrained weights: those of a checkpoint follow."""
        if not isinstance(self.net, TimmNet):
            return self
        return replace(self, net=replace(self.net, pretrained=False))

    def with_tta(self, views: str) -> Fusion3d:
        """Return this task with the views of `predict --tta`: none or flip. Raises ConfigError."""
        if views not in ("none", "flip"):
            raise ConfigError(
                f"3D detection averages the views none or flip, got {views!r}", path="task.flip_test"
            )
        return replace(self, flip_test=views == "flip")

    columns = COLUMNS_OF_TABLE
    answers_for = "moments"

    def answers(
        self, saved: Saved, places: Sequence[str | Path], *, part: str | None, out: Path | None
    ) -> tuple[int, Iterator[Answer]]:
        """Predict a data set, all cameras of a moment together; see `answering.py`."""
        from visloom.tasks.fusion3d.answering import answers

        return answers(self, saved, places, part=part, out=out)

    def seen(self, batch: FusionBatch) -> Any:
        """The pictures of a batch as the network sees them, radar depth in colour on top: (B, H, W, 3) uint8."""
        from visloom.tasks.fusion3d.draw import overlaid

        return overlaid(batch, self.max_depth)


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise DataError where a picture or its calibration cannot be used, or sizes differ."""
    first = samples[0].image
    for sample in samples:
        if sample.image is None or first is None or sample.calib is None or "lens" not in sample.extra:
            raise DataError(
                f"sample {sample.id!r} is no scene sample: it has no picture, calibration or radar"
            )
        if sample.image.shape != first.shape or sample.image.shape[2] != 3:
            raise DataError(
                f"a batch needs RGB pictures of one size; {samples[0].id!r} is {first.shape} and "
                f"{sample.id!r} is {sample.image.shape}: put Frame(size=...) among the stream's transforms"
            )
        height, width = first.shape[:2]
        if height % 32 or width % 32:
            raise DataError(
                f"sample {sample.id!r}: height and width must be multiples of 32, got {height}x{width}"
            )
