"""Data roots in nuScenes' form that other programs wrote: legal, and not as nuScenes writes them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visloom.cli import main
from visloom.data.nuscenes.pcd import DTYPE, FIELDS, read_pcd, write_pcd
from visloom.data.nuscenes.source import NuScenes
from visloom.data.town.rides import Rides
from visloom.data.town.root import VERSION, write_root
from visloom.errors import DataError
from visloom.tasks.fusion3d import Fusion3d

PARTS = {
    "train": Rides(part="train", rides=2, moments=2, height=64, width=128),
    "val": Rides(part="val", rides=1, moments=1, height=64, width=128),  # a scene of one moment
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("plain") / "root", PARTS)


@pytest.fixture
def other(plain, tmp_path):
    return rewritten(plain, tmp_path / "other")


def tables_of(root: Path) -> dict[str, list]:
    return {file.stem: json.loads(file.read_text()) for file in (root / VERSION).glob("*.json")}


def ascii_pcd(file: Path, returns: np.ndarray) -> None:
    """Text, with one more field and one less than nuScenes has."""
    kept = [name for name in FIELDS if name != "pdh0"]
    kinds = ["F" if DTYPE[name].kind == "f" else "I" for name in kept]
    sizes = [str(DTYPE[name].itemsize) for name in kept]
    rows = [" ".join([*(repr(each[name].item()) for name in kept), "0.5"]) for each in returns]
    head = [
        "# made by hand", "VERSION 0.7", f"FIELDS {' '.join(kept)} snr", f"SIZE {' '.join(sizes)} 4",
        f"TYPE {' '.join(kinds)} F", f"COUNT {' '.join('1' for _ in range(len(kept) + 1))}", f"WIDTH {len(rows)}",
        "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {len(rows)}", "DATA ascii",
    ]  # fmt: skip
    file.write_text("\r\n".join([*head, *rows, ""]))


def rewritten(root: Path, to: Path) -> Path:
    """The same root by another writer.

    Tokens of other lengths, records in any order and with more keys, files in folders of their own, JPEG of the best
    quality, radar as text, sweeps between keyframes that do not reach back to the beginning of a scene.
    """
    draws, tables = random.Random(3), tables_of(root)
    splits = tables.pop("splits")
    names = [row["token"] for rows in tables.values() for row in rows]
    tokens = {name: f"{'x' * (i % 7)}-{i}" for i, name in enumerate(dict.fromkeys(names))}
    scene_of = {row["token"]: row["scene_token"] for row in tables["sample"]}
    number = {row["token"]: str(i) for i, row in enumerate(tables["scene"])}
    last: dict[tuple, int] = {}
    for row in list(tables["sample_data"]):
        source = root / row["filename"]
        channel = source.parent.name
        place = number[scene_of[row["sample_token"]]], channel
        count = last[place] = last.get(place, -1) + 1
        ending = {".png": ".jpg", ".pcd": ".pcd", ".bin": ".bin"}[source.suffix]
        row["filename"] = f"drives/{place[0]}/{channel}/{count:06d}{ending}"
        file = to / row["filename"]
        file.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".jpg":
            Image.open(source).save(file, quality=100, subsampling=0)
            row |= {"height": None, "width": None}
        elif ending == ".pcd":
            returns = read_pcd(source)
            (ascii_pcd if len(returns) else write_pcd)(file, returns)
            if row["prev"]:  # a sweep between this keyframe and the one before, none before the first
                between = {**row, "token": row["token"] + "-", "is_key_frame": False, "next": row["token"]}
                between |= {
                    "timestamp": row["timestamp"] - 70_000,
                    "filename": f"{file.parent.name}-{place[0]}-{count}.pcd",
                }
                write_pcd(to / between["filename"], returns[:1])
                row["prev"] = between["token"]
                tokens[between["token"]] = f"sweep {len(tokens)}"
                tables["sample_data"].append(between)
    for rows in tables.values():
        for row in rows:
            for key, value in row.items():
                if key == "token" or key.endswith("_token") or key in ("prev", "next"):
                    row[key] = tokens.get(value, value)
                elif key.endswith("_tokens"):
                    row[key] = [tokens[each] for each in value]
            row["remark"] = {"by": "another writer"}
        draws.shuffle(rows)
    tables["category"].append({"token": "none", "name": "vehicle.spaceship"})
    tables["sensor"].append({"token": "cam9", "channel": "CAM_ROOF", "modality": "camera"})
    (to / VERSION).mkdir()
    for name, rows in [*tables.items(), ("splits", splits)]:
        (to / VERSION / f"{name}.json").write_text(json.dumps(rows, indent=1))
    return to


def test_it_reads_as_the_plain_one(plain, other):
    for split, count in (("train", 24), ("val", 6)):
        mine, theirs = (NuScenes(root=str(root), scenes=split, sweeps=1) for root in (plain, other))
        assert len(theirs) == count and theirs.check() == []
        places = [(s.extra["token"], s.extra["camera"]) for s in map(theirs.read, range(count))]
        assert len({token for token, _ in places}) == count // 6 and len(set(places)) == count
        assert (
            len({theirs.read(i).id for i in range(count)}) == count
        )  # though files are called 000000 everywhere
        found = {
            tuple(np.round(theirs.read(i).extra["pose"].ravel(), 6)): theirs.read(i) for i in range(count)
        }
        for i in range(count):
            expected = mine.read(i)
            sample = found[tuple(np.round(expected.extra["pose"].ravel(), 6))]
            assert np.abs(sample.image.astype(int) - expected.image).max() < 12
            assert np.array_equal(np.sort(sample.labels), np.sort(expected.labels))
            order, same = (np.lexsort(s.boxes.T) for s in (sample, expected))
            assert np.allclose(sample.boxes[order], expected.boxes[same])
            for name in ("box_center", "box_velocity", "box_yaw"):
                assert np.allclose(sample.extra[name][order], expected.extra[name][same], equal_nan=True), (
                    name
                )
            assert np.allclose(sample.extra["radar"], expected.extra["radar"], atol=1e-4)
            assert len(sample.extra["truth"].boxes) == len(expected.extra["truth"].boxes)


def test_sweeps_reach_back_as_far_as_there_are_some(other):
    one, two, many = (NuScenes(root=str(other), scenes="train", sweeps=n) for n in (1, 2, 12))
    counts = np.array(
        [[len(source.read(i).extra["radar"]) for source in (one, two, many)] for i in range(24)]
    )
    ages = [set(np.round(many.read(i).extra["radar"][:, 6].astype(float), 3).tolist()) for i in range(24)]
    assert (counts[:, 0] <= counts[:, 1]).all() and (counts[:, 1] < counts[:, 2]).any()
    assert {0.0, 0.07, 0.5} in ages and {0.0} in ages  # the second moment of a scene, the first one


def test_a_scene_of_one_moment_knows_no_velocity(other):
    sample = NuScenes(root=str(other), scenes="val").read(0)
    assert len(sample.boxes) and np.isnan(sample.extra["box_velocity"]).all()


def test_nobody_annotated_anything(other):
    """Tables of annotations that are there and empty: nothing is there to be found, and no score can be given."""
    for name in ("sample_annotation", "instance"):
        (other / VERSION / f"{name}.json").write_text("[]")
    source = NuScenes(root=str(other), scenes="train")
    assert source.check() == [] and len(source) == 24 and len(source.read(0).boxes) == 0
    spec = Fusion3d()
    metric = spec.metrics()["nds"]
    metric.merge([({}, {"t": source.read(0).extra["truth"]})])
    assert np.isnan(metric.compute()["nds"]) and metric.tables() == {}


def test_what_is_unpacked_later_is_found(other):
    """The cache remembers what was missing; another archive may bring it."""
    camera, radar = other / "drives/0/CAM_BACK", other / "drives/1/RADAR_FRONT"
    for place in (camera, radar):
        place.rename(place.with_name("away-" + place.name))
    source = NuScenes(root=str(other), scenes="train", sweeps=1)
    assert len(source) == 22 and "4 files are missing" in source.check()[0]
    assert len(NuScenes(root=str(other), scenes="train", sweeps=1)) == 22  # from the cache
    for place in (camera, radar):
        place.with_name("away-" + place.name).rename(place)
    again = NuScenes(root=str(other), scenes="train", sweeps=1)
    assert len(again) == 24 and again.check() == []


def test_what_is_wrong_is_named(other):
    def broken(name, change):
        file = other / VERSION / f"{name}.json"
        whole = file.read_text()
        file.write_text(json.dumps(change(json.loads(whole))))
        with pytest.raises(DataError) as caught:
            len(NuScenes(root=str(other), scenes="all"))
        file.write_text(whole)
        return str(caught.value)

    said = broken("scene", lambda rows: [{**row, "name": "one"} for row in rows])
    assert "scene.json" in said and "one is there twice" in said
    said = broken("calibrated_sensor", lambda rows: [{**row, "camera_intrinsic": []} for row in rows])
    assert "calibrated_sensor.json" in said and "camera_intrinsic" in said
    file = other / "drives/0/RADAR_FRONT/000000.pcd"
    text = file.read_text()
    file.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(DataError, match=r"000000\.pcd.*truncated"):
        read_pcd(file)
    file.write_text(text.replace(" 0.5", " half"))
    with pytest.raises(DataError, match=r"000000\.pcd: return 1 is not 18 numbers"):
        read_pcd(file)
    file.write_text(text.replace("DATA ascii", "DATA binary_compressed"))
    with pytest.raises(DataError, match="binary or ascii, this one is binary_compressed"):
        read_pcd(file)


@pytest.mark.nightly
def test_it_trains_and_predicts_from_the_command_line(other, tmp_path):
    out = tmp_path / "runs"
    recipe = ["nuscenes:mini", "train.source.scenes=train", "evals.val.stream.source.scenes=val"]
    tiny = [
        "task.net.channels=[8,8,8,16,16,16]", "task.net.levels=[1,1,1,1,1,1]", "task.net.up=conv3", "task.hidden=8",
        "train.transform.1.size=[64,128]", "evals.val.stream.transform.0.size=[64,128]", "train.batch=4",
        "evals.val.stream.batch=6", "length=steps:2", "host.device=cpu", "host.workers=0",
    ]  # fmt: skip
    assert main(["train", *recipe, "--data", str(other), "--out", str(out), *tiny]) == 0
    (run,) = out.iterdir()
    answer = tmp_path / "answer"
    assert main(["predict", str(run), str(other), "--part", "all", "--out", str(answer)]) == 0
    results = json.loads((answer / "results.json").read_text())["results"]
    assert len(results) == 5 and len(list(answer.rglob("*.png"))) == 5
    shutil.rmtree(answer)
