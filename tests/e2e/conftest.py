"""Runs of these tests live in memory where that is possible: their many syncs to a real disk would only cost time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import in_memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that goes away after the test."""
    with in_memory() as folder:
        yield folder


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    """A folder that goes away after the tests of a file."""
    with in_memory() as folder:
        yield folder
