"""Parse: the data's side of unified perceptual parsing, a value in the Run. It imports no torch until it is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from visloom.errors import ConfigError, DataError
from visloom.keys import fold, uniforms
from visloom.metrics import Metric
from visloom.palette import Colour, palette
from visloom.sample import Sample
from visloom.tasks.classify.nets import Normalise
from visloom.tasks.parse.batch import ParseBatch
from visloom.tasks.parse.heads import Head, Parts, Pixels, Texture, check_heads
from visloom.tasks.parse.metrics import PartHead, PictureHead, PixelHead
from visloom.tasks.parse.nets import Uper
from visloom.tasks.segment import views
from visloom.warp import IGNORE, scale, warp_image, warp_mask

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from visloom.tasks.parse.module import ParseModule

SIDES = (300, 375, 450, 525, 600)
"""Shorter sides, in pixels, that the original draws for each training batch."""


@dataclass(frozen=True, kw_only=True)
class Parse:
    """Unified perceptual parsing.

    net: the network.  heads: what it answers; see `heads.py`.
    sides: shorter sides in pixels, one drawn for each training batch, the same on every process; () keeps sizes.
    short: shorter side in evaluation and prediction, rounded up to a multiple of `stride`; 0 keeps sizes. Answers come
        at the picture's own size.
    longest: no side is longer than this.  stride: training batches are padded to a multiple of it.
    rate: training labels are at 1 / rate of the sides, as the finest map is.
    antialias: pictures that evaluation and prediction shrink are smoothed first, as training pictures are; the original
        does not smooth them, and its weights are converted with False.
    scales, flip: views that evaluation and prediction average: factors of `short`, and mirrored.
    deep_weight: share of a head's loss that the third map gets where `net.deep` names the head.
    channels: of the images.  normalise: "net" is what the network's weights expect.
    """

    pads: ClassVar[bool] = True

    net: Uper = Uper()
    heads: tuple[Head, ...]
    sides: tuple[int, ...] = SIDES
    short: int = 450
    longest: int = 1000
    stride: int = 32
    rate: int = 4
    antialias: bool = True
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    deep_weight: float = 0.4
    channels: int = 3
    normalise: Normalise | Literal["net"] = "net"

    def __post_init__(self) -> None:
        check_heads(self.heads)
        if min((self.stride, self.rate, self.longest, *self.sides)) < 1 or self.short < 0:
            raise ValueError("sides, longest, stride and rate are positive, short is not negative")
        if self.stride % self.rate:
            raise ValueError(f"stride is a multiple of rate, got {self.stride} and {self.rate}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive factors, got {self.scales}")
        if isinstance(self.normalise, Normalise) and len(self.normalise.mean) != self.channels:
            raise ValueError(
                f"normalise has {len(self.normalise.mean)} numbers and the images {self.channels} channels"
            )

    @property
    def main(self) -> Head:
        """The first head of pixels, or the first head."""
        return next((head for head in self.heads if isinstance(head, Pixels)), self.heads[0])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of the main head; the others are in `heads`."""
        return self.main.labels

    @property
    def palette(self) -> tuple[Colour, ...]:
        """One RGB colour (0-255) per class of the main head."""
        return self.main.palette if isinstance(self.main, Pixels) else palette(len(self.classes))

    @property
    def viewed(self) -> bool:
        """Whether predictions average more than the picture itself."""
        return self.flip or self.scales != (1.0,)

    def build(self) -> ParseModule:
        """Make the module, its weights drawn from torch's generator. Raises ConfigError if it cannot be built."""
        from visloom.tasks.parse.module import ParseModule

        return ParseModule(self.net.build(self.heads, self.channels), self)

    def normalisation(self) -> Normalise:
        """Return the normalisation in force."""
        if isinstance(self.normalise, Normalise):
            return self.normalise
        return self.net.normalisation().channels(self.channels)

    def header(self) -> dict[str, str]:
        """What a run says at its start, besides what it says of every task."""
        return {"heads": ", ".join(f"{head.name} ({len(head.labels)})" for head in self.heads)}

    def working(
        self, height: int, width: int, factor: float = 1.0, heads: Sequence[str] = ()
    ) -> tuple[int, int]:
        """The size at which evaluation looks at a picture: rounded up to the stride, so slightly out of shape.

        heads: where these are textures alone, their own size is looked at.
        """
        short = self._texture_side(heads) or self.short
        if not short and factor == 1.0:
            return height, width
        share = factor * (short / min(height, width) if short else 1.0)
        share = min(share, self.longest / max(height, width)) if short else share
        return _up(int(height * share), self.stride), _up(int(width * share), self.stride)

    def _texture_side(self, heads: Sequence[str]) -> int:
        own = [head for head in self.heads if head.name in heads]
        textures = [head.short for head in own if isinstance(head, Texture)]
        return textures[0] if textures and len(textures) == len(own) else 0

    def check_source(self, source: Any) -> None:
        """Compare the heads with what a source says it labels (`labelled()`: names of labels by task).

        Raises:
            ConfigError: it labels a task that has no head, or names the labels of one differently.
        """
        known, labelled = self._by_name, getattr(source, "labelled", None)
        for name, theirs in labelled().items() if labelled is not None else ():
            if name not in known:
                raise ConfigError(
                    f"{source!r} labels {name!r}, and the task has no such head, only {', '.join(known)}: add one to "
                    f"task.heads, or take that task from the source",
                    path="task.heads",
                )
            ours = known[name].labels
            if ours != theirs:
                at = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), None)
                what = (
                    f"{len(ours)} and {len(theirs)} labels"
                    if at is None
                    else f"label {at} {ours[at]!r} and {theirs[at]!r}"
                )
                raise ConfigError(
                    f"the head {name!r} and {source!r} do not agree: {what}; labels would be mixed up",
                    path="task.heads",
                )

    # ---- batches

    def collate(self, samples: Sequence[Sample], key: int | None) -> ParseBatch:
        """Join pictures and whatever is labelled.

        In training (with a key) pictures get one shorter side, labels are brought to 1 / rate of it in one step, and
        both are padded at the bottom and right: pictures with 0, labels with ignore. The padded size is that of the
        largest picture of the batch, of all processes together where the loader tells it (`batch_sizes`).

        Raises:
            DataError: names the sample whose image, mask or label does not fit, or the task that has no head.
        """
        import torch

        heads = self._declared(samples)
        stored = tuple(self._checked(sample, heads) for sample in samples)
        if key is None:
            sizes, multiple, rate = stored, 1, 1
        else:
            sizes = tuple(self._drawn(size, heads, key) for size in stored)
            multiple, rate = self.stride, self.rate
        everyone = (*sizes, *self._elsewhere(samples, heads, key))
        room = tuple(_up(max(size[axis] for size in everyone), multiple) for axis in (0, 1))
        moves = [scale(new[1] / old[1], new[0] / old[0]) for old, new in zip(stored, sizes, strict=True)]
        image = np.zeros((len(samples), *room, self.channels), np.uint8)
        for row, (sample, move, (height, width)) in enumerate(zip(samples, moves, sizes, strict=True)):
            assert sample.image is not None  # _checked saw to it
            image[row, :height, :width] = warp_image(sample.image, move, (height, width), "constant", 0)
        coarse, grid = scale(1 / rate, 1 / rate), (room[0] // rate, room[1] // rate)
        masks = {
            name: np.stack(
                [self._mask(s, name, coarse @ m, grid) for s, m in zip(samples, moves, strict=True)]
            )
            for name in heads
            if self._by_name[name].kind in ("pixels", "parts")
        }  # (B, H / rate, W / rate)
        blocks = {
            name: self._blocks(name, masks[name], drop=key is not None)
            for name in masks
            if name in self._parts
        }
        return ParseBatch(
            ids=tuple(sample.id for sample in samples),
            source=torch.tensor([sample.source for sample in samples], dtype=torch.int64),
            notes=tuple(note for sample in samples for note in sample.notes),
            image=torch.from_numpy(image),
            sizes=sizes,
            heads=heads,
            masks={name: torch.from_numpy(each.astype(np.int16)) for name, each in masks.items()},
            labels={
                name: torch.tensor([self._label(sample, name) for sample in samples])
                for name in heads
                if name not in masks
            },
            blocks=blocks,
        )

    @property
    def _by_name(self) -> dict[str, Head]:
        return {head.name: head for head in self.heads}

    @property
    def _parts(self) -> dict[str, Parts]:
        return {head.name: head for head in self.heads if isinstance(head, Parts)}

    def _declared(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Heads that the sources of these samples label, in the order of the task's."""
        named: dict[str, str] = {}
        for sample in samples:
            for name in sample.extra.get("tasks", (*sample.masks, *sample.extra.get("labels", {}))):
                named.setdefault(name, sample.id)
        known = self._by_name
        for name, where in named.items():
            if name not in known:
                raise DataError(
                    f"sample {where!r} is labelled for {name!r}, and the task has no such head, only "
                    f"{', '.join(known)}: add one to task.heads, or take that task from the source"
                )
        return tuple(name for name in known if name in named)

    def _checked(self, sample: Sample, heads: Sequence[str]) -> tuple[int, int]:
        image = sample.image
        if image is None or image.ndim != 3 or image.shape[2] != self.channels:
            got = "no image" if image is None else f"an image of shape {image.shape}"
            raise DataError(
                f"sample {sample.id!r} has {got}, expected (H, W, {self.channels}): convert it, or set task.channels"
            )
        if image.dtype != np.uint8:
            raise DataError(f"sample {sample.id!r}: images are 8-bit, got {image.dtype}")
        for name in heads:
            mask = sample.masks.get(name)
            if mask is not None and mask.shape != image.shape[:2]:
                raise DataError(
                    f"sample {sample.id!r}: the mask of {name!r} is {mask.shape[0]}x{mask.shape[1]} and the image "
                    f"{image.shape[0]}x{image.shape[1]}"
                )
        return int(image.shape[0]), int(image.shape[1])

    def _drawn(self, size: tuple[int, int], heads: Sequence[str], key: int) -> tuple[int, int]:
        """The size of a picture in this batch."""
        sides = (self._texture_side(heads),) if self._texture_side(heads) else self.sides
        if not sides:
            return size
        side = sides[int(uniforms(fold(key, "side"), 1)[0] * len(sides))]
        share = min(side / min(size), self.longest / max(size))
        return max(1, int(size[0] * share)), max(1, int(size[1] * share))

    def _elsewhere(
        self, samples: Sequence[Sample], heads: Sequence[str], key: int | None
    ) -> list[tuple[int, int]]:
        """Sizes, in this batch, of the pictures of all processes."""
        stored = samples[0].extra.get("batch_sizes", ()) if key is not None else ()
        return [self._drawn((int(height), int(width)), heads, key or 0) for height, width in stored]

    def _mask(
        self, sample: Sample, name: str, matrix: NDArray[np.float64], size: tuple[int, int]
    ) -> NDArray[np.int32]:
        """One mask moved to a new size; all ignored where this sample has none."""
        mask = sample.masks.get(name)
        if mask is None:
            return np.full(size, IGNORE, np.int32)
        head = self._by_name[name]
        first, count = head.first if isinstance(head, Pixels) else 0, len(head.labels)
        wrong = (mask >= count) | (mask < first) & (mask != IGNORE)
        if wrong.any():
            values, counts = np.unique(mask[wrong], return_counts=True)
            found = ", ".join(f"{v} ({n:,} pixels)" for v, n in zip(values[:6], counts[:6], strict=True))
            raise DataError(
                f"sample {sample.id!r}: labels of {name!r} run from {first} to {count - 1}, and -1 is ignored; the "
                f"mask also holds {found}"
            )
        return np.asarray(warp_mask(mask, matrix, size), np.int32)

    def _label(self, sample: Sample, name: str) -> int:
        label = int(sample.extra.get("labels", {}).get(name, -1))
        count = len(self._by_name[name].labels)
        if not -1 <= label < count:
            raise DataError(
                f"sample {sample.id!r}: {name!r} is class {label}, and the head has classes 0 to {count - 1}"
            )
        return label

    def _blocks(self, name: str, masks: NDArray[np.int32], *, drop: bool) -> tuple[int, ...]:
        """Which objects' parts occur. drop: take out, in place, an object without a part left in its picture."""
        starts = np.cumsum((0, *self._parts[name].sizes))
        found: set[int] = set()
        for mask in masks:
            held = np.bincount(mask[mask >= 0], minlength=starts[-1])
            for number, (start, stop) in enumerate(pairwise(starts.tolist())):
                if not held[start:stop].any():
                    continue
                if (
                    drop and not held[start + 1 : stop].any()
                ):  # as the original: shrinking can lose small parts
                    mask[(mask >= start) & (mask < stop)] = IGNORE
                else:
                    found.add(number)
        return tuple(sorted(found))

    # ---- what is measured and shown

    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics, one per head; see `metrics.py`."""
        return dict(self._measured())

    def floor(self, tables: Mapping[str, Any], value: str) -> tuple[str, float] | None:
        """What answering without looking reaches in one of the values, from an evaluation's tables."""
        found = (each.floor(tables, value) for each in self._measured().values())
        return next((told for told in found if told is not None), None)

    @property
    def measures(self) -> tuple[str, ...]:
        """The first value of every head, which says how well it answers."""
        return tuple(each.names[0] for each in self._measured().values())

    def _measured(self) -> dict[str, PixelHead | PartHead | PictureHead]:
        found: dict[str, PixelHead | PartHead | PictureHead] = {}
        for head in self.heads:
            if isinstance(head, Pixels):
                found[head.name] = PixelHead(head)
            elif isinstance(head, Parts):
                objects = self._by_name[head.of]
                assert isinstance(objects, Pixels)  # check_heads saw to it
                found[head.name] = PartHead(head, objects)
            else:
                found[head.name] = PictureHead(head)
        return found

    def goodness(self, predictions: Any, batch: ParseBatch) -> Tensor:
        """How good each prediction is, for a report's worst ones: its share of right labels, mean over heads, (B,)."""
        import torch

        found = []
        for row, (height, width) in enumerate(batch.sizes):
            shares = []
            for name in batch.heads:
                if name in batch.labels:
                    truth = batch.labels[name][row]
                else:
                    truth = batch.masks[name][row, :height, :width]
                right = ((predictions[name][row] == truth) & (truth >= 0)).sum().float()
                shares.append(
                    torch.stack([right / (truth >= 0).sum().clamp_min(1), (truth >= 0).any().float()])
                )
            both = torch.stack(shares).sum(0)
            found.append(both[0] / both[1].clamp_min(1))
        return torch.stack(found)

    @property
    def steady(self) -> bool:
        """Reports show the same samples after every evaluation, so that one sees them improve."""
        return True

    def draw(self, image: Any, prediction: Any, truth: Any = None) -> Image:
        """Draw one page: scene in words, objects, parts, materials with legends; see `draw.py`."""
        from visloom.tasks.parse.draw import page

        return page(np.asarray(image), prediction, truth, self.heads)

    def seen(self, batch: ParseBatch) -> NDArray[np.uint8]:
        """The pictures of a training batch under the masks of the first labelled head, (B, H, W, 3) uint8."""
        from visloom.tasks.parse.draw import colours
        from visloom.tasks.segment.draw import overlay

        image = batch.image.numpy()[..., :3]
        if image.shape[3] == 1:
            image = np.repeat(image, 3, 3)
        names = [name for name in batch.heads if name in batch.masks]
        if not names:
            return image
        table, rate = colours(self._by_name[names[0]]), image.shape[1] // batch.masks[names[0]].shape[1]
        masks = batch.masks[names[0]].numpy().repeat(rate, 1).repeat(rate, 2)
        return np.stack(
            [np.asarray(overlay(one, mask, table, 0.45)) for one, mask in zip(image, masks, strict=True)]
        )

    # ---- what using a trained run asks

    def bare(self) -> Parse:
        """Return this task without pretrained weights: those of a checkpoint follow, and no network is there."""
        return dataclasses.replace(self, net=dataclasses.replace(self.net, pretrained=False))

    def with_tta(self, words: str) -> Parse:
        """Return this task with the views of `predict --tta`: flip, factors like 0.75, multiscale, none."""
        asked = views.parse(words)
        if not asked.views:
            return self
        return dataclasses.replace(self, flip=asked.flip, scales=asked.scales or (1.0,))

    def restore(self, prediction: Mapping[str, Any], matrix: Any, size: tuple[int, int]) -> dict[str, Any]:
        """Bring a prediction for a transformed picture back to the geometry of the original.

        matrix: (3, 3), original -> transformed coordinates.  size: (height, width) of the original.
        """
        back = np.linalg.inv(np.asarray(matrix, np.float64))
        found = dict(prediction)
        for name, value in prediction.items():
            if np.ndim(value) == 2 and not (np.array_equal(back, np.eye(3)) and np.shape(value) == size):
                found[name] = warp_mask(np.asarray(value).astype(np.int32), back, size)
        return found

    def write(self, prediction: Mapping[str, Any], folder: Path, name: str) -> dict[str, str]:
        """Write a prediction's masks, HEAD/NAME.png each; returns their places and what was found, for the table."""
        from visloom.tasks.parse.draw import save_mask
        from visloom.tasks.segment.draw import found

        cells: dict[str, str] = {}
        for head in self.heads:
            value = prediction[head.name]
            if np.ndim(value) == 0:
                cells[f"{head.name}_class"] = head.labels[int(value)]
                continue
            shares = found(value, head.labels)
            cells[f"{head.name}_found"] = ", ".join(f"{n} {100 * s:.1f} %" for n, s in shares[:6])
            cells[f"{head.name}_file"] = f"{head.name}/{name}.png"
            (folder / head.name).mkdir(exist_ok=True)
            save_mask(value, head, folder / head.name / f"{name}.png")
        return cells

    @property
    def planes(self) -> int:
        """Numbers per pixel that a prediction holds: how much memory it takes."""
        return sum(head.kind in ("pixels", "parts") for head in self.heads)


def _up(number: int, multiple: int) -> int:
    return max(1, -(-number // multiple)) * multiple
