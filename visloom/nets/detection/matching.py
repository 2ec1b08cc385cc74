"""Matching: which box of the truth a candidate stands for, and which candidates a loss looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from visloom.keys import fold
from visloom.nets.detection.boxes import overlaps

BACKGROUND, BETWEEN = -1, -2


class Matcher(NamedTuple):
    """Assigns candidates by their overlap with the truth.

    high: from this overlap on a candidate stands for the box.  low: below it, it is background.
    rescue: a box whose best overlap is under `high` still gets its best candidates, ties included; a box that
        nothing overlaps gets none.
    """

    high: float
    low: float
    rescue: bool = False

    def __call__(self, overlap: Tensor) -> Tensor:
        """Row of the truth for each candidate, BACKGROUND or BETWEEN: (N,) int64 from overlaps (M, N).

        Without truth everything is background.
        """
        if overlap.shape[0] == 0:
            return torch.full((overlap.shape[1],), BACKGROUND, device=overlap.device)
        best, row = overlap.max(0)
        found = row.where(best >= self.high, BETWEEN)
        found = found.where(best >= self.low, BACKGROUND)
        if self.rescue and overlap.shape[1]:
            top = overlap.max(1, keepdim=True).values
            saved = ((overlap == top) & (top > 0)).any(0)
            found = row.where(saved, found)
        return found


@dataclass(frozen=True)
class Sampler:
    """Chooses candidates of a picture at random: up to a share of positives, filled up with background.

    What is drawn depends on the picture's key alone: neither on the rest of the batch nor on the number of
    processes. Nothing waits for the device.

    count: candidates per picture.  fraction: largest share of positives.
    """

    count: int
    fraction: float

    def __call__(self, labels: Tensor, key: int, what: str) -> tuple[Tensor, Tensor]:
        """Masks (N,) of the chosen positives and of the chosen background.

        labels: (N,) above 0 positive, 0 background, below 0 never chosen.
        key: of the picture.  what: a word for this draw, so that two draws of a picture differ.
        """
        generator = torch.Generator().manual_seed(fold(key, "sample", what) & 0x7FFF_FFFF_FFFF_FFFF)
        draw = torch.rand(len(labels), generator=generator).to(labels.device, non_blocking=True)
        positive, negative = labels > 0, labels == 0
        most = int(self.count * self.fraction)
        chosen = positive & (_rank(draw, positive) < most)
        room = self.count - chosen.sum()
        return chosen, negative & (_rank(draw, negative) < room)


def _rank(draw: Tensor, among: Tensor) -> Tensor:
    """Place of each entry when those of `among` stand first, by their draws: (N,) int64."""
    order = torch.argsort(draw.where(among, 2.0), stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank


def unsure(candidates: Tensor, places: Tensor | None, least: float, plus: float = 0.0) -> Tensor:
    """Candidates (N, 4) that overlap one of `places` (M, 4) by `least` or more, so are no background: (N,) bool."""
    if places is None or not len(places):
        return torch.zeros(len(candidates), dtype=torch.bool, device=candidates.device)
    return overlaps(places, candidates, plus).amax(0) >= least


def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    """Sum of the Huber-like loss of Fast R-CNN: quadratic below `beta`, linear above; beta 0 is L1."""
    size = difference.abs()
    if beta <= 0:
        return size.sum()
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta).sum()
