"""VOC's classification lists and annotations: labels with difficult objects as in mmclassification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visloom.cli import main
from visloom.config import load
from visloom.data.layout import recognise
from visloom.data.voc_labels import CLASSES, VocLabels
from visloom.errors import DataError


def annotation(objects: list[tuple[str, str | None]], size: str = "") -> str:
    entries = "".join(
        f"<object><name>{name}</name>{'' if hard is None else f'<difficult>{hard}</difficult>'}</object>"
        for name, hard in objects
    )
    return f"<annotation>{size}{entries}</annotation>"


SIZE = "<size><width>12</width><height>8</height><depth>3</depth></size>"
PICTURES = {
    "000001": annotation([("dog", "0"), ("dog", "1"), ("person", "1"), ("cat", None)], SIZE),
    "000002": annotation([("dog", "1"), ("dog", "0"), ("dog", "1"), ("unicorn", "0")], SIZE),
    "000003": annotation([], SIZE),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "VOCdevkit/VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (place / folder).mkdir(parents=True)
    for name, text in PICTURES.items():
        (place / f"Annotations/{name}.xml").write_text(text)
        Image.new("RGB", (12, 8), (200, 10, 10)).save(place / f"JPEGImages/{name}.jpg")
    (place / "ImageSets/Main/trainval.txt").write_text("000001\n000002\n\n000003\n")
    (place / "ImageSets/Main/test.txt").write_text("000003\n")
    return tmp_path


def test_labels(root: Path) -> None:
    source = VocLabels(root=str(root))
    assert len(CLASSES) == len(source.classes()) == 20
    assert len(source) == 3
    rows = [{source.names[i]: row[i] for i in np.flatnonzero(row)} for row in source.multilabels()]
    # one clear dog beside a difficult one counts; difficult alone is -1; no tag means not difficult
    assert rows == [{"cat": 1, "dog": 1, "person": -1}, {"dog": 1}, {}]
    sample = source.read(0)
    assert (sample.id, sample.label.dtype, sample.label.shape) == ("000001", np.float32, (20,))
    assert sample.image is not None
    assert sample.image.shape == (8, 12, 3)
    assert source.sizes().tolist() == [[8, 12]] * 3
    assert source.labels() is None
    notes = source.check()
    assert "unicorn (1)" in notes[1]
    assert "no picture of aeroplane" in notes[0]


def test_classes_of_ones_own(root: Path) -> None:
    source = VocLabels(root=str(root), names=("unicorn", "cat"))
    assert source.multilabels().tolist() == [[0, 1], [1, 0], [0, 0]]


def test_new_writes_a_recipe_for_three_pictures(root: Path, tmp_path: Path) -> None:
    assert main(["new", str(tmp_path / "voc.yaml"), "--data", str(root)]) == 0
    assert load(tmp_path / "voc.yaml").train.batch == 1


def test_a_folder_is_recognised(root: Path) -> None:
    found = recognise(root)
    assert found is not None
    assert found.kind == "PASCAL VOC, classes of pictures"
    assert {name: part.part for name, part in found.parts.items()} == {"train": "trainval", "val": "test"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Annotations/000002.xml", "<annotation><object>", "is no XML"),
        (
            "Annotations/000002.xml",
            annotation([("dog", "yes")]),
            "object 0 needs a name and difficult 0 or 1",
        ),
        ("Annotations/000002.xml", annotation([("", "0")]), "object 0 needs a name"),
        ("Annotations/000002.xml", None, "does not exist"),
        ("JPEGImages/000003.jpg", None, "has no 000003.jpg"),
        ("ImageSets/Main/trainval.txt", None, "trainval.txt: the list of samples is missing"),
        ("ImageSets/Main/trainval.txt", "000001\n000001 1\n", "names 000001 more than once"),
    ],
)
def test_what_is_wrong_is_told(root: Path, file: str, text: str | None, message: str) -> None:
    path = root / "VOCdevkit/VOC2007" / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(DataError) as caught:
        VocLabels(root=str(root)).check()
    assert message in str(caught.value)


def test_entities_cannot_fill_the_memory(root: Path) -> None:
    text = '<!DOCTYPE a [<!ENTITY x0 "aaaaaaaaaa">'
    text += "".join(f'<!ENTITY x{i} "{f"&x{i - 1};" * 10}">' for i in range(1, 12))
    path = root / "VOCdevkit/VOC2007/Annotations/000002.xml"
    path.write_text(text + "]><annotation><folder>&x11;</folder></annotation>")
    with pytest.raises(DataError, match=r"000002.xml: declares a document type"):
        VocLabels(root=str(root)).check()
