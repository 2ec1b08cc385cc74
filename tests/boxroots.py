"""Small data roots with boxes, in exactly the layouts that readers know."""

from __future__ import annotations

import json
from pathlib import Path

from tests.segroots import photo

SIZE = (30, 40)  # height, width
THINGS = [("cat", (4, 5, 20, 25)), ("dog", (10, 2, 38, 28))]  # name and corners of what every picture shows


def xml(objects, size=SIZE, filename="", extra="") -> str:
    """An annotation in VOC's form: objects are (name, corners) or (name, corners, difficult)."""
    entries = ""
    for name, box, *hard in objects:
        corners = "".join(
            f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        mark = f"<difficult>{hard[0]}</difficult>" if hard else ""
        entries += f"<object><name>{name}</name>{mark}<bndbox>{corners}</bndbox></object>"
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{sides}{entries}{extra}</annotation>"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def voc_xml(root: Path, count=6, things=THINGS, lists=True) -> Path:
    for i in range(count):
        photo(root / "JPEGImages" / f"{i:06d}.jpg", i, SIZE)
        write(root / "Annotations" / f"{i:06d}.xml", xml(things))
    if lists:
        cut = count - max(1, count // 3)
        names = [f"{i:06d}" for i in range(count)]
        write(root / "ImageSets/Main/train.txt", "\n".join(names[:cut]))
        write(root / "ImageSets/Main/val.txt", "\n".join(names[cut:]))
    return root


def coco_json(images, annotations, names=("cat", "dog"), ids=None) -> dict:
    ids = ids or range(1, len(names) + 1)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)],
    }


def image(number, name, size=SIZE) -> dict:
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def thing(number, picture, category, box, **more) -> dict:
    return {"id": number, "image_id": picture, "category_id": category, "bbox": list(box), **more}


def coco(root: Path, count=4, parts=("train", "val"), ids=None) -> Path:
    """annotations/instances_PART.json with PART/*.jpg."""
    numbers = ids or (1, 2)
    for part in parts:
        pictures, things = [], []
        for i in range(count):
            photo(root / part / f"{part}{i}.jpg", i, SIZE)
            pictures.append(image(10 + i, f"{part}{i}.jpg"))
            for number, (_, (x0, y0, x1, y1)) in zip(numbers, THINGS, strict=True):
                things.append(thing(len(things) + 1, 10 + i, number, (x0, y0, x1 - x0, y1 - y0)))
        data = coco_json(pictures, things, ids=numbers)
        write(root / "annotations" / f"instances_{part}.json", json.dumps(data))
    return root


def yolo(root: Path, count=4, table="names: [cat, dog]\n") -> Path:
    """data.yaml with images/PART/*.jpg and labels/PART/*.txt."""
    write(root / "data.yaml", table)
    lines = []
    for label, (_, (x0, y0, x1, y1)) in enumerate(THINGS):
        shares = ((x0 + x1) / 2 / 40, (y0 + y1) / 2 / 30, (x1 - x0) / 40, (y1 - y0) / 30)
        lines.append(" ".join(map(str, (label, *shares))))
    for part in ("train", "val"):
        for i in range(count):
            photo(root / "images" / part / f"{i}.jpg", i, SIZE)
            write(root / "labels" / part / f"{i}.txt", "\n".join(lines))
    return root


def table(root: Path, count=6, head="filename,xmin,ymin,xmax,ymax,class") -> Path:
    """annotations.csv with images/*.jpg."""
    lines = [head] if head else []
    for i in range(count):
        photo(root / "images" / f"{i}.jpg", i, SIZE)
        lines += [f"{i}.jpg,{','.join(map(str, box))},{name}" for name, box in THINGS]
    write(root / "annotations.csv", "\n".join(lines))
    return root


def kitti(root: Path, lines, count=2) -> Path:
    for i in range(count):
        photo(root / "training/image_2" / f"{i:06d}.png", i, SIZE)
        write(root / "training/label_2" / f"{i:06d}.txt", "\n".join(lines))
    return root


def cityscapes(root: Path, objects, betas=(), part="train", frame=19, size=SIZE, deleted=()) -> Path:
    """One picture of a city, with polygons, clear and in fog of some densities; deleted: indices of objects."""
    name = f"ulm_000000_{frame:06d}"
    photo(root / "leftImg8bit" / part / "ulm" / f"{name}_leftImg8bit.png", 0, size)
    for beta in betas:
        fog = root / "leftImg8bit_foggy" / part / "ulm" / f"{name}_leftImg8bit_foggy_beta_{beta}.png"
        photo(fog, 1, size)
    data = {
        "imgHeight": size[0],
        "imgWidth": size[1],
        "objects": [
            {"label": label, "polygon": polygon, **({"deleted": 1} if i in deleted else {})}
            for i, (label, polygon) in enumerate(objects)
        ],
    }
    write(root / "gtFine" / part / "ulm" / f"{name}_gtFine_polygons.json", json.dumps(data))
    return root
