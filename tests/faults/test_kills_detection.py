"""Detectors killed by SIGKILL inside an epoch go on at the right sample, of both domains, and end with the same bits.

Everything is compared that the last checkpoint holds (weights, teacher, moments, ledger), the log and the evaluations.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.life import Server
from tests.lives import end_of, only

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("visloom.nets.detection.rcnn", "visloom.nets.detection.domain", "timm", "hotcoco") as served:
        yield served


@pytest.fixture(scope="module")
def wholes(server):
    """How each run ends when nobody kills it."""
    ends = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("detector", "adapted"):
            assert server.live(Path(folder, name), name) == 0
            ends[name] = end_of(only(Path(folder, name)))
        yield ends


@pytest.mark.parametrize("name", ["detector", "adapted"])
def test_killed_inside_an_epoch(server, tmp_path, wholes, name):
    """Killed after updates 5 and 6 of 7, in epochs of 5 and of 3.5: two of them were not saved the first time."""
    assert server.live(tmp_path, name, workers=2, fault="kill-at:step@5") == -signal.SIGKILL
    assert server.live(tmp_path, name, fault="kill-at:step@3") == -signal.SIGKILL
    assert server.live(tmp_path, name, workers=1) == 0
    log = (only(tmp_path) / "log.txt").read_text()
    assert log.count("resumed after step") == 2 and "resumed after step 3 of 7" in log
    assert not end_of(only(tmp_path)).differs(wholes[name])


@pytest.mark.parametrize(
    "mutant",
    [
        "the target starts anew",
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in ("data start anew", "moments are forgotten")
        ),
    ],
)
def test_a_position_that_is_lost_is_seen(server, tmp_path, wholes, mutant):
    assert server.live(tmp_path, "adapted", fault="kill-at:step@5") == -signal.SIGKILL
    assert server.live(tmp_path, "adapted", mutant=mutant) == 0
    assert end_of(only(tmp_path)).differs(wholes["adapted"])
