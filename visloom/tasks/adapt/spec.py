"""Adapt: a detector that learns a second domain from pictures alone. It imports no torch until it is used.

The stream is a Pair whose target half begins with the transform `Target`: its pictures carry no label from there on.
The domain of a picture is that flag, never something that is inferred from its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from visloom.errors import DataError
from visloom.sample import Sample
from visloom.tasks.detect.batch import DetectBatch
from visloom.tasks.detect.nets import FasterRCNN
from visloom.tasks.detect.spec import Detect

if TYPE_CHECKING:
    from visloom.tasks.adapt.module import AdaptModule


@dataclass(frozen=True, kw_only=True)
class Align:
    """Adversarial alignment: discriminators learn to tell the domains apart, features learn to prevent it.

    image, instance: weights of the gradient that is reversed into the features; the discriminators themselves learn
        at the full rate, so these are the lambda of the paper. With 0 a discriminator learns and the features never
        hear of it: the control of an experiment.
    image_loss, instance_loss, consistency: factors of the losses; 0 leaves the loss out, and its discriminator.
    consistency_gradient: factor on `image` and `instance` where the consistency loss reaches the features (its
        gradient is not reversed).
    heads: one discriminator for all levels of a pyramid, or one per level.
    ramp: the reversed gradient has its weight from the start ("constant"), or grows as 2 / (1 + exp(-10 p)) - 1 over
        the share p of the training ("warm").
    dropout: inside the instance discriminator.
    hidden: channels inside the image discriminator and units inside the instance discriminator; on a light network
        those of the paper cost more than the detector.
    """

    image: float = 0.1
    instance: float = 0.1
    image_loss: float = 1.0
    instance_loss: float = 1.0
    consistency: float = 0.1
    consistency_gradient: float = 1.0
    heads: Literal["shared", "levels"] = "shared"
    ramp: Literal["constant", "warm"] = "constant"
    dropout: float = 0.5
    hidden: tuple[int, int] = (512, 1024)

    def __post_init__(self) -> None:
        for name in ("image", "instance", "image_loss", "instance_loss", "consistency"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} must not be negative, got {getattr(self, name)}: the gradient is reversed already"
                )
        if min(self.hidden) < 1:
            raise ValueError(f"hidden names two numbers from 1, got {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout lies between 0 and 1, got {self.dropout}")
        if not self.uses_image and not self.uses_instance:
            raise ValueError(
                "an alignment needs an image or an instance discriminator; leave it out with none"
            )

    @property
    def uses_image(self) -> bool:
        """Whether there is an image discriminator."""
        return self.image_loss > 0

    @property
    def uses_instance(self) -> bool:
        """Whether there is an instance discriminator."""
        return self.instance_loss > 0

    @property
    def uses_consistency(self) -> bool:
        """Whether the two discriminators are held to agree."""
        return self.consistency > 0 and self.uses_image and self.uses_instance


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Self-training: a moving average of the network labels the target, and the network learns from that.

    Set how.ema.into to "net -> teacher". Both halves of the stream end with `Strong`: the teacher looks at the weak
    view, the network at the strong one. Sources: Mean Teacher (Tarvainen and Valpola, 2017), Unbiased Teacher (Liu et
    al., 2021), Adaptive Teacher (Li et al., 2022).

    threshold: least score of a pseudo box.  weight: of the target's losses.
    doubt: what the teacher finds from this score up to the threshold is neither taught nor called background. Where
        all that is not sure is background (doubt = threshold, as published), a teacher that is sure of little teaches
        the network to find nothing, and then finds less.
    burn_in: share of the training that is done on the source alone, 0 to 1.
    regression: pseudo boxes also teach places, not classes alone.
    """

    threshold: float = 0.8
    doubt: float = 0.1
    weight: float = 1.0
    burn_in: float = 0.25
    regression: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or not 0 <= self.burn_in < 1 or self.weight < 0:
            raise ValueError(f"0 < threshold <= 1, 0 <= burn_in < 1 and 0 <= weight, got {self}")
        if self.doubt < 0:
            raise ValueError(f"doubt is a score from 0 up, got {self.doubt}")


DAFRCNN_2018 = Align()
"""DA Faster R-CNN (Chen et al., 2018) with the weights of its maskrcnn-benchmark version: 0.1, 0.1 and 0.1."""

SADA = Align(heads="levels", consistency=1.0, consistency_gradient=0.1)
"""Scale-Aware Domain Adaptive Faster R-CNN (Chen et al., 2021): a discriminator for each level of a pyramid."""

TEACHER = Teacher()
"""A teacher with the threshold of Adaptive Teacher."""


@dataclass(frozen=True, kw_only=True)
class Adapt(Detect):
    """Domain-adaptive detection: everything of `Detect`, and how the target is used.

    align: adversarial alignment, or None.  teacher: self-training, or None. Both may be used together.
    norms: batch norm of the backbone sees both domains as one batch ("joint"), or each alone, and answers by the
        statistics of the target ("target"; AdaBN, Li et al., 2016). The latter alone is an adaptation too: what is
        learnt is then the same as without the target. Frozen norms and group norm know no domains.
    """

    align: Align | None = DAFRCNN_2018
    teacher: Teacher | None = None
    norms: Literal["joint", "target"] = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align is not None and not isinstance(self.net, FasterRCNN):
            raise ValueError(
                f"alignment needs the regions of a two-stage detector, FasterRCNN; with "
                f"{type(self.net).__name__} use a teacher and set align to none"
            )
        if self.align is None and self.teacher is None and self.norms == "joint":
            raise ValueError(
                "adaptation needs align or teacher, or norms of the target; without all, use the task Detect"
            )

    def build(self) -> AdaptModule:
        """Make the module, its weights drawn from torch's generator. Raises ConfigError if it cannot be built."""
        from visloom.tasks.adapt.module import AdaptModule

        return AdaptModule(self.build_net(), self)

    def collate(self, samples: Sequence[Sample], key: int | None) -> DetectBatch:
        """Join pictures of both domains; the target's have nothing but pixels.

        Raises:
            DataError: names a sample that cannot be used; or a training batch lacks one of the domains.
        """
        batch = super().collate(samples, key)
        if key is not None:
            targets = sum(batch.target)
            if not targets or targets == len(batch):
                raise DataError(
                    f"a training batch ({batch.ids[0]!r}, ...) has {len(batch) - targets} pictures of the source and "
                    f"{targets} of the target, and needs both: train is a Pair, and the transforms of its target "
                    "begin with Target()"
                )
            if self.teacher is not None and batch.weak is None:
                raise DataError(
                    f"sample {batch.ids[0]!r} has no weak view for the teacher: end the transforms of both halves of "
                    "train with Strong(transforms=...)"
                )
        return batch
