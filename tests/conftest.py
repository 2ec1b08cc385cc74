"""Shared by all tests: one torch thread, no color, and the place of the shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "visloom", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("visloom")


@pytest.fixture
def shared() -> Path:
    """The folder of shared fixtures and data; a test that needs it is skipped, by name, where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("VISLOOM_SHARED", root.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"shared fixtures are not here: {folder} (set VISLOOM_SHARED)")
    return folder
