"""Small data roots in exactly the layout in which segmentation data sets are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (20, 14)  # height, width


def photo(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a smooth random picture; the ending says as what."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return path


def blocks(labels, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of horizontal stripes, one for each label: (H, W) uint8."""
    rows = np.array_split(np.arange(size[0]), len(labels))
    mask = np.zeros(size, np.uint8)
    for label, part in zip(labels, rows, strict=True):
        mask[part] = label
    return mask


def gray(path: Path, mask: np.ndarray) -> Path:
    """Write a mask as a gray PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def paletted(path: Path, mask: np.ndarray, colours) -> Path:
    """Write a mask as a PNG with a palette, as VOC's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask).convert("L")
    picture = Image.frombytes("P", picture.size, mask.tobytes())
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(path)
    return path


def painted(path: Path, mask: np.ndarray, colours) -> Path:
    """Write a mask as an RGB picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(colours, np.uint8)[mask]).save(path)
    return path


def mat(path: Path, **variables) -> Path:
    """Write a MATLAB file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)
    return path


def clothes(root: Path, *, photos: int = 6, masked: int = 4, splits: bool = False) -> Path:
    """Clothing Co-Parsing: `photos` photos, the first `masked` of which have a mask."""
    place = root / "clothing-co-parsing-master"
    for i in range(1, photos + 1):
        photo(place / "photos" / f"{i:04d}.jpg", i)
        if i <= masked:
            mat(place / "annotations" / "pixel-level" / f"{i:04d}.mat", groundtruth=blocks([0, 19, 41, 14]))
        else:
            mat(place / "annotations" / "image-level" / f"{i:04d}.mat", tags=np.array([[1], [2]], np.uint8))
    if splits:
        (place / "splits").mkdir()
        (place / "splits" / "train.txt").write_text("0001\n0003\n")
        (place / "splits" / "val.txt").write_text("0002\n")
    return place
