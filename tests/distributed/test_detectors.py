"""Detectors in two real processes compute what one computes: losses, weights and the numbers of an evaluation.

Norms are frozen: batch statistics would be those of half a batch. Target pictures, pseudo boxes and discriminators are
divided like the source's.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests import detectors
from tests.protocol.test_two_processes import Shape, agree, compute_the_same, lived
from visloom.tasks.adapt import Teacher
from visloom.tasks.detect import ResNetBody

NET = dataclasses.replace(
    detectors.NET, body=ResNetBody(stem=8, out=32, group_width=8), strides=(4, 8, 16, 32)
)
TAUGHT = dataclasses.replace(detectors.ADAPT, net=NET, teacher=Teacher(threshold=0.02, burn_in=0.5))
SHAPES = {
    "detect": Shape(dataclasses.replace(detectors.DETECT, net=NET), detectors.SOURCE, detectors.SEEN),
    "adapt": Shape(TAUGHT, detectors.PAIR, detectors.SEEN, detectors.EMA),
}


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    return lived(tmp_path_factory.mktemp("two"), SHAPES, lr=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_two_processes_are_one(name, lives):
    alone, first, second = (each[name] for each in lives)
    agree(first, second, 7)
    compute_the_same(alone, first, second)
    terms = set(first["losses"][-1])
    assert {"domain_image", "target_classes"} <= terms or name == "detect"
