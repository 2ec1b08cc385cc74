"""A small Broden+ on disk, in exactly the published layouts: eight rendered pictures and the real label tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (48, 64)


def write(root: Path, meta: Path, real: Path) -> None:
    """Write ROOT and META. real: the original's meta_file, whose tables are copied; record lists are short ones."""
    joint = meta / "joint_dataset"
    joint.mkdir(parents=True)
    for path in (real / "joint_dataset").glob("*.csv"):
        shutil.copy(path, joint / path.name)
    for folder in ("pascal", "opensurfaces"):
        shutil.copytree(real / folder, meta / folder)
    _ade(root / "ade20k", meta / "ade20k")
    _pascal(root / "pascal")
    _opensurfaces(root / "opensurfaces")
    _dtd(root / "dtd" / "dtd-r1.0.1" / "images", meta / "dtd")
    for name, rows in {
        "joint_dataset/broden_ade20k_pascal_train.json": [("ade20k", 0), ("pascal", 1), ("ade20k", 1)],
        "joint_dataset/broden_ade20k_pascal_val.json": [("pascal", 0)],
        "joint_dataset/broden_os_train.json": [("os", 0)],
        "joint_dataset/broden_os_val.json": [("os", 1)],
        "dtd/dtd_training_list.json": [("dtd", 1)],
        "dtd/dtd_validation_list.json": [("dtd", 0)],
    }.items():
        lines = [
            json.dumps({"dataset": d, "file_index": i, "height": SIZE[0], "width": SIZE[1]}) for d, i in rows
        ]
        (meta / name).write_text("\n".join(lines) + "\n")


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[0] // 8, SIZE[1] // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(path)


def ade_colours(classes: np.ndarray) -> np.ndarray:
    """ADE20K's colours of class numbers: red // 10 * 256 + green; blue is the instance."""
    return np.stack([classes // 256 * 10, classes % 256, np.full_like(classes, 7)], 2).astype(np.uint8)


# raw labels of ADE20K, as label_assignment.csv names them
PERSON, SKY = 1831, 2420
LEFT_LEG, HEAD = 1431, 1206


def _ade(root: Path, meta: Path) -> None:
    meta.mkdir(parents=True)
    folder = "ADE20K_2016_07_26/images/training/a/abbey"
    stems = ("ADE_train_00000001", "ADE_train_00000002")
    index = {
        "filename": np.array([f"{s}.jpg" for s in stems], object),
        "folder": np.array([folder] * 2, object),
    }
    savemat(meta / "index_ade20k.mat", {"index": index})
    (meta / "scene_categories.txt").write_text(f"{stems[0]} abbey\n{stems[1]} misc\n")
    for number, stem in enumerate(stems):
        _picture(root / folder / f"{stem}.jpg", number)
        classes = np.zeros(SIZE, np.int64)
        classes[:24] = SKY
        classes[24:, :32] = PERSON
        Image.fromarray(ade_colours(classes)).save(root / folder / f"{stem}_seg.png")
    parts = np.zeros(SIZE, np.int64)
    parts[40:, :16] = LEFT_LEG
    parts[24:30, :8] = HEAD
    parts[:10, :10] = HEAD  # on the sky, which has no such part
    Image.fromarray(ade_colours(parts)).save(root / folder / f"{stems[0]}_parts_1.png")


def _pascal(root: Path) -> None:
    for number, stem in enumerate(("2008_000002", "2008_000003")):
        _picture(root / "VOC2010" / "JPEGImages" / f"{stem}.jpg", 10 + number)
        context = root / "context" / "trainval" / f"{stem}.mat"
        context.parent.mkdir(parents=True, exist_ok=True)
        classes = np.full(SIZE, 59, np.uint16)
        classes[20:40, 10:40] = 2  # aeroplane
        savemat(context, {"LabelMap": classes})
        parts = root / "part" / "Annotations_Part" / f"{stem}.mat"
        parts.parent.mkdir(parents=True, exist_ok=True)
        savemat(parts, {"anno": _annotation() if number else {"objects": np.zeros((1, 0))}})


def _annotation() -> dict:
    """One aeroplane with a left wing and an engine, as PASCAL-Part stores it."""
    whole, wing, engine = (np.zeros(SIZE, np.uint8) for _ in range(3))
    whole[20:40, 10:40] = 1
    wing[22:26, 12:30] = 1
    engine[24:30, 28:36] = 1  # later parts lie over earlier ones
    parts = np.zeros((1, 2), [("part_name", object), ("mask", object)])
    parts[0, 0] = ("lwing", wing)
    parts[0, 1] = ("engine_2", engine)
    things = np.zeros((1, 1), [("class", object), ("class_ind", object), ("mask", object), ("parts", object)])
    things[0, 0] = ("aeroplane", 1, whole, parts)
    return {"imname": "2008_000003", "objects": things}


def _opensurfaces(root: Path) -> None:
    for number, photo in enumerate((4711, 88)):
        _picture(root / "photos" / f"{photo}.jpg", 20 + number)
        red = np.zeros((*SIZE, 3), np.uint8)
        red[:, 8:20, 0] = 1  # brick
        red[:, 20:30, 0] = 2  # cardboard
        (root / "photos-labels").mkdir(exist_ok=True)
        Image.fromarray(red).save(root / "photos-labels" / f"{photo}.png")
    (root / "photos.csv").write_text("photo_id,scene_category_name\n4711,kitchen\n88,bathroom\n")


def _dtd(images: Path, meta: Path) -> None:
    meta.mkdir(parents=True)
    files = ("banded/banded_0002.jpg", "woven/woven_0001.jpg")
    for number, file in enumerate(files):
        _picture(images / file, 30 + number)
    (meta / "labels_joint_anno.txt").write_text(
        "banded/banded_0002.jpg banded woven \nwoven/woven_0001.jpg woven \n"
    )
