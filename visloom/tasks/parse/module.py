"""The torch side of parsing: one pass of the encoder, the heads that a batch has labels for, their losses and answers.

In an evaluation each picture is looked at by itself at the sizes the task names, and answers come at its own size.
Multi-scale answers average probabilities, as the original does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from visloom.errors import ContractError
from visloom.memory import like_weights, standardised
from visloom.module import TaskModule
from visloom.task import Losses
from visloom.tasks.parse.batch import ParseBatch
from visloom.tasks.parse.heads import Parts, Pixels
from visloom.tasks.parse.losses import Slots, Tally, blocks_of, fitted, tally, tally_pixels

if TYPE_CHECKING:
    from visloom.nets.upernet import UPerNet
    from visloom.task import Batch
    from visloom.tasks.parse.spec import Parse


class ParseModule(TaskModule):
    """A UPerNet with its normalisation: `net.encoder.*` and `net.decoder.*`."""

    sparse = True
    scale: Tensor
    shift: Tensor

    def __init__(self, net: UPerNet, spec: Parse) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.heads = {head.name: head for head in spec.heads}
        self.blocks = blocks_of(spec.heads)
        self.slots = Slots(spec.heads)
        values = spec.normalisation()
        self.turned = values.order == "bgr" and spec.channels == 3
        std = torch.tensor(values.std, dtype=torch.float64)
        mean = torch.tensor(values.mean, dtype=torch.float64)
        # (pixel - mean) / std as one multiplication and addition
        self.register_buffer("scale", (1 / std).float(), persistent=False)  # (C,)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)  # (C,)

    def forward(self, batch: Batch) -> Losses:
        """Losses of the heads that `batch.heads` names, weighted; logs: the accuracy of each, NAME_accuracy."""
        batch = cast(ParseBatch, batch)
        if not batch.heads:
            raise ContractError(
                "the samples label no head of the task, so there is no loss", path="task.heads"
            )
        if not self.training:
            return self._assessed(batch, answers=False)[0]
        outputs = self._outputs(self._padded(batch), batch.heads)
        losses: Losses = self._compared(outputs, batch)
        return losses

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Columns: ids; of heads of pixels and parts a mask (h, w) int16 each, -1 where no object has parts; of heads
        of the whole picture the class (B,) and NAME_score, its probability."""
        batch = cast(ParseBatch, batch)
        return self._assessed(batch, answers=True, losses=False)[1]

    def assess(self, batch: Batch) -> tuple[Losses, dict[str, Any]]:
        """Losses and predictions of one pass, of the heads that are labelled here and those their answers need."""
        batch = cast(ParseBatch, batch)
        if not batch.heads:
            raise ContractError(
                "the samples label no head of the task, so there is no loss", path="task.heads"
            )
        return self._assessed(batch, answers=True)

    def exportable(self) -> AllHeads:
        """The network as one module of an image: logits of every head, in the order of the task's."""
        return AllHeads(self.net, tuple(self.heads))

    # ---- what there is to see

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # sizes differ from batch to batch, graphs need not
    def _padded(self, batch: ParseBatch) -> Tensor:
        """The pictures of a training batch; padding is the mean colour, as in the original."""
        image = self.images(batch.image)
        for row, (height, width) in enumerate(batch.sizes):
            image[row, :, height:] = 0
            image[row, :, :, width:] = 0
        return image

    def images(self, image: Tensor) -> Tensor:
        """Normalise: (B, H, W, C) integers -> (B, C, H, W) float32 in the network's memory format."""
        turned = image.flip(-1) if self.turned else image
        return like_weights(standardised(turned, self.scale, self.shift), self.net)

    def _working(self, image: Tensor, heads: Sequence[str], factor: float = 1.0) -> Tensor:
        """Pictures at the size that the task looks at."""
        size = self.spec.working(image.shape[2], image.shape[3], factor, heads)
        if size == tuple(image.shape[2:]):
            return image
        smooth = self.spec.antialias and size[0] < image.shape[2]
        return functional.interpolate(image, size, mode="bilinear", antialias=smooth)

    def _outputs(self, image: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Logits of heads, in at least float32."""
        found = self.net(image, names)
        return {name: each.to(torch.promote_types(each.dtype, torch.float32)) for name, each in found.items()}

    # ---- losses

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # which objects occur differs from batch to batch
    def _compared(self, outputs: dict[str, Tensor], batch: ParseBatch) -> Losses:
        return self._losses(self._tallies(outputs, batch), batch, outputs)

    def _tallies(self, outputs: dict[str, Tensor], batch: ParseBatch) -> dict[str, Tally]:
        return {
            name: tally(self.heads[name], outputs[name], batch, self.blocks.get(name, ()))
            for name in batch.heads
        }

    def _losses(self, tallies: dict[str, Tally], batch: ParseBatch, outputs: dict[str, Tensor]) -> Losses:
        terms = self.slots.losses(tallies, batch.image.new_zeros(1, dtype=torch.float32))
        deep = self.net.decoder.deep
        if "deep" in outputs:
            coarse = tally_pixels(outputs["deep"], fitted(batch.masks[deep], outputs["deep"]))
            share = coarse.sums / coarse.counts.clamp(min=1)
            terms["deep"] = self.spec.deep_weight * self.heads[deep].weight * share.sum()
        logs = {f"{name}_accuracy": each.right / each.seen.clamp_min(1) for name, each in tallies.items()}
        return Losses(terms, logs, torch.tensor(float(len(batch)), device=batch.image.device))

    # ---- evaluation

    def _assessed(
        self, batch: ParseBatch, *, answers: bool, losses: bool = True
    ) -> tuple[Losses, dict[str, Any]]:
        """Look at each picture by itself; the losses are those of the picture without other views."""
        names = self._wanted(batch.heads) if losses else tuple(self.heads)
        total: dict[str, Tally] = {}
        columns: list[dict[str, Tensor]] = []
        for row, (height, width) in enumerate(batch.sizes):
            image = self.images(batch.image[row : row + 1, :height, :width])
            plain = self._outputs(self._working(image, names), names)
            if losses:
                for name, new in self._tallies(plain, _one(batch, row)).items():
                    total[name] = total[name].plus(new) if name in total else new
            if answers:
                seen = self._averaged(image, names) if self.spec.viewed else plain
                columns.append(self._answers(seen, (height, width), names))
        found = self._losses(total, batch, {}) if losses else Losses({}, {}, torch.zeros(()))
        return found, self._columns(batch, columns)

    def _wanted(self, heads: Sequence[str]) -> tuple[str, ...]:
        """Heads to compute for the answers of some: parts need their objects."""
        chosen = {*heads, *(h.of for h in self.spec.heads if isinstance(h, Parts) and h.name in heads)}
        return tuple(name for name in self.heads if name in chosen)

    def _averaged(self, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Logarithms of probabilities at the picture's size, averaged over the views of the task."""
        sums: dict[str, Tensor] = {}
        for factor in self.spec.scales:
            small = self._working(image, names, factor)
            for flipped in (False, True) if self.spec.flip else (False,):
                outputs = self._outputs(small.flip(3) if flipped else small, names)
                for name, logits in outputs.items():
                    turned = logits.flip(3) if flipped and logits.ndim == 4 else logits
                    full = _full(turned, image.shape[2:])
                    chances = self._chances(name, full)
                    sums[name] = sums[name] + chances if name in sums else chances
        views = len(self.spec.scales) * (1 + self.spec.flip)
        return {name: (total / views).clamp_min(1e-12).log() for name, total in sums.items()}

    def _chances(self, name: str, logits: Tensor) -> Tensor:
        """Probabilities of a head; of parts those among the outputs of each object."""
        head = self.heads[name]
        if not isinstance(head, Parts):
            return logits.softmax(1)
        return torch.cat([part.softmax(1) for part in torch.split(logits, list(head.sizes), 1)], 1)

    def _answers(
        self, outputs: dict[str, Tensor], size: tuple[int, int], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """The answers of one picture, by head, masks at its own size."""
        found: dict[str, Tensor] = {}
        for name in names:
            head, logits = self.heads[name], outputs[name]
            if isinstance(head, Pixels):
                full = _full(logits, size)[0, head.first :]
                found[name] = (full.max(0).indices + head.first).to(torch.int16)  # (h, w)
            elif not isinstance(head, Parts):
                chances = logits.softmax(1)
                chances = chances.mean((2, 3)) if chances.ndim == 4 else chances
                found[f"{name}_score"], found[name] = chances[0].max(0)
        for name in names:
            head = self.heads[name]
            if isinstance(head, Parts):
                found[name] = self._parts(name, outputs[name], found[head.of], size)
        return found

    def _parts(self, name: str, logits: Tensor, objects: Tensor, size: tuple[int, int]) -> Tensor:
        """The output of each pixel whose object has parts, among those of that object: (h, w) int16, -1 elsewhere."""
        answer = torch.full(size, -1, dtype=torch.int16, device=logits.device)
        present = set(torch.unique(objects).tolist())  # a picture has a few of the many objects
        for start, stop, label, _ in self.blocks[name]:
            if label in present:
                best = _full(logits[:, start:stop], size)[0].max(0).indices + start
                answer = torch.where(objects == label, best.to(torch.int16), answer)
        return answer

    def _columns(self, batch: ParseBatch, rows: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        for name, values in columns.items():
            if values[0].ndim == 0:
                columns[name] = torch.stack(values)  # (B,)
        return {"ids": batch.ids, **columns}


class AllHeads(nn.Module):
    """A network whose heads are all computed: (B, C, H, W) -> their logits, one after the other. outputs: names."""

    def __init__(self, net: UPerNet, names: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.outputs = net, names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.net(image, self.outputs)
        return tuple(found[name] for name in self.outputs)


def _full(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits at the size of the picture; those of the whole picture as they are."""
    if logits.ndim == 2 or tuple(logits.shape[2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, tuple(size), mode="bilinear")


def _one(batch: ParseBatch, row: int) -> ParseBatch:
    """One picture of an evaluation batch, its masks without padding."""
    height, width = batch.sizes[row]
    return ParseBatch(
        ids=(batch.ids[row],),
        image=batch.image[row : row + 1],
        sizes=(batch.sizes[row],),
        heads=batch.heads,
        masks={name: mask[row : row + 1, :height, :width] for name, mask in batch.masks.items()},
        labels={name: label[row : row + 1] for name, label in batch.labels.items()},
        blocks=batch.blocks,
    )
