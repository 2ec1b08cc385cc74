"""The town: the same pictures everywhere, labels known without drawing, boxes and masks that agree with each other."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visloom.data.town import CLASSES, Streets, Town
from visloom.data.town.backdrop import Window
from visloom.data.town.render import render
from visloom.data.town.scene import NEAR, SURROUNDINGS, Camera, Scene, Thing, boxes, meshes
from visloom.data.town.street import make_scene
from visloom.data.town.world import SHARES

KEYS = st.integers(0, 2**64 - 1)


def fingerprint(town: Town, indices: list[int]) -> str:
    stacked = town.read_batch(np.array(indices))
    return hashlib.sha256(stacked.image.tobytes() + repr(stacked.ids).encode()).hexdigest()


# ---- the classification view


def test_a_picture_is_a_function_of_seed_part_and_index() -> None:
    town = Town(samples=40)
    assert fingerprint(town, [3, 17, 3]) == fingerprint(Town(samples=40), [3, 17, 3])
    alone = town.read(17)
    assert np.array_equal(alone.image, town.read_batch(np.array([17, 3])).image[0])
    assert (alone.id, alone.label) == ("train-000017", int(town.labels_all()[17]))
    assert fingerprint(Town(samples=900), [3, 17, 3]) == fingerprint(
        town, [3, 17, 3]
    )  # whatever the number of samples
    others = [Town(samples=40, part="val"), Town(samples=40, seed=1), Town(samples=40, size=40)]
    assert len({fingerprint(town, [3]), *(fingerprint(other, [3]) for other in others)}) == 4


def test_another_process_draws_the_same_picture() -> None:
    code = (
        "import hashlib, numpy as np; from visloom.data.town import Town; "
        "print(hashlib.sha256(Town(samples=9).read_batch(np.array([5, 8])).image.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image = Town(samples=9).read_batch(np.array([5, 8])).image
    assert done.stdout.strip() == hashlib.sha256(image.tobytes()).hexdigest()


def test_pictures_stay_what_they_are_from_version_to_version() -> None:
    """Mean colours of four pictures: loose enough for another cv2, too tight for another picture."""
    found = Town(samples=4).read_batch(np.arange(4)).image.mean((1, 2))
    expected = np.array(GOLDEN)
    assert np.abs(found - expected).max() < 1.0, found.round(1).tolist()


GOLDEN = [[142.8, 134.6, 131.4], [109.4, 98.3, 94.5], [54.6, 50.6, 59.7], [66.4, 75.7, 78.4]]


def test_labels_are_known_without_drawing_and_follow_the_shares() -> None:
    town = Town(samples=20_000)
    labels = town.labels_all()
    assert np.abs(np.bincount(labels, minlength=10) / 20_000 - SHARES).max() < 0.01
    assert sum(SHARES) == pytest.approx(1.0)
    assert town.classes() == CLASSES
    assert not town.opened().made.any()
    assert labels[:100].tolist() == Town(samples=100).labels_all().tolist()


def test_split_and_limit_draw_only_what_is_kept() -> None:
    town = dataclasses.replace(Town(samples=500), limit=3)
    assert len(town) == 3
    assert town.read_batch(np.arange(3)).ids == ("train-000000", "train-000001", "train-000002")
    assert town.opened().made.sum() == 3
    assert town.sizes() is not None


def test_the_source_travels_without_its_pictures() -> None:
    town = Town(samples=20)
    town.read(0)
    again = pickle.loads(pickle.dumps(town))
    assert again == town
    assert "_opened" not in again.__dict__
    assert repr(again) == "Town(train: 20 pictures 48x48, 10 classes)"


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="train, val or test"):
        Town(part="dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Town(samples=0)
    with pytest.raises(ValueError, match="16 to 2048"):
        Town(size=8)
    with pytest.raises(ValueError, match="16 to 2048"):
        Streets(width=5000)


@settings(max_examples=40, deadline=None)
@given(key=KEYS, kind=st.sampled_from(CLASSES))
def test_the_object_of_a_picture_can_be_seen(key: int, kind: str) -> None:
    scene = make_scene(key, kind)
    target = scene.things[scene.focus]
    assert target.kind == kind
    x0, y0, x1, y1 = boxes([target], scene.camera)[0]
    window = Window(x0 - 2, y0 - 2, x1 - x0 + 4, y1 - y0 + 4)
    alone = render(dataclasses.replace(scene, things=(target,), focus=0), key, window, (64, 64), ids=True).ids
    shown = render(scene, key, window, (64, 64), ids=True).ids
    assert alone is not None
    assert shown is not None
    whole, seen = (alone == 0).sum(), (shown == scene.focus).sum()
    assert whole > 100
    assert seen >= 0.3 * whole
    assert seen <= whole


def test_pictures_of_a_class_differ_and_none_is_flat() -> None:
    town = Town(samples=60)
    images = town.read_batch(np.arange(60)).image
    assert len({image.tobytes() for image in images}) == 60
    assert images.std((1, 2)).min() > 3
    assert images.dtype == np.uint8
    assert images.flags.c_contiguous


# ---- scenes and rendering


@settings(max_examples=20, deadline=None)
@given(key=KEYS)
def test_a_street_is_full_of_known_things_on_the_ground(key: int) -> None:
    scene = make_scene(key)
    assert scene.focus == -1
    assert {thing.kind for thing in scene.things} <= {*CLASSES, *SURROUNDINGS}
    assert all(0 <= thing.mesh < len(meshes(thing.kind)) for thing in scene.things)
    standing = [t for t in scene.things if t.kind not in ("sign", "light")]
    assert all(t.y == 0 for t in standing)
    assert all(min(t.width, t.height, t.length) > 0 for t in scene.things)
    assert make_scene(key) == scene


def street(*things: Thing, **camera: float) -> Scene:
    return dataclasses.replace(make_scene(1), camera=Camera(**camera), things=things)


def block(kind: str = "car", x: float = 0.0, z: float = 12.0, heading: float = 0.0, mesh: int = 0) -> Thing:
    return Thing(kind, mesh, x, 0.0, z, heading, 1.8, 1.5, 4.4, ((200.0, 40.0, 40.0),) * 4)


@pytest.mark.parametrize("heading", [0.0, 0.7, math.pi / 2, math.pi, 4.0])
@pytest.mark.parametrize("kind", ["car", "truck", "pedestrian"])
def test_box_and_mask_of_a_thing_agree(kind: str, heading: float) -> None:
    scene = street(block(kind, x=0.5, heading=heading))
    ids = render(scene, 0, ids=True).ids
    assert ids is not None
    rows, columns = np.nonzero(ids == 0)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(boxes(list(scene.things), scene.camera)[0] - found).max() < 1.6


def test_a_thing_projects_where_the_camera_says() -> None:
    camera = Camera(x=0.3, yaw=0.2, eye=1.4)
    foot = np.array([[1.0, 0.0, 9.0]])
    (u, v) = camera.pixels(camera.look(foot))[0]
    bearing = math.atan2(1.0 - 0.3, 9.0) - 0.2
    far = math.hypot(0.7, 9.0) * math.cos(bearing)
    assert u == pytest.approx(camera.centre + camera.focal * math.tan(bearing))
    assert v == pytest.approx(camera.horizon + camera.focal * 1.4 / far)


def test_the_nearer_thing_hides_the_farther_one() -> None:
    near, far = block("pedestrian", z=6.0), block("bus", z=20.0)
    for things in ((near, far), (far, near)):
        ids = render(street(*things), 0, ids=True).ids
        assert ids is not None
        front = things.index(near)
        x0, y0, x1, y1 = boxes([near], Camera())[0]
        assert ids[round((y0 + y1) / 2), round((x0 + x1) / 2)] == front
        assert (ids == 1 - front).any()


def test_solids_show_their_near_side() -> None:
    """A car seen from behind shows tail lamps, from the front it shows none."""
    red = {}
    for heading in (0.0, math.pi):
        car = block("car", z=7.0, heading=heading)._replace(paint=((90.0, 90.0, 90.0),) * 4)
        scene = street(car)
        clear = dataclasses.replace(
            scene.weather, dark=False, rain=0.0, snow=0.0, ambient=1.0, direct=0.0, visibility=1e6
        )
        shown = render(dataclasses.replace(scene, weather=clear), 0, ids=True)
        assert shown.ids is not None
        pixels = shown.image[shown.ids == 0].astype(int)
        red[heading] = (pixels[:, 0] > 2 * pixels[:, 1] + 20).sum()
    assert red[0.0] > 50
    assert red[math.pi] == 0


def test_a_window_is_the_same_part_of_the_whole() -> None:
    scene = street(block(x=0.4, heading=0.6))
    whole = render(scene, 0, ids=True).ids
    part = render(scene, 0, Window(240, 120, 160, 128), ids=True).ids
    assert whole is not None
    assert part is not None
    assert (whole[120:248, 240:400] == part).mean() > 0.999


def test_things_beside_and_behind_the_camera_do_no_harm() -> None:
    things = [
        block("house", x=x, z=z)._replace(width=12.0, height=9.0, length=9.0)
        for x in (-9, 9)
        for z in (-8, 0, 4)
    ]
    shown = render(street(*things, block(z=NEAR / 2), block(z=-5.0)), 0, ids=True)
    assert shown.ids is not None
    assert 0.05 < (shown.ids >= 0).mean() < 1.0
    empty = render(street(), 0, ids=True)
    assert empty.ids is not None
    assert (empty.ids == -1).all()


# ---- whole streets


@settings(max_examples=6, deadline=None)
@given(index=st.integers(0, 999), part=st.sampled_from(["train", "val"]))
def test_street_samples_are_sound_and_their_parts_agree(index: int, part: str) -> None:
    source = Streets(part=part)  # type: ignore[arg-type]
    sample = source.fetch(index)
    assert sample.problems() == []
    assert sample.image is not None
    assert sample.boxes is not None
    assert sample.labels is not None
    assert sample.image.shape == (192, 320, 3)
    assert sample.id == f"{part}-{index:06d}"
    thing, kind = sample.masks["thing"], sample.masks["class"]
    for i, (x0, y0, x1, y1) in enumerate(sample.boxes.astype(int)):
        inside = thing == i
        assert inside.sum() >= 20
        assert inside[y0:y1, x0:x1].sum() == inside.sum()
        assert (kind[inside] == sample.labels[i]).all()
    assert ((thing == -1) == (kind == -1)).all()
    for name in ("box_centre", "box_size", "box_heading"):
        assert len(sample.extra[name]) == len(sample.boxes)


def test_places_in_space_project_into_their_boxes() -> None:
    source = Streets(samples=20)
    checked = 0
    for index in range(12):
        sample = source.fetch(index)
        assert sample.boxes is not None
        assert sample.calib is not None
        for box, centre, size in zip(
            sample.boxes, sample.extra["box_centre"], sample.extra["box_size"], strict=True
        ):
            u, v, w = sample.calib @ np.append(centre, 1.0)
            slack = 0.6 * sample.calib[0, 0] * size.max() / w
            assert box[0] - slack <= u / w <= box[2] + slack
            assert box[1] - slack <= v / w <= box[3] + slack
            checked += 1
    assert checked > 40
