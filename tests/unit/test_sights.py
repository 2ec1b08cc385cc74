"""Sights: labels of the town agree with what is drawn, and a copy on disk in Broden+'s layout reads as the sights."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

from visloom.data.broden import Broden
from visloom.data.town import Sights
from visloom.data.town.backdrop import Window, regions
from visloom.data.town.broden_root import write_root
from visloom.data.town.labels import MATERIALS, OBJECTS, PARTS, SCENES, Labels, label, outputs
from visloom.data.town.render import render
from visloom.data.town.scene import Camera, Scene, Thing
from visloom.data.town.sights import look, sight
from visloom.data.town.street import WEATHERS, make_scene
from visloom.data.town.textures import TEXTURES, texture
from visloom.keys import fold, uniforms
from visloom.tasks.parse.broden import TEXTURES as DTD

SMALL = (48, 72)


def lone(kind: str, *, x: float = 0.0, z: float = 8.0, heading: float = 0.0, mesh: int = 0) -> Labels:
    """Labels of one large thing on an empty street, as the whole camera sees it."""
    size = {"car": (1.8, 1.5, 4.4), "house": (11.0, 8.0, 9.0)}.get(kind, (1.8, 1.75, 1.8))
    paint = ((200.0, 40.0, 40.0), (60.0, 60.0, 60.0), (220.0, 180.0, 150.0), (40.0, 30.0, 20.0))
    thing = Thing(kind, mesh, x, 0.0, z, heading, *size, paint)
    scene = dataclasses.replace(make_scene(1), camera=Camera(), things=(thing,))
    return labelled(scene, 0)


def labelled(scene: Scene, key: int) -> Labels:
    window = Window(0.0, 0.0, scene.camera.width, scene.camera.height)
    shown = render(scene, key, ids=True)
    return label(scene, shown, window, uniforms(fold(key, "pixels"), 16))


def part_of(found: Labels, thing: str, part: str) -> np.ndarray:
    inside = found.object == OBJECTS.index(thing)
    return inside & (found.part == 1 + PARTS[thing].index(part))


def made_of(found: Labels, material: str) -> np.ndarray:
    return found.material == MATERIALS.index(material)


def middle(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    assert len(rows) > 20
    return float(rows.mean()), float(columns.mean())


# ---- labels


def test_a_car_from_the_side_stands_on_its_wheels_under_its_windows():
    found = lone("car", heading=math.pi / 2)
    car = found.object == OBJECTS.index("car")
    wheels, windows = part_of(found, "car", "wheel"), part_of(found, "car", "window")
    assert middle(windows)[0] < middle(car)[0] < middle(wheels)[0]
    assert (made_of(found, "glass") & car)[windows].all()
    assert set(np.unique(found.material[wheels])) <= {MATERIALS.index(m) for m in ("-", "rubber", "metal")}
    assert made_of(found, "metal")[car].mean() > 0.3
    ends = [lone("car", heading=heading) for heading in (0.0, math.pi)]
    assert all(part_of(end, "car", "light").sum() > 20 for end in ends)
    assert part_of(found, "car", "light").sum() < 20


@pytest.mark.parametrize("mesh", range(12))
def test_a_person_has_a_head_above_a_torso_above_legs(mesh):
    found = lone("pedestrian", z=4.0, mesh=mesh)
    rows = [middle(part_of(found, "person", part))[0] for part in ("head", "torso", "leg")]
    assert rows == sorted(rows)
    head = part_of(found, "person", "head")
    assert not found.material[head].any()  # hair and skin are not labelled
    assert made_of(found, "fabric")[part_of(found, "person", "torso")].mean() > 0.9


@pytest.mark.parametrize("kind", ["cyclist", "motorbike"])
@pytest.mark.parametrize("mesh", [0, 4])
def test_who_rides_is_a_person(kind, mesh):
    found = lone(kind, z=4.0, mesh=mesh)
    rider, wheels = found.object == OBJECTS.index("person"), part_of(found, "two-wheeler", "wheel")
    assert middle(part_of(found, "person", "head"))[0] < middle(rider)[0] < middle(wheels)[0]
    assert made_of(found, "rubber")[wheels].any()


def test_walls_are_of_brick_or_painted_by_their_colour():
    red = lone("house", x=0.0, z=20.0, heading=math.pi)
    wall = (red.object == OBJECTS.index("building")) & (red.part == 0)
    assert made_of(red, "brick").sum() > 0.3 * wall.sum() and not made_of(red, "painted").any()
    assert middle(part_of(red, "building", "roof"))[0] < middle(part_of(red, "building", "door"))[0]
    assert part_of(red, "building", "window").any()


def test_the_backdrop_says_what_it_is():
    scene = dataclasses.replace(make_scene(1), camera=Camera(), things=())
    found = labelled(scene, 0)
    window = Window(0.0, 0.0, 640.0, 384.0)
    kinds = regions(scene, window, (384, 640), uniforms(fold(0, "pixels"), 16))
    assert [OBJECTS[o] for o in np.unique(found.object)] == ["sky", "building", "road", "sidewalk", "ground"]
    assert ((found.object == OBJECTS.index("road")) == (kinds == 2)).all()
    assert made_of(found, "asphalt")[kinds == 2].all() and made_of(found, "stone")[kinds == 3].all()
    assert not found.material[kinds < 2].any()
    cross = part_of(found, "road", "crosswalk")
    # where the camera sees z = crossing + 1 on the middle of the road
    row = scene.camera.horizon + scene.camera.focal * scene.camera.eye / (scene.street.crossing + 1.0)
    assert abs(middle(cross)[0] - row) < 4
    assert found.scene == list(WEATHERS).index(scene.weather.name)


def test_every_word_occurs_and_parts_lie_in_their_objects():
    words: dict[str, set[int]] = {"object": set(), "material": set(), "part": set(), "scene": set()}
    labels = [f"{name}: {part}" for name, parts in PARTS.items() for part in ("-", *parts)]
    for index in range(90):
        found = sight(fold(3, index), SMALL).labels
        numbers = outputs(found)
        assert found.object.min() > 0
        for i in np.unique(numbers[numbers >= 0]).tolist():
            assert {OBJECTS[o] for o in np.unique(found.object[numbers == i])} == {labels[i].split(":")[0]}
        words["object"] |= set(np.unique(found.object).tolist())
        words["material"] |= set(np.unique(found.material).tolist())
        words["part"] |= set(np.unique(numbers).tolist())
        words["scene"].add(found.scene)
    assert [OBJECTS[i] for i in range(1, len(OBJECTS)) if i not in words["object"]] == []
    assert [MATERIALS[i] for i in range(len(MATERIALS)) if i not in words["material"]] == []
    assert [s for i, s in enumerate(labels) if i not in words["part"]] == [
        "tree: -"
    ]  # trunk and crown are all of it
    assert len(words["scene"]) == len(SCENES) == len(WEATHERS)


# ---- the source


def test_a_sight_is_a_function_of_seed_part_records_and_index():
    source = Sights(samples=9, height=48, width=72)
    first = source.read(3)
    assert np.array_equal(first.image, Sights(samples=5, height=48, width=72).read(3).image)
    others = [dataclasses.replace(source, **change).read(3)
              for change in ({"part": "val"}, {"records": "materials"}, {"seed": 1})]  # fmt: skip
    assert len({sample.image.tobytes() for sample in (first, *others)}) == 4
    assert first.problems() == [] and first.id == "train-000003"
    assert first.extra["tasks"] == ("object", "part", "scene") and set(first.masks) == {"object", "part"}
    assert set(others[1].masks) == {"material"} and others[1].extra["labels"] == {}
    again = pickle.loads(pickle.dumps(source))
    assert again == source and repr(again) == "Sights(objects train: 9 pictures 48x72)"
    alone = dataclasses.replace(source, only=("scene",)).read(3)
    assert np.array_equal(alone.image, first.image) and not alone.masks
    assert alone.extra == {"tasks": ("scene",), "labels": first.extra["labels"]}


def test_pictures_stay_what_they_are_from_version_to_version():
    """Mean colours and label counts: loose enough for another cv2, too tight for another picture."""
    found = [sight(fold(7, index), SMALL) for index in range(3)]
    means = np.array([seen.image.mean((0, 1)) for seen in found])
    assert np.abs(means - GOLDEN).max() < 1.0, means.round(1).tolist()
    largest = [OBJECTS[int(np.bincount(seen.labels.object.ravel()).argmax())] for seen in found]
    assert (largest, [seen.labels.scene for seen in found]) == (LARGEST, SEEN)


GOLDEN = np.array([[90.5, 86.2, 82.6], [134.5, 136.7, 117.5], [148.3, 139.6, 146.8]])
LARGEST, SEEN = ["building", "large vehicle", "road"], [0, 0, 2]


def test_the_window_shows_the_thing_that_is_looked_at():
    for index in range(12):
        scene, window = look(fold(5, index))
        assert window.width == pytest.approx(window.height * 3 / 2)
        if scene.focus >= 0:
            ids = render(scene, 0, window, SMALL, ids=True).ids
            assert ids is not None and (ids == scene.focus).sum() > 60


def test_a_square_picture_is_no_squeezed_one():
    """The window has the picture's shape, so a wheel stays round."""
    for index in range(8):
        _, window = look(fold(5, index), 1.0)
        assert window.width == pytest.approx(window.height)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="objects, materials, textures"):
        Sights(records="scenes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only: material is none of what objects label: object, part, scene"):
        Sights(only=("material",))


# ---- textures


def test_each_texture_has_a_look_of_its_own():
    """What repeats along the pattern's own axes differs from word to word, whatever the paint."""
    shares = {word: [] for word in TEXTURES}
    for word in TEXTURES:
        for number in range(6):
            gray = texture(fold(3, word, number), word, (64, 64)).astype(float).mean(2)
            light = gray > (gray.min() + gray.max()) / 2
            down, across = (np.abs(np.diff(light.astype(int), axis=axis)).sum() for axis in (0, 1))
            shares[word].append((down / max(1, across), light.mean()))
    middle = {word: np.median(np.array(found), 0) for word, found in shares.items()}
    assert middle["banded"][0] < 0.5 < middle["chequered"][0] < 2  # bands cross rows, not columns
    assert middle["flecked"][1] < middle["chequered"][1]
    one, other = (texture(key, "dotted", (64, 64)) for key in (1, 2))
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert np.array_equal(one, texture(1, "dotted", (64, 64))) and np.abs(one.astype(int) - other).mean() > 10


def test_textures_are_words_of_dtd_and_all_occur():
    assert set(TEXTURES) <= set(DTD)
    source = Sights(records="textures", samples=60, height=32, width=32)
    samples = [source.read(i) for i in range(60)]
    assert {sample.extra["labels"]["texture"] for sample in samples} == set(range(len(TEXTURES)))
    assert samples[0].masks == {} and samples[0].extra["tasks"] == ("texture",)


# ---- on disk


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    splits = {
        split: {
            records: Sights(records=records, part=part, samples=6, height=48, width=72)
            for records in ("objects", "materials", "textures")
        }
        for split, part in (("train", "train"), ("validation", "val"))
    }
    return write_root(tmp_path_factory.mktemp("broden"), splits), splits


@pytest.mark.parametrize("records", ["objects", "materials", "textures"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_root_on_disk_reads_as_the_sights(written, records, split):
    """Every source of Broden+ in its own files: ADE20K, Pascal (which knows no scenes), OpenSurfaces and DTD."""
    root, splits = written
    source = Broden(root=str(root), records=records, part=split)
    made = splits[split][records]
    assert source.check() == [] and len(source) == 6
    seen = set()
    for index in range(6):
        stored, own = source.read(index), made.read(index)
        seen.add(stored.id.partition("/")[0])
        assert set(stored.masks) == set(own.masks)
        for name, mask in own.masks.items():
            assert np.array_equal(stored.masks[name], mask), name
        unknown = {"scene": -1} if stored.id.startswith("pascal") else own.extra["labels"]
        assert stored.extra == {**own.extra, "labels": unknown}
        assert np.abs(stored.image.astype(int) - own.image).mean() < 6  # JPEG
    assert seen == {"objects": {"ade20k", "pascal"}, "materials": {"os"}, "textures": {"dtd"}}[records]


def test_the_tables_on_disk_are_those_of_the_town(written):
    source = Broden(root=str(written[0]))
    tables = source.opened()
    assert tables.names["object"] == OBJECTS and tables.names["material"] == MATERIALS
    assert tables.names["texture"] == TEXTURES
    assert [(OBJECTS[label], start, len(parts) - 1) for label, start, parts in tables.outputs] == [
        (name, sum(1 + len(p) for p in list(PARTS.values())[:i]), len(parts))
        for i, (name, parts) in enumerate(PARTS.items())
    ]


def test_pascal_can_be_left_out(tmp_path):
    made = {"objects": Sights(samples=4, height=32, width=32)}
    root = write_root(tmp_path, {"train": made, "validation": made}, every_pascal=0)
    assert not (root / "pascal").exists()
    assert len(Broden(root=str(root), datasets=("ade20k",))) == 4


def test_only_some_tasks_of_a_list_are_read(written):
    source = Broden(root=str(written[0]), datasets=("ade20k",), only=("scene",))
    assert source.read(0).masks == {} and source.read(0).extra["tasks"] == ("scene",)
    assert source.labelled() == {"scene": SCENES}
    objects = dataclasses.replace(source, only=("object", "part")).read(0)
    assert set(objects.masks) == {"object", "part"} and objects.extra["labels"] == {}
    with pytest.raises(ValueError, match="only: texture is none of what objects label"):
        Broden(only=("texture",))
