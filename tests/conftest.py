"""Shared by all tests: one torch thread, no color, and the place of the shared fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.places import in_memory

os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "visloom", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("visloom")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared fixtures and data; a test that needs it is skipped, by name, where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("VISLOOM_SHARED", root.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"shared fixtures are not here: {folder} (set VISLOOM_SHARED)")
    return folder


@pytest.fixture(scope="session")
def ccp(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Clothing Co-Parsing photos, unpacked (VISLOOM_CCP names a place where they are already)."""
    given = os.environ.get("VISLOOM_CCP")
    if given:
        return Path(given)
    if not (shared / "data" / "ccp.tar").is_file():
        pytest.skip(f"the real Clothing Co-Parsing photos are not here: {shared / 'data' / 'ccp.tar'}")
    place = tmp_path_factory.mktemp("ccp")
    unpack = [sys.executable, str(shared / "data" / "unpack.py"), str(place), "ccp"]
    subprocess.run(unpack, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A process that forks lives of runs (`tests/life.py`)."""
    from tests.life import Server  # torch and more: only for those who ask

    with Server() as served:
        yield served


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for one run, which goes away after the test."""
    with in_memory() as folder:
        yield folder
