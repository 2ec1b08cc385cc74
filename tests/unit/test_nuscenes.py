"""The nuScenes reader: radar files, tables, what is missing; and submissions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tests.fusion import tiny_root
from visloom.data.nuscenes.names import ATTRIBUTES, CLASSES
from visloom.data.nuscenes.pcd import DTYPE, read_pcd, usable, write_pcd
from visloom.data.nuscenes.source import NuScenes
from visloom.data.nuscenes.splits import scenes_of
from visloom.data.scene3d import Frame
from visloom.errors import DataError
from visloom.tasks.fusion3d import Fusion3d
from visloom.tasks.fusion3d.world import read_submission


@pytest.fixture
def root(shared, tmp_path):
    return tiny_root(shared, tmp_path)


def returns(count: int = 5):
    made = np.zeros(count, DTYPE)
    made["x"], made["ambig_state"] = np.arange(count) + 2.5, 3
    return made


def test_radar_files_come_back(tmp_path):
    file = tmp_path / "a.pcd"
    made = returns()
    made["invalid_state"][1], made["dyn_prop"][2], made["x"][3] = 1, 7, 0.5
    write_pcd(file, made)
    back = read_pcd(file)
    assert np.array_equal(back, made)
    assert usable(back).tolist() == [True, False, False, False, True]
    write_pcd(file, made[:0])
    assert len(read_pcd(file)) == 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"DATA binary", b"DATA binary_compressed", "DATA binary"),
        (b"POINTS 5", b"POINTS 9", "do not fit"),
        (b"WIDTH 5", b"WIDTH five", "expected a number"),
        (b" vx_comp", b" vx_camp", "no field vx_comp"),
        (b"SIZE 4", b"SIZE", "have 18, 17"),
        (b"VERSION", b"GARBAGE", "GARBAGE"),
        (b"HEIGHT 1\n", b"", "no HEIGHT"),
    ],
)
def test_radar_files_with_wrong_headers(tmp_path, old, new, says):
    file = tmp_path / "a.pcd"
    write_pcd(file, returns())
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=f"a.pcd.*{says}"):
        read_pcd(file)


def test_radar_files_that_are_cut_off(tmp_path):
    file = tmp_path / "a.pcd"
    write_pcd(file, returns())
    whole = file.read_bytes()
    for length in (0, 60, len(whole) - 50):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.pcd"):
            read_pcd(file)


def test_splits_have_the_scenes_that_nuscenes_has():
    sizes = {name: len(scenes_of(name)) for name in ("train", "val", "test", "mini_train", "mini_val")}
    assert sizes == {"train": 700, "val": 150, "test": 150, "mini_train": 8, "mini_val": 2}
    assert not scenes_of("train") & scenes_of("val") and scenes_of("mini_val") == {"scene-0103", "scene-0916"}


def test_a_root_is_read_cached_and_read_again(root):
    source = NuScenes(root=str(root), scenes="mini_train")
    assert len(source) == 18 and source.check() == []
    first = source.read(0)
    assert first.problems() == [] and first.extra["radar"].shape[1] == 7
    assert len(NuScenes(root=str(root), scenes="mini_train", sweeps=1).read(6).extra["radar"]) < len(
        NuScenes(root=str(root), scenes="mini_train", sweeps=3).read(6).extra["radar"]
    )
    cached = list((root / ".visloom").rglob("*.npz"))
    assert len(cached) == 1 and cached[0].stat().st_size < 3 * 12_000  # a few kilobytes a moment
    stamp = cached[0].stat().st_mtime_ns
    again = NuScenes(root=str(root), scenes="all")
    assert len(again) == 36 and cached[0].stat().st_mtime_ns == stamp  # the other scene was added
    assert np.array_equal(NuScenes(root=str(root), scenes="mini_train").read(0).boxes, first.boxes)
    assert len(NuScenes(root=str(root), scenes="all", cameras=("CAM_BACK",))) == 6


def test_a_stopped_conversion_goes_on(root, monkeypatch):
    from visloom.data.nuscenes import tables

    keep = tables._write_scene

    def stop(place, name, scene):
        if name == "scene-0103":
            raise KeyboardInterrupt
        keep(place, name, scene)

    monkeypatch.setattr(tables, "_write_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        len(NuScenes(root=str(root), scenes="all"))
    written = []
    monkeypatch.setattr(tables, "_write_scene", lambda *given: (written.append(given[1]), keep(*given)))
    assert len(NuScenes(root=str(root), scenes="all")) == 36
    assert written == ["scene-0103"]


def test_what_is_missing_is_listed_and_left_out(root):
    next((root / "samples" / "CAM_FRONT").glob("tiny0*")).unlink()
    next((root / "sweeps" / "RADAR_FRONT").glob("tiny0*")).unlink()
    source = NuScenes(root=str(root), scenes="mini_train")
    assert len(source) == 17
    (note,) = source.check()
    assert "CAM_FRONT" in note and "RADAR_FRONT" in note
    with pytest.raises(DataError, match=r"missing.*skip"):
        len(NuScenes(root=str(root), scenes="mini_train", missing="error"))


def test_a_damaged_sweep_is_a_note_or_an_error(root):
    for file in (root / "samples" / "RADAR_FRONT").glob("tiny0*"):
        file.write_bytes(file.read_bytes()[:-60])
    sample = NuScenes(root=str(root), scenes="mini_train").read(0)
    assert "truncated" in sample.notes[0] and len(sample.extra["radar"])
    with pytest.raises(DataError, match="truncated"):
        NuScenes(root=str(root), scenes="mini_train", missing="error").read(0)


def test_tables_that_cannot_be_used(root, tmp_path):
    with pytest.raises(DataError, match="no split 'nothing'"):
        len(NuScenes(root=str(root), scenes="nothing"))
    scenes = root / "v1.0-mini" / "scene.json"
    rows = json.loads(scenes.read_text())
    scenes.write_text(json.dumps([{**row, "name": f"scene-999{i}"} for i, row in enumerate(rows)]))
    with pytest.raises(DataError, match="none of the 700 scenes"):
        len(NuScenes(root=str(root), scenes="train"))
    scenes.write_text(json.dumps(rows))
    calibration = root / "v1.0-mini" / "calibrated_sensor.json"
    good = calibration.read_text()
    calibration.write_text(json.dumps([{**row, "rotation": [1, 1, 0, 0]} for row in json.loads(good)]))
    with pytest.raises(DataError, match=r"calibrated_sensor\.json.*no unit quaternion"):
        len(NuScenes(root=str(root), scenes="all"))
    calibration.write_text("[")
    with pytest.raises(DataError, match="no JSON"):
        len(NuScenes(root=str(root), scenes="all"))
    calibration.unlink()
    with pytest.raises(DataError, match=r"calibrated_sensor\.json.*missing"):
        len(NuScenes(root=str(root), scenes="all"))
    with pytest.raises(DataError, match="no such folder"):
        len(NuScenes(root=str(tmp_path / "nowhere")))
    shutil.rmtree(root / "v1.0-mini")
    with pytest.raises(DataError, match="one folder of tables"):
        len(NuScenes(root=str(root)))


def test_tables_that_do_not_fit_each_other(root):
    def broken(name, change):
        file = root / "v1.0-mini" / f"{name}.json"
        rows = json.loads(file.read_text())
        file.write_text(json.dumps(change(rows)))
        with pytest.raises(DataError) as caught:
            len(NuScenes(root=str(root), scenes="all"))
        file.write_text(json.dumps(rows))
        return str(caught.value)

    for name in ("sensor", "category", "instance", "attribute", "ego_pose", "calibrated_sensor"):
        said = broken(name, lambda rows: rows[1:])
        assert f"{name}.json has no record" in said and "another table names" in said, said
    assert "a record of scene scene-0061 has no field 'translation'" in broken(
        "ego_pose", lambda rows: [{k: v for k, v in row.items() if k != "translation"} for row in rows]
    )
    assert "no field 'sensor_token'" in broken(
        "calibrated_sensor",
        lambda rows: [{k: v for k, v in row.items() if k != "sensor_token"} for row in rows],
    )


def test_another_writers_names_are_kept_and_lead_nowhere(root):
    """Tokens may be longer than the 32 digits of nuScenes' own, and scenes may be called anything."""
    folder = root / "v1.0-mini"
    for file in folder.glob("*.json"):
        rows = json.loads(file.read_text())
        for row in rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else []:
            for key, value in row.items():
                if (key == "token" or key.endswith("_token") or key in ("prev", "next")) and value:
                    row[key] = f"{value}-of-another-writer"
                elif key.endswith("_tokens"):
                    row[key] = [f"{each}-of-another-writer" for each in value]
            if file.stem == "scene":
                row["name"] = f"../../{row['name']}"
        file.write_text(json.dumps(rows[::-1] if isinstance(rows, list) else rows))
    source = NuScenes(root=str(root), scenes="all")
    assert len(source) == 36 and source.token_of(0).endswith("-of-another-writer")
    assert len(source.read(0).boxes) and not list(root.parent.glob("*.npz"))


def test_returns_that_are_not_finite_are_left_out_and_noted(root):
    (file,) = sorted((root / "samples" / "RADAR_FRONT").glob("tiny0*"))[:1]
    whole = NuScenes(root=str(root), scenes="mini_train", sweeps=1).read(0)
    made = read_pcd(file).copy()
    which = np.flatnonzero(usable(made))[:2]
    made["vx_comp"][which[0]], made["y"][which[1]] = np.nan, np.inf
    write_pcd(file, made)
    sample = NuScenes(root=str(root), scenes="mini_train", sweeps=1).read(0)
    assert np.isfinite(sample.extra["radar"]).all()
    assert len(sample.extra["radar"]) == len(whole.extra["radar"]) - 2
    assert "2 of" in sample.notes[0] and file.name in sample.notes[0]


def test_boxes_whose_velocity_is_not_known_have_none(root):
    """An annotation without neighbours has no velocity: NaN, which the targets leave out."""
    place = root / "v1.0-mini" / "sample_annotation.json"
    rows = json.loads(place.read_text())
    place.write_text(json.dumps([{**row, "prev": "", "next": ""} for row in rows]))
    sample = NuScenes(root=str(root), scenes="mini_train").read(0)
    assert len(sample.boxes) and np.isnan(sample.extra["box_velocity"]).all()
    batch = Fusion3d().collate([Frame(size=(128, 224))(sample, 0).resolve()], None)
    assert batch.targets.valid.any() and not batch.targets.velocity_known.any()
    assert torch.isfinite(batch.targets.velocity).all()


@pytest.mark.parametrize("name", ["sample_annotation", "instance", "category", "attribute"])
def test_a_table_of_annotations_that_is_missing(root, name):
    """Pictures and radar can be predicted without it; under "error" it is missed; training and evaluation say so."""
    (root / "v1.0-mini" / f"{name}.json").unlink()
    source = NuScenes(root=str(root), scenes="mini_train")
    sample = source.read(0)
    assert len(source) == 18 and len(sample.extra["radar"]) and len(sample.boxes) == 0
    with pytest.raises(DataError, match=rf"v1.0-mini/{name}\.json is missing.*can be predicted"):
        source.check()
    with pytest.raises(DataError, match=rf"{name}\.json.*missing"):
        len(NuScenes(root=str(root), scenes="mini_train", missing="error"))


def test_poses_and_lists_of_scenes_that_cannot_be_used(root):
    poses = root / "v1.0-mini" / "ego_pose.json"
    good = poses.read_text()
    rows = json.loads(good)
    rows[3]["rotation"] = [2, 0, 0, 0]
    poses.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=rf"ego_pose\.json: 1 of .* {rows[3]['token']} first"):
        len(NuScenes(root=str(root), scenes="all"))
    rows[3]["rotation"] = [1, 0, 0]
    poses.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"ego_pose\.json: poses are a rotation"):
        len(NuScenes(root=str(root), scenes="all"))
    poses.write_text(good)
    (root / "v1.0-mini" / "splits.json").write_text(json.dumps({"mine": []}))
    with pytest.raises(DataError, match="none of the 0 scenes of split 'mine'"):
        len(NuScenes(root=str(root), scenes="mine"))
    (root / "v1.0-mini" / "scene.json").write_text("[]")
    with pytest.raises(DataError, match=r"scene\.json: the table lists no scene"):
        len(NuScenes(root=str(root), scenes="all"))


def test_a_scene_by_its_name(root):
    source = NuScenes(root=str(root), scenes="scene-0103")
    assert len(source) == 18 and source.part_name == "scene-0103"
    assert (
        source.elsewhere(str(root), "mini_train").token_of(0)
        == NuScenes(root=str(root), scenes="mini_train").read(0).extra["token"]
    )


def test_submissions_are_checked(tmp_path):
    file = tmp_path / "results.json"
    box = {
        "translation": [0, 0, 0], "size": [1, 1, 1], "rotation": [1, 0, 0, 0], "velocity": [0, 0],
        "detection_name": "car", "attribute_name": "vehicle.moving", "detection_score": 0.5,
    }  # fmt: skip

    def read(results):
        file.write_text(json.dumps({"results": results}))
        return read_submission(file, ["a", "b"], CLASSES, ATTRIBUTES)

    assert len(read({"a": [box], "b": []})["a"]) == 1
    with pytest.raises(DataError, match="incomplete: 1 of 2 moments"):
        read({"a": [box]})
    with pytest.raises(DataError, match="'a' has 501"):
        read({"a": [box] * 501, "b": []})
    with pytest.raises(DataError, match="cannot be read"):
        read({"a": [{**box, "detection_name": "horse"}], "b": []})
    with pytest.raises(DataError, match="center that is not finite"):
        read({"a": [{**box, "translation": [0, float("nan"), 0]}], "b": []})
    file.write_text("[]")
    with pytest.raises(DataError, match="no submission"):
        read_submission(file, ["a"], CLASSES, ATTRIBUTES)


def test_a_recipe_is_written_for_a_root(root, tmp_path):
    from visloom.config import load
    from visloom.newrecipe import write_new

    made = write_new(tmp_path / "mine.yaml", root)
    run = load(made.file)
    assert "nuScenes" in made.said[0] and run.train.source.scenes == "mini_train"
    assert run.evals["val"].stream.source.scenes == "mini_val" and run.train.batch < 18
