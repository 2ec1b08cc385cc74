"""docs/where-is.md has a row for every name of the template's data side, and what it points to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TITLE = "## pytorch-segmentation template: data"


def rows():
    text = (ROOT / "docs/where-is.md").read_text(encoding="utf-8")
    section = text[text.index(TITLE) :].partition("\n## ")[0]
    return [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]


def names():
    lines = (ROOT / "tests/names/segmentation_data.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_name_has_one_row():
    there = [name for left, _ in rows() for name in re.findall(r"`([^`]+)`", left)]
    assert sorted(there) == sorted(set(there))
    assert [name for name in names() if name not in there] == []


@pytest.mark.parametrize("right", [right for _, right in rows()])
def test_what_a_row_points_to_exists(right):
    for place in re.findall(r"`(visloom/[^`:]+)", right):
        assert (ROOT / place).exists(), place
