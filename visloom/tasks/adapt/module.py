"""The torch side of adaptation: one pass of the backbone over both domains, detection losses on the source, and
discriminators or a teacher for the target. In evaluation it is a plain detector.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from visloom.errors import ConfigError
from visloom.nets.detection.boxes import parts as box_parts
from visloom.nets.detection.domain import real_cells
from visloom.nets.detection.rcnn import Seen
from visloom.nets.detection.rpn import Sum, Truth
from visloom.task import Losses
from visloom.tasks.adapt.discriminators import Discriminators
from visloom.tasks.detect.batch import DetectBatch
from visloom.tasks.detect.module import DetectModule, divided

if TYPE_CHECKING:
    from visloom.task import Batch
    from visloom.tasks.adapt.spec import Adapt

_PLACES = ("rpn_box", "boxes", "centres", "masks", "keypoints")


class AdaptModule(DetectModule):
    """A detector `net`, discriminators `domain.*`, and a frozen `teacher` that how.ema writes into."""

    def __init__(self, net: nn.Module, spec: Adapt) -> None:
        super().__init__(net, spec)
        self.spec = spec
        if spec.norms == "target" and not _batch_norms(net):
            raise ConfigError(
                'norms "target" adapts batch norm, and the net has none that learns statistics: set the norm of its '
                'body to "batch" where it has that field, or norms to "joint"',
                path="task.norms",
            )
        self.domain = Discriminators(net, spec.align) if spec.align is not None else None
        self.teacher = copy.deepcopy(net).requires_grad_(False) if spec.teacher is not None else None
        self.sparse = (
            spec.align is not None and spec.teacher is not None
        )  # burn-in leaves discriminators alone

    def train(self, mode: bool = True) -> AdaptModule:
        """Set the mode; a teacher stays in evaluation mode, or its batch norm would move by itself."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    @property
    def judge(self) -> nn.Module:
        """The detector that answers, without discriminators: the teacher where there is one."""
        return self.net if self.teacher is None else self.teacher

    def forward(self, batch: Batch) -> Losses:
        """Losses: those of `Detect` on the source; "domain_image", "domain_instance" and "consistency" of an
        alignment; "target_*" of a teacher. Logs: weight of the reversed gradient, accuracies of the discriminators by
        domain, regions by domain, pseudo boxes per target picture.
        """
        batch = cast(DetectBatch, batch)
        if not any(batch.target):
            return super().forward(batch)
        logs: dict[str, Tensor] = {}
        image = self.images(batch.image, batch.sizes)
        if self.teacher is not None:
            terms, logs, features, seen = self._taught(batch, image)
        elif self.domain is not None:
            features = self._features(image, batch)
            seen = self._losses(features, batch, range(len(batch)), self.truths(batch))
            terms = divided(seen.losses)
        else:
            return Losses(divided(self._source_alone(batch, image).losses), logs, self.count(batch))
        if self.domain is not None and seen.embedded is not None:
            assert seen.chosen is not None and seen.guesses is not None
            real = self._real(features, batch)
            found, told = self.domain(
                features, seen.chosen, seen.embedded, batch, real, training=self.training
            )
            terms |= found
            logs |= told
        return Losses(terms, logs, self.count(batch))

    def _features(self, image: Tensor, batch: DetectBatch, *, learns: bool = True) -> list[Tensor]:
        """Maps of all pictures, batch norm over both domains together or over each alone.

        Apart, the target goes last: its statistics alone are kept for the answers.
        learns: whether the target's maps reach a loss.
        """
        if self.spec.norms == "joint" or not self.training:
            return self.net.features(image)  # type: ignore[operator, no-any-return]
        source, target = _rows(batch)
        with _statistics_kept(self.net):
            first = self.net.features(image[source])  # type: ignore[operator]
        with torch.set_grad_enabled(learns):
            second = self.net.features(image[target])  # type: ignore[operator]
        place = torch.tensor([*source, *target], device=image.device).argsort()
        return [torch.cat(maps)[place] for maps in zip(first, second, strict=True)]

    def _source_alone(self, batch: DetectBatch, image: Tensor) -> Seen:
        """Losses on the source; the target is looked at where batch norm is to know it."""
        source, _ = _rows(batch)
        if self.spec.norms == "joint":
            features = self.net.features(image[source])  # type: ignore[operator]
        else:
            features = [f[source] for f in self._features(image, batch, learns=False)]
        return self._losses(features, batch, source, self.truths(batch))

    # ---- the teacher

    def _taught(
        self, batch: DetectBatch, image: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor], Seen]:
        """Losses on the source, and behind burn-in on what the teacher finds in the target.

        Behind burn-in both domains pass the network together; in burn-in the source alone does.
        """
        teacher = self.spec.teacher
        assert teacher is not None and self.teacher is not None
        done = 1.0 if batch.progress is None else batch.progress.done
        if done < teacher.burn_in:
            losses = self._source_alone(batch, image).losses
            return divided(losses), {"pseudo": image.new_zeros(())}, [], Seen(losses)
        source, target = _rows(batch)
        pseudo = self._pseudo(batch, target)
        features = self._features(image, batch)
        first = self._losses([f[source] for f in features], batch, source, self.truths(batch))
        guessed: list[Truth | None] = [None] * len(batch)
        for row, truth in zip(target, pseudo, strict=True):
            guessed[row] = truth
        second = self._losses([f[target] for f in features], batch, target, guessed)
        taught = {
            f"target_{name}": value * teacher.weight
            for name, value in divided(second.losses).items()
            if teacher.regression or name not in _PLACES
        }
        boxes = sum(len(truth.boxes) for truth in pseudo) / len(pseudo)
        logs = {"pseudo": image.new_tensor(float(boxes))}
        return divided(first.losses) | taught, logs, features, _joined(first, second, source, target)

    def _losses(
        self,
        features: Sequence[Tensor],
        batch: DetectBatch,
        rows: Sequence[int],
        truths: Sequence[Truth | None],
    ) -> Seen:
        """Losses of some rows of a batch."""
        found: Seen = self.net.losses(  # type: ignore[operator]
            features,
            batch.size,
            [batch.sizes[row] for row in rows],
            [truths[row] for row in rows],
            [batch.keys[row] for row in rows],
        )
        return found

    @torch.no_grad()
    def _pseudo(self, batch: DetectBatch, rows: list[int]) -> list[Truth]:
        """What the teacher is sure of in the weak views of some rows."""
        assert self.teacher is not None and self.spec.teacher is not None and batch.weak is not None
        sizes = [batch.sizes[row] for row in rows]
        image = self.images(batch.weak[rows], sizes)
        found = self.teacher.detect(self.teacher.features(image), batch.size, sizes)  # type: ignore[operator]
        truths = []
        for each in found:
            sure = each.scores >= self.spec.teacher.threshold
            sound = (each.boxes[:, 2:] - each.boxes[:, :2] + self.plus > 0).all(1)
            doubted = sound & ~sure & (each.scores >= self.spec.teacher.doubt)
            truths.append(
                Truth(each.boxes[sure & sound], each.labels[sure & sound], unsure=each.boxes[doubted])
            )
        return truths

    def _real(self, features: Sequence[Tensor], batch: DetectBatch) -> list[Tensor]:
        """Cells that count for the image discriminator; with `compat` padding counts, as it did."""
        if self.spec.compat:
            return [torch.ones_like(f[:, :1], dtype=torch.float32) for f in features]
        return real_cells(features, batch.sizes, batch.size)


def _rows(batch: DetectBatch) -> tuple[list[int], list[int]]:
    """Rows of the source, and of the target."""
    rows: tuple[list[int], list[int]] = ([], [])
    for row, target in enumerate(batch.target):
        rows[target].append(row)
    return rows


def _batch_norms(net: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def _statistics_kept(net: nn.Module) -> Iterator[None]:
    """Batch norm learns no running statistics inside."""
    norms = _batch_norms(net)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _joined(first: Seen, second: Seen, source: list[int], target: list[int]) -> Seen:
    """Two parts of a batch as one, picture by picture in the batch's order."""
    if first.chosen is None or second.chosen is None:
        return Seen({**first.losses})
    assert first.embedded is not None and second.embedded is not None
    from visloom.nets.detection.roi import Chosen

    parts: list[Any] = [None] * (len(source) + len(target))
    for seen, rows in ((first, source), (second, target)):
        assert seen.chosen is not None and seen.embedded is not None
        pieces = box_parts(seen.embedded, [len(b) for b in seen.chosen.boxes])
        for place, row in enumerate(rows):
            chosen = seen.chosen
            parts[row] = (
                chosen.boxes[place],
                chosen.labels[place],
                chosen.rows[place],
                chosen.known[place],
                pieces[place],
            )
    boxes, labels, matched, known, embedded = zip(*parts, strict=True)
    losses: dict[str, Sum] = {}
    return Seen(losses, first.guesses, Chosen(boxes, labels, matched, known), torch.cat(embedded))
