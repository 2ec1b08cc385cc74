"""What answers without looking reach on the validation photos of Clothing Co-Parsing, in the values of an evaluation.

    python benchmarks/clothes_floors.py --data DIR [--coarse]

DIR holds clothing-co-parsing-master/. Two floors, at the photos' own sizes: background everywhere, and the commonest
class of each position in the training photos, all brought to one grid. --coarse: the labels merged as `clothes:coarse`
merges them.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
from numpy.typing import NDArray

from visloom.data.clothes import Clothes
from visloom.recipes.clothes import COARSE
from visloom.tasks.segment.metrics import summary

GRID = (384, 256)  # height, width


def resized(mask: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    """A mask at another (height, width), by the nearest pixel."""
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def commonest(source: Clothes) -> NDArray[np.int32]:
    """The commonest class of each position of the grid."""
    classes = len(source.classes())
    counts = np.zeros((*GRID, classes), np.int32)
    rows, columns = np.indices(GRID)
    for index in range(len(source)):
        mask = resized(source.mask(index), GRID)
        known = mask >= 0
        counts[rows[known], columns[known], mask[known]] += 1
    return counts.argmax(2).astype(np.int32)


def measured(source: Clothes, answer: NDArray[np.int32]) -> dict[str, float]:
    """Values of one answer for every photo."""
    classes = len(source.classes())
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(len(source)):
        mask = source.mask(index)
        known = mask >= 0
        pairs = mask[known].astype(np.int64) * classes + resized(answer, mask.shape)[known]  # type: ignore[arg-type]
        matrix += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return summary(matrix.tolist(), 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--coarse", action="store_true")
    args = parser.parse_args()
    remap = COARSE if args.coarse else {}
    train, val = (Clothes(root=args.data, part=part, remap=remap) for part in ("train", "val"))
    answers = {
        "background everywhere": np.zeros(GRID, np.int32),
        "commonest class of each position": commonest(train),
    }
    print(
        f"{len(val)} validation photos, {len(val.classes())} classes; positions from {len(train)} training photos"
    )
    for name, answer in answers.items():
        values = measured(val, answer)
        told = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
        print(f"  {name}: {told}")


if __name__ == "__main__":
    main()
