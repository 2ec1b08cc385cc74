"""Every named part of an original stands in docs/where-is.md: one list of names per system in tests/names/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# list of names -> what the heading of its section begins with
SECTIONS = {
    "classification": "mmclassification",
    "segmentation_data": "pytorch-segmentation template: data",
    "parsing": "Unified perceptual parsing",
    "detection": "DA Faster R-CNN",
    "centerfusion": "CenterFusion",
}
LISTS = [ROOT / "tests" / "names" / f"{name}.txt" for name in SECTIONS]


def names(file):
    return [
        line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]


def section(system):
    text = (ROOT / "docs" / "where-is.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    found = [part for part in parts if part.startswith(SECTIONS[system])]
    assert len(found) == 1, f"docs/where-is.md has {len(found)} sections '## {SECTIONS[system]}...'"
    return [line for line in found[0].splitlines() if line.startswith("|")]


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_every_name_has_a_row(file):
    left = [row.split("|")[1] for row in section(file.stem)]
    missing = [
        name for name in names(file)
        if not any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w])", cell) for cell in left)
    ]  # fmt: skip
    assert not missing, f"docs/where-is.md says nothing of: {', '.join(missing)}"


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_files_that_rows_name_are_there(file):
    rows = [row.split("|")[2] for row in section(file.stem)]
    paths = {
        path.partition(":")[0]
        for row in rows
        for path in re.findall(r"`((?:visloom|docs|examples)/[^`]*)`", row)
    }
    assert paths
    gone = sorted(path for path in paths if not (ROOT / path).exists())
    assert not gone, f"docs/where-is.md names files that are not there: {', '.join(gone)}"


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_a_list_has_each_name_once(file):
    assert len(set(names(file))) == len(names(file)) > 10


def test_the_walk_names_what_is_there():
    text = (ROOT / "docs" / "what-happens-when-I-train.md").read_text(encoding="utf-8")
    places = re.findall(r"`(visloom/[\w/]+\.py):(\w+)`", text)
    assert len(places) > 20
    for file, name in places:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), f"{file} has no {name}"
