"""docs/where-is.md has a row for every name of the template's training side, and what it points to exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TITLE = "## pytorch-segmentation template: training"


def rows() -> list[list[str]]:
    text = (ROOT / "docs/where-is.md").read_text(encoding="utf-8")
    section = text[text.index(TITLE) :].partition("\n## ")[0]
    return [line.split(" | ", 1) for line in section.splitlines() if line.startswith("| `")]


def test_every_name_has_one_row():
    listed = (ROOT / "tests/names/segmentation_net.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in listed if line and not line.startswith("#")]
    there = [name for left, _ in rows() for name in re.findall(r"`([^`]+)`", left)]
    assert len(names) > 90
    assert [name for name in names if name not in there] == []
    assert sorted(there) == sorted(set(there))


def test_files_that_rows_name_are_there():
    places = {place for _, right in rows() for place in re.findall(r"`(visloom/[^`:]+)", right)}
    assert len(places) > 15
    assert [place for place in sorted(places) if not (ROOT / place).exists()] == []
