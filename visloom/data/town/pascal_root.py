"""Pascal root: sights of the town as PASCAL Context and PASCAL-Part store them.

    pascal/VOC2010/JPEGImages/STEM.jpg              the picture
    pascal/context/trainval/STEM.mat                LabelMap: a number of an object for every pixel
    pascal/part/Annotations_Part/STEM.mat           anno: objects with masks, and masks of their parts by short names
    pascal/part/part2ind.m                          the short names

Each connected piece of an object's mask is an instance of its own, and its wheels, windows and lights are numbered, as
the real files have them. Pascal says nothing of scenes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.town.labels import OBJECTS, PARTS, Labels
from visloom.data.town.picture_files import save_jpeg

MOST = 10
"""Numbered parts of one name that the table knows for an object; a later one with the same number is drawn over it."""

_THINGS = tuple(PARTS)


def write_pascal(root: Path, number: int, image: NDArray[np.uint8], labels: Labels) -> None:
    """Write one picture. root: of Broden+.  number: its place among all of Pascal."""
    from scipy.io import savemat

    stem, base = f"2010_{number + 1:06d}", root / "pascal"
    save_jpeg(base / "VOC2010" / "JPEGImages" / f"{stem}.jpg", image)
    context, pieces = base / "context" / "trainval", base / "part" / "Annotations_Part"
    context.mkdir(parents=True, exist_ok=True)
    pieces.mkdir(parents=True, exist_ok=True)
    savemat(context / f"{stem}.mat", {"LabelMap": labels.object.astype(np.uint16)}, do_compression=True)
    anno = {"imname": stem, "objects": _objects(labels)}
    savemat(pieces / f"{stem}.mat", {"anno": anno}, do_compression=True)


def write_names(path: Path) -> None:
    """Write part2ind.m: the MATLAB source that names the parts of each object."""
    lines = ["function pimap = part2ind()", f"pimap = cell({len(_THINGS)}, 1);"]
    for thing, name in enumerate(_THINGS, start=1):
        lines += ["", f"% [{name}]"]
        for place, part in enumerate(PARTS[name]):
            lines += [
                f"for ii = 1:{MOST}",
                f"    pimap{{{thing}}}(sprintf('{part}_%d', ii)) = {10 * place}+ii; % {part}",
                "end",
            ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _objects(labels: Labels) -> NDArray[Any]:
    """MATLAB's struct array of the instances: class, class_ind, mask, parts."""
    found = []
    for index, name in enumerate(_THINGS, start=1):
        inside = labels.object == OBJECTS.index(name)
        for mask in _pieces(inside):
            parts = _parts(np.where(mask, labels.part, 0), PARTS[name])
            found.append((name, index, mask.astype(np.uint8), parts))
    fields = [(key, object) for key in ("class", "class_ind", "mask", "parts")]
    things = np.zeros((1, len(found)), fields)
    for place, thing in enumerate(found):
        things[0, place] = thing
    return things if found else np.zeros((1, 0))


def _parts(local: NDArray[np.int32], names: tuple[str, ...]) -> NDArray[Any]:
    """MATLAB's struct array of the parts of one instance: part_name, mask; an empty matrix where there are none."""
    found = [
        (f"{name}_{min(number, MOST)}", mask.astype(np.uint8))
        for place, name in enumerate(names, start=1)
        for number, mask in enumerate(_pieces(local == place), start=1)
    ]
    parts = np.zeros((1, len(found)), [("part_name", object), ("mask", object)])
    for place, part in enumerate(found):
        parts[0, place] = part
    return parts if found else np.zeros((0, 0))


def _pieces(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected pieces of a mask (H, W)."""
    import cv2

    count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [numbers == number for number in range(1, count)]
