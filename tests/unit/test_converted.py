"""The JSON of the original's converter: the same samples as from the tables of nuScenes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.fusion import tiny_root
from visloom.config import load
from visloom.data.nuscenes.converted import Converted, recognise
from visloom.data.nuscenes.source import NuScenes
from visloom.data.scene3d import Frame
from visloom.errors import DataError
from visloom.newrecipe import write_new
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.collate import collate

FILE = "annotations_3sweeps/mini_val.json"


@pytest.fixture
def root(shared, tmp_path):
    return tiny_root(shared, tmp_path)


@pytest.mark.parametrize("split", ["mini_train", "mini_val"])
def test_samples_and_batches_are_those_of_the_tables(root, split):
    there = NuScenes(root=str(root), scenes=split, sweeps=3)
    here = Converted(root=str(root), file=f"annotations_3sweeps/{split}.json")
    assert len(here) == len(there) == 18
    spec, frame = Fusion3d(), Frame(size=(448, 800))
    for index in range(18):
        a, b = here.read(index), there.read(index)
        assert (
            a.id == b.id
            and a.extra["camera"] == b.extra["camera"]
            and here.token_of(index) == there.token_of(index)
        )
        assert np.array_equal(a.image, b.image) and np.allclose(a.calib, b.calib)
        assert np.allclose(a.extra["pose"], b.extra["pose"], atol=1e-6)
        assert np.allclose(a.extra["radar"][:, :6], b.extra["radar"][:, :6], atol=1e-3)
        assert np.array_equal(a.labels, b.labels) and np.allclose(a.boxes, b.boxes, atol=1e-2)
        for name in ("box_center", "box_dims", "box_velocity", "box_alpha", "box_attribute"):
            assert np.allclose(a.extra[name], b.extra[name], atol=1e-4, equal_nan=True), name
        assert np.allclose(np.cos(a.extra["box_yaw"] - b.extra["box_yaw"]), 1)
        if index % 6 == 0:
            one, two = (collate(spec, [frame(s, 0)], truth=False) for s in (a, b))
            for name in ("depth", "center", "dims", "velocity", "attribute", "bin", "valid"):
                assert torch.allclose(
                    getattr(one.targets, name).float(), getattr(two.targets, name).float(), atol=1e-3
                )
            same = (one.radar - two.radar).abs().amax(1) < 1e-3
            assert same.float().mean() > 0.999  # a rounding may move the edge of a pillar


def test_the_truth_of_a_moment_has_each_thing_once(root):
    here, there = Converted(root=str(root), file=FILE), NuScenes(root=str(root), scenes="mini_val")
    ours, all_of_it = here.read(0).extra["truth"].boxes, there.read(0).extra["truth"].boxes
    assert 5 < len(ours) <= len(all_of_it)
    away = np.linalg.norm(ours.center[:, None] - all_of_it.center, axis=-1)
    which = away.argmin(1)
    assert away.min(1).max() < 1e-4 and len(set(which.tolist())) == len(which)
    assert np.array_equal(ours.label, all_of_it.label[which])
    assert np.allclose(ours.velocity, all_of_it.velocity[which], atol=1e-4, equal_nan=True)
    assert here.read(0).extra["truth"].token == here.token_of(0)


def test_it_is_read_once_and_again_where_the_file_has_changed(root):
    first = Converted(root=str(root), file=FILE)
    assert len(first) == 18 and len(list((root / ".visloom").glob("converted-*"))) == 1
    assert len(Converted(root=str(root), file=FILE)) == 18
    value = json.loads((root / FILE).read_text())
    value["images"] = value["images"][:6]
    (root / FILE).write_text(json.dumps(value))
    assert len(Converted(root=str(root), file=FILE)) == 6
    assert first.elsewhere(str(root), "mini_train").file == "annotations_3sweeps/mini_train.json"


def test_a_folder_without_tables_is_recognised(root, tmp_path):
    for file in (root / "v1.0-mini").iterdir():
        file.unlink()
    made = write_new(tmp_path / "mine.yaml", root)
    run = load(made.file)
    assert "original CenterFusion converts" in made.said[0]
    assert run.train.source == Converted(file="annotations_3sweeps/mini_train.json")
    assert run.evals["val"].stream.source == Converted(file=FILE)
    assert recognise(tmp_path) is None


def _break(root, change):
    value = json.loads((root / FILE).read_text())
    change(value)
    (root / FILE).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.pop("annotations"), "lists images and annotations"),
        (lambda v: v["images"][2].pop("calib"), r"images\[2\] has no calib"),
        (lambda v: v["annotations"][3].pop("dim"), r"annotations\[3\] has no dim"),
        (lambda v: v["images"][2].update(radar_pc=[[1.0], [2.0]]), "expected 18 rows"),
        (lambda v: v["images"][2].update(sensor_id=9), "sensor_id 9; cameras are 1 to 6"),
        (lambda v: v["annotations"][3].update(dim=[1]), "dim of its rows"),
        (lambda v: v["categories"][0].update(name="horse"), "categories are car"),
        (lambda v: v["images"].clear(), "images is empty"),
    ],
)
def test_files_that_are_something_else(root, change, says):
    _break(root, change)
    with pytest.raises(DataError, match=rf"mini_val\.json: .*{says}"):
        len(Converted(root=str(root), file=FILE))


def test_files_and_pictures_that_are_missing(root):
    with pytest.raises(DataError, match=r"nothing\.json cannot be read"):
        len(Converted(root=str(root), file="nothing.json"))
    next((root / "samples" / "CAM_BACK").glob("tiny1*")).unlink()
    with pytest.raises(DataError, match=r"1 of 18 pictures are not on disk: samples/CAM_BACK"):
        Converted(root=str(root), file=FILE).check()
