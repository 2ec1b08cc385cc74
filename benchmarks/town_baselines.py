"""How hard is the embedded town? The commonest class, a linear model on the pixels, and the recipe's own network.

    python benchmarks/town_baselines.py             about 2 CPU-minutes; needs scikit-learn

All three see the 4,000 training pictures of `visloom train town` and are judged on its 800 validation pictures.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray


def linear(
    train: tuple[NDArray[np.uint8], NDArray[np.int64]], val: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> float:
    """Best validation accuracy of logistic regression on standardised pixels, over input sides and regularisation.

    Choosing by validation accuracy favours the linear model.
    """
    import cv2
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    best = 0.0
    for side in (12, 16, 24):
        small = [
            np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])
            for images, _ in (train, val)
        ]
        flat = [images.reshape(len(images), -1).astype(np.float64) for images in small]
        scaler = StandardScaler().fit(flat[0])
        for strength in (1e-4, 1e-3, 1e-2):
            model = LogisticRegression(C=strength, max_iter=500).fit(scaler.transform(flat[0]), train[1])
            best = max(best, float(model.score(scaler.transform(flat[1]), val[1])))
    return best


def main() -> None:
    from visloom import train as run_training
    from visloom.data.town import CLASSES
    from visloom.metrics import majority
    from visloom.recipes.town import town

    run = town()
    sources = run.train.source, run.evals["val"].stream.source
    started = time.process_time()
    parts = [source.read_batch(np.arange(len(source))) for source in sources]
    seconds = time.process_time() - started
    count = sum(len(part) for part in parts)
    print(f"{count:,} pictures drawn in {seconds:.1f} CPU-s: {count / seconds:.0f} a second", flush=True)
    name, share = majority(parts[1].label.tolist(), CLASSES)
    print(f"always {name!r}: {100 * share:.1f} %", flush=True)
    pairs = [(part.image, part.label) for part in parts]
    print(f"linear model on the pixels: {100 * linear(pairs[0], pairs[1]):.1f} %", flush=True)
    started = time.process_time()
    report = run_training(run)
    accuracy = report.values["val"]["accuracy"]
    print(
        f"the recipe: {100 * accuracy:.1f} % in {time.process_time() - started:.0f} CPU-s, drawing included"
    )


if __name__ == "__main__":
    main()
