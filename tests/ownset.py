"""The worked example of docs/own_sources.md on disk: two sources that label different things, and sources.yaml."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_sources.md"


def example() -> str:
    """The sources.yaml that the page shows first."""
    found = re.search(r"```yaml\n# DIR/sources.yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def write(root: Path, count: int = 6, size: tuple[int, int] = (32, 48)) -> Path:
    """Write `count` pictures of each source in the places that the example names; returns the root."""
    draw = np.random.default_rng(0)
    lines = ["image,label"]
    for number in range(count):
        image, objects, parts = _street(draw, size)
        name = f"{number}"
        _save(root / "streets" / "images" / f"{name}.jpg", image)
        _save(root / "streets" / "objects" / f"{name}.png", objects)
        if number:  # nobody labelled parts in the first picture
            _save(root / "streets" / "parts" / f"{name}.png", parts)
        if number != 1:  # nor the scene of the second
            lines.append(f"{name}.jpg,{('street', 'beach')[number % 2]}")
        image, materials = _room(draw, size)
        _save(root / "rooms" / "images" / "a" / f"{name}.jpg", image)
        _save(root / "rooms" / "materials" / "a" / f"{name}_material.png", materials)
    (root / "streets" / "scenes.csv").write_text("\n".join(lines) + "\n")
    (root / "material.csv").write_text(
        "name,r,g,b\nwood,160,82,45\nmetal,128,128,128\nfabric,200,0,0\nignore,0,0,0\n"
    )
    (root / "sources.yaml").write_text(example())
    return root


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _street(draw: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sky above, a car with a wheel to the left, a person with a head to the right; stored from 1."""
    height, width = size
    objects, parts = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    objects[: height // 2] = 1
    objects[height // 2 :, : width // 2] = 3
    objects[height // 2 :, width // 2 : -8] = 4
    parts[-6:, 4:12] = 1  # wheel
    parts[-6:, 30:34] = 1  # a wheel on a person is none of its parts
    parts[height // 2 : height // 2 + 6, width // 2 : width // 2 + 8] = 3  # head
    colours = np.array([[0, 0, 0], [90, 140, 220], [60, 60, 60], [200, 30, 30], [230, 180, 120]], np.uint8)
    noise = draw.integers(0, 20, (*size, 3), dtype=np.uint8)
    return colours[objects] + noise, objects, parts


def _room(draw: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Stripes of wood and metal, as colours."""
    materials = np.zeros((*size, 3), np.uint8)
    materials[:, :16] = (160, 82, 45)
    materials[:, 16:32] = (128, 128, 128)
    return materials // 2 + draw.integers(0, 20, materials.shape, dtype=np.uint8), materials
