"""Views: several looks at one picture for detection: scales and mirror images, whose boxes are suppressed together.

As in maskrcnn-benchmark (BBOX_AUG) and detectron2: the boxes of all views, brought to one picture, go through one
suppression, so the surest view of a thing speaks for it. Masks are averaged over the views; keypoints are those of the
picture itself, because left and right change places in a mirror. `--tta flip,0.75,1.25` chooses among these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from visloom.tasks import tta

if TYPE_CHECKING:
    from torch import Tensor

    from visloom.nets.detection.roi import Found

    Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Views:
    """What is looked at besides the picture itself.

    scales: factors on the picture's sides.  flip: also the mirror image, at every scale.
    """

    scales: tuple[float, ...] = ()
    flip: bool = False

    def __post_init__(self) -> None:
        if not all(0 < scale <= 8 for scale in self.scales):
            raise ValueError(f"scales are above 0, up to 8, got {self.scales}")

    def all(self) -> list[View]:
        """Each view once, the picture itself first."""
        scales = dict.fromkeys((1.0, *self.scales))
        return [View(scale, flip) for flip in ((False, True) if self.flip else (False,)) for scale in scales]


def parse(words: str) -> Views:
    """Read `flip,0.75,1.25`; "none" is the picture alone.

    Raises:
        ConfigError: a word that is no view.
    """
    found = tta.read(words, of="detection", names=("flip",), path="task.views")
    return Views(scales=tuple(word for word in found if isinstance(word, float)), flip="flip" in found)


class View(NamedTuple):
    """One way of looking at a picture."""

    scale: float
    flip: bool

    def of(self, image: Tensor, sizes: Sizes, divisible: int) -> tuple[Tensor, Sizes]:
        """Padded pictures (B, C, H, W) of `sizes` in this view, and their sizes there."""
        import torch
        from torch.nn.functional import interpolate

        if self == View(1.0, False):
            return image, sizes
        new = [
            (max(1, round(height * self.scale)), max(1, round(width * self.scale))) for height, width in sizes
        ]
        rows, columns = (max(size[side] for size in new) for side in (0, 1))
        rows, columns = (-(-side // divisible) * divisible for side in (rows, columns))
        made = image.new_zeros((len(image), image.shape[1], rows, columns))
        for row, ((height, width), size) in enumerate(zip(sizes, new, strict=True)):
            part = image[row : row + 1, :, :height, :width]
            if size != (height, width):
                part = interpolate(part, size, mode="bilinear", antialias=self.scale < 1)
            made[row, :, : size[0], : size[1]] = torch.flip(part, (3,))[0] if self.flip else part[0]
        return made, new

    def there(self, boxes: Tensor, size: tuple[int, int], here: tuple[int, int], plus: float) -> Tensor:
        """Boxes (N, 4) of a picture of `size` in this view, where the picture has the size `here`."""
        moved = _scaled(boxes, here[1] / size[1], here[0] / size[0], plus)
        return _mirrored(moved, here[1], plus) if self.flip else moved

    def back(self, boxes: Tensor, size: tuple[int, int], here: tuple[int, int], plus: float) -> Tensor:
        """Boxes (N, 4) of this view in the picture itself."""
        moved = _mirrored(boxes, here[1], plus) if self.flip else boxes
        return _scaled(moved, size[1] / here[1], size[0] / here[0], plus)


def _scaled(boxes: Tensor, wide: float, high: float, plus: float) -> Tensor:
    far = boxes.new_tensor([0.0, 0.0, plus, plus])
    return (boxes + far) * boxes.new_tensor([wide, high, wide, high]) - far


def _mirrored(boxes: Tensor, width: int, plus: float) -> Tensor:
    import torch

    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - plus - x1, y0, width - plus - x0, y1], 1)


class _Look(NamedTuple):
    view: View
    features: Sequence[Tensor]
    sizes: Sizes


def look(net: Any, image: Tensor, sizes: Sizes, views: Views, *, divisible: int, plus: float) -> list[Found]:
    """Detections of each picture in all views together, in the network's pixels.

    net: with `features`, `candidates`, `settled` and `branched`, as the detectors in `visloom/nets/detection`.
    image: normalised (B, C, H, W), 0 in the padding.  sizes: (height, width) of each picture without it.
    plus: 1 where boxes are of inclusive pixels.
    """
    looks: list[_Look] = []
    every: list[list[Found]] = [[] for _ in sizes]
    for view in views.all():
        seen, here = view.of(image, sizes, divisible)
        features = net.features(seen)
        found = net.candidates(features, (seen.shape[2], seen.shape[3]), here)
        for row, each in enumerate(found):
            every[row].append(each._replace(boxes=view.back(each.boxes, sizes[row], here[row], plus)))
        looks.append(_Look(view, features if net.branches else (), here))
    settled = [net.settled(_joined(each)) for each in every]
    return _branched(net, looks, settled, sizes, plus) if net.branches else settled


def _joined(found: Sequence[Found]) -> Found:
    import torch

    return found[0]._replace(
        **{name: torch.cat([getattr(each, name) for each in found]) for name in ("boxes", "scores", "labels")}
    )


def _branched(net: Any, looks: Sequence[_Look], found: list[Found], sizes: Sizes, plus: float) -> list[Found]:
    """Masks of the detections, the mean over the views, and keypoints of the first one."""
    first: list[Found] = net.branched(looks[0].features, found)
    if first[0].masks is None or len(looks) == 1:
        return first
    for one in looks[1:]:
        moved = [
            each._replace(boxes=one.view.there(each.boxes, size, here, plus))
            for each, size, here in zip(found, sizes, one.sizes, strict=True)
        ]
        seen = net.branched(one.features, moved)
        first = [_added(a, b, one.view.flip) for a, b in zip(first, seen, strict=True)]
    return [each._replace(masks=each.masks / len(looks)) for each in first if each.masks is not None]


def _added(total: Found, seen: Found, flip: bool) -> Found:
    assert total.masks is not None and seen.masks is not None
    return total._replace(masks=total.masks + (seen.masks.flip(2) if flip else seen.masks))
