"""Data sets by the names that old configs use, below the folder that was `datasets/` there: `visloom train --data DIR`.

The originals' paths_catalog, with the fork's names. What a name says of classes is used where it is known, so that
predictions have words and not numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from visloom.data.box_source import BoxSource
from visloom.data.cityscapes_boxes import CLASSES as STREETS
from visloom.data.cityscapes_boxes import CityscapesBoxes
from visloom.data.coco import Coco
from visloom.data.voc_labels import CLASSES as VOC
from visloom.data.voc_xml import VocXml
from visloom.data.wrappers import Concat

_WATERCOLOR = ("bicycle", "bird", "cat", "car", "dog", "person")


class Known(NamedTuple):
    """A data set. classes: () where its file says them."""

    source: Any
    classes: tuple[str, ...]


_RULES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    # name, file, folder of pictures, classes; \1 is the part or year
    (r"coco_(\d{4})_(train|val)", r"coco/annotations/instances_\2\1.json", r"coco/\2\1", ()),
    (
        r"coco_2014_(minival|valminusminival)",
        r"coco/annotations/instances_\g<1>2014.json",
        "coco/val2014",
        (),
    ),
    (
        r"keypoints_coco_(\d{4})_(train|val)",
        r"coco/annotations/person_keypoints_\2\1.json",
        r"coco/\2\1",
        ("person",),
    ),
    (
        r"keypoints_coco_2014_(minival|valminusminival)",
        r"coco/annotations/person_keypoints_\g<1>2014.json",
        "coco/val2014",
        ("person",),
    ),
    (
        r"voc_(20\d\d)_(train|val|test)_cocostyle",
        r"voc/VOC\1/Annotations/pascal_\2\1.json",
        r"voc/VOC\1/JPEGImages",
        VOC,
    ),
    (
        r"voc_(20\d\d)_(train|val)_watercolor_cocostyle",
        r"voc/annotations/pascal_\2\1.json",
        r"voc/VOC\1/JPEGImages",
        _WATERCOLOR,
    ),
    (
        r"cityscapes_fine_instanceonly_seg_(train|val|test)_cocostyle",
        r"cityscapes/annotations/instancesonly_filtered_gtFine_\1.json",
        "cityscapes/images",
        STREETS,
    ),
    (
        r"foggy_cityscapes_fine_instanceonly_seg_(train|val)_cocostyle",
        r"foggy_cityscapes/annotations/foggy_instancesonly_filtered_gtFine_\1.json",
        "foggy_cityscapes/images",
        STREETS,
    ),
    (
        r"cityscapes_car_(train|val)_cocostyle",
        r"cityscapes/annotations/caronly_filtered_gtFine_\1.json",
        "cityscapes/images",
        ("car",),
    ),
    (r"kitti_cocostyle", "kitti/annotations/caronly_training.json", "kitti/training/image_2", ("car",)),
    (r"sim10k_cocostyle", "sim10k/car_instances.json", "sim10k/JPEGImages", ("car",)),
    (r"clipart_cocostyle", "clipart/instances.json", "clipart/JPEGImages", VOC),
    (r"watercolor_train_cocostyle", "watercolor/instances_train.json", "watercolor/JPEGImages", _WATERCOLOR),
    (r"watercolor_val_cocostyle", "watercolor/instances_test.json", "watercolor/JPEGImages", _WATERCOLOR),
)


def known(names: Sequence[str], *, masks: bool, keypoints: bool, training: bool) -> Known | None:
    """The data set of some names, one after the other; None if one of them is not known.

    training: leave out pictures without boxes, as the original does.
    """
    found = [_one(name, masks, keypoints, training) for name in names]
    parts = [each for each in found if each is not None]
    if not parts or len(parts) < len(found):
        return None
    source = parts[0].source if len(parts) == 1 else Concat(parts=tuple(each.source for each in parts))
    return Known(source, parts[0].classes)


def _one(name: str, masks: bool, keypoints: bool, training: bool) -> Known | None:
    for pattern, file, images, classes in _RULES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            source = Coco(
                file=match.expand(file),
                images=match.expand(images),
                masks=masks,
                keypoints=keypoints,
                annotated=training,
            )
            return Known(source, classes)
    match = re.fullmatch(r"voc_(20\d\d)_(train|val|test)", name)
    if match is not None:
        return Known(VocXml(root=f"voc/VOC{match[1]}", part=match[2], names=VOC), VOC)
    match = re.fullmatch(r"cityscapes_(?:poly|mask)_instance_(train|val)", name)
    if match is not None:
        part: Any = match[1]
        streets: BoxSource = CityscapesBoxes(root="cityscapes", part=part, masks=masks)
        return Known(streets, STREETS)
    return None
