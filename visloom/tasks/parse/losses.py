"""Tallies: sums and counts from which the losses and training accuracies of heads come, whatever is labelled.

Every mean has a divisor of its own: labelled pixels of a head, labelled pictures, pixels of one object. They are added
up over all processes in one exchange of a vector that always has the same length (`Slots`), so that it does not matter
which process holds which labels. Nothing labelled gives a zero that belongs to the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from visloom import dist
from visloom.tasks.parse.batch import ParseBatch
from visloom.tasks.parse.heads import Block, Head, Parts, Pixels


class Tally(NamedTuple):
    """What one batch says of a head.

    sums: losses, added up, (n,): one entry, or one per object with parts.  counts: what they were added over, (n,).
    right: 0-dim number of right answers among `seen`.
    """

    sums: Tensor
    counts: Tensor
    right: Tensor
    seen: Tensor

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*(a + b for a, b in zip(self, other, strict=True)))


class Slots:
    """Where the counts of each head stand in the vector that processes exchange."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = {head.name: head for head in heads}
        self.lengths = {head.name: len(head.parts) if isinstance(head, Parts) else 1 for head in heads}

    def losses(self, tallies: Mapping[str, Tally], like: Tensor) -> dict[str, Tensor]:
        """The weighted loss of each head, 0-dim; one exchange with the other processes."""
        counts = torch.cat(
            [
                tallies[name].counts if name in tallies else like.new_zeros(length)
                for name, length in self.lengths.items()
            ]
        )
        divisors = dict(
            zip(self.lengths, torch.split(dist.normaliser(counts), list(self.lengths.values())), strict=True)
        )
        return {
            name: self.heads[name].weight * (tally.sums / divisors[name]).sum()
            for name, tally in tallies.items()
        }


def blocks_of(heads: Sequence[Head]) -> dict[str, tuple[Block, ...]]:
    """The outputs of each object, for every head of parts."""
    objects = {head.name: head for head in heads if isinstance(head, Pixels)}
    return {head.name: head.blocks(objects[head.of]) for head in heads if isinstance(head, Parts)}


def tally(head: Head, logits: Tensor, batch: ParseBatch, blocks: Sequence[Block] = ()) -> Tally:
    """Compare the logits of a head with what is labelled.

    logits: (B, K, h, w), or (B, K).  blocks: the outputs of objects with parts.
    Sources of the formulas: `SegmentationModule` and `pixel_acc` of the original.
    """
    if head.kind == "pixels":
        return tally_pixels(logits, fitted(batch.masks[head.name], logits))
    if head.kind == "parts":
        target = fitted(batch.masks[head.name], logits)
        return tally_parts(logits, target, blocks, batch.blocks.get(head.name, ()))
    target = batch.labels[head.name]
    if head.kind == "texture":  # every pixel learns the picture's label; right is whom most of them chose
        return tally_texture(logits, target)
    return tally_pixels(logits, target)


def tally_pixels(logits: Tensor, target: Tensor) -> Tally:
    """Cross entropy over what is labelled. logits (B, K, ...), target (B, ...) int64 with -1 for ignore."""
    total = functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    known = target >= 0
    seen = known.sum()
    right = (logits.detach().max(1).indices == target).sum()  # an answer is never -1
    return Tally(total[None], seen[None].to(logits.dtype), right, seen)


def tally_texture(logits: Tensor, target: Tensor) -> Tally:
    """logits (B, K, h, w), target (B,): the mean over the pixels of each picture, added up over pictures."""
    batch, _, high, wide = logits.shape
    spread = target[:, None, None].expand(batch, high, wide)
    total = functional.cross_entropy(logits, spread, ignore_index=-1, reduction="sum") / (high * wide)
    chosen = logits.detach().softmax(1).mean((2, 3)).max(1).indices  # (B,)
    seen = (target >= 0).sum()
    return Tally(total[None], seen[None].to(logits.dtype), (chosen == target).sum(), seen)


def tally_parts(logits: Tensor, target: Tensor, blocks: Sequence[Block], occurring: Sequence[int]) -> Tally:
    """Cross entropy inside each object, among its own outputs only: one entry per object.

    logits (B, K, h, w), target (B, h, w) int64: output of the pixel, -1 for ignore.  occurring: numbers of the objects
    in this batch, plain values, so that nothing is computed for the others.
    """
    zero = logits.sum() * 0  # keeps the head in the graph where no object occurs
    sums, counts = [zero] * len(blocks), [logits.new_zeros(())] * len(blocks)
    right = target.new_zeros(())
    for number in occurring:
        start, stop, *_ = blocks[number]
        own = logits[:, start:stop]
        inside = (target >= start) & (target < stop)
        local = torch.where(inside, target - start, -1)
        sums[number] = functional.cross_entropy(own, local, ignore_index=-1, reduction="sum")
        counts[number] = inside.sum().to(logits.dtype)
        right = right + (own.detach().max(1).indices == local).sum()
    both = torch.stack(counts)
    return Tally(torch.stack(sums), both, right, both.sum().long())


def fitted(target: Tensor, logits: Tensor) -> Tensor:
    """Bring a mask (B, H, W) to the size of logits, int64: the nearest pixel of each place."""
    size = logits.shape[2:]
    if target.shape[1:] == size:
        return target.long()
    rows, columns = (
        ((torch.arange(new, device=target.device) + 0.5) * old / new).long()
        for new, old in zip(size, target.shape[1:], strict=True)
    )
    return target[:, rows[:, None], columns[None, :]].long()
