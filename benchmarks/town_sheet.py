"""A contact sheet of the embedded town: one row per class, and two whole streets above.

python benchmarks/town_sheet.py docs/town.jpg
"""

from __future__ import annotations

import sys

import numpy as np

from visloom.data.town import CLASSES, Streets, Town


def main(out: str, columns: int = 12, side: int = 64) -> None:
    from PIL import Image

    town = Town(part="test", samples=columns * 60, size=side)
    labels = town.labels_all()
    rows = []
    for label in range(len(CLASSES)):
        chosen = np.flatnonzero(labels == label)[:columns]
        rows.append(np.concatenate(list(town.read_batch(chosen).image), axis=1))
    width = rows[0].shape[1]
    streets = Streets(part="test", samples=20, height=width * 3 // 10, width=width // 2)
    wide = [streets.read(index).image for index in (0, 9)]
    Image.fromarray(np.concatenate([np.concatenate(wide, axis=1), *rows])).save(out, quality=88)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "town.jpg")
