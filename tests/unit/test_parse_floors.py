"""What answering without looking reaches stands beside every number of parsing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.test_parse import SPEC, objects


def test_floors_are_what_the_commonest_answer_reaches():
    """The floor that a table gives equals the metric of always answering the commonest class, whatever was answered."""
    samples = [objects(0), objects(1, scene=2), objects(2, scene=2)]
    batch = SPEC.collate(samples, None)
    made = [sample.masks["object"] for sample in samples]
    rng = np.random.default_rng(0)
    looked = {
        "object": [torch.from_numpy(rng.integers(1, 4, m.shape)) for m in made],
        "part": [torch.from_numpy(rng.integers(-1, 5, m.shape)) for m in made],
        "scene": torch.tensor([0, 1, 2]),
    }
    # sky covers most; of the parts a car's wheel; the scene is mostly class 2
    commonest = {
        "object": [torch.full(m.shape, 3) for m in made],
        "part": [torch.from_numpy(np.where(m == 1, 1, -1)) for m in made],
        "scene": torch.tensor([2, 2, 2]),
    }
    metrics, blind = SPEC.metrics(), SPEC.metrics()
    for name in ("object", "part", "scene"):
        metrics[name].update(looked, batch)
        blind[name].update(commonest, batch)
    tables = {name: table for metric in metrics.values() for name, table in metric.tables().items()}
    assert set(tables) == {
        "object_classes",
        "part_classes",
        "scene_classes",
    }  # one for each head that is labelled
    compared = 0
    for name in ("object", "part", "scene"):
        for value, wanted in blind[name].compute().items():
            told = SPEC.floor(tables, value)
            assert told is not None and told[1] == pytest.approx(wanted), value
            compared += 1
    assert compared == 7
    assert SPEC.floor(tables, "object_miou")[0] == "all 'sky'"
    assert SPEC.floor(tables, "part_miou")[0] == "all 'car: wheel'"
    assert SPEC.floor(tables, "material_miou") is None and SPEC.floor(tables, "loss") is None
    assert SPEC.measures == (
        "object_miou",
        "part_miou",
        "scene_accuracy",
        "material_miou",
        "texture_accuracy",
    )
