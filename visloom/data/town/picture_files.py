"""Pictures of the town in files: JPEG for what cameras see, PNG for labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Save (H, W, 3) RGB as JPEG of quality 95, with colours at full size; makes the folder."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95, subsampling=0)


def save_png(path: Path, values: NDArray[np.uint8]) -> None:
    """Save (H, W) or (H, W, 3) values as PNG; makes the folder."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, compress_level=1)
