"""Detectors learn: a few streets by heart in seconds, alone and beside a second domain."""

import dataclasses

import pytest

from tests.protocol import shapes
from visloom.data.photometric import ColorJitter
from visloom.data.target import Strong, Target
from visloom.data.town import Drive
from visloom.recipes import foggy
from visloom.run import Ema, How, Optim
from visloom.stream import Ordered, Pair, Shuffled
from visloom.tasks.adapt import Adapt, Align, Teacher
from visloom.tasks.detect import Detect

STREETS = Drive(samples=4, height=64, width=96, visible=60, weather="clear", groups=foggy.VEHICLES)
FOG = dataclasses.replace(STREETS, weather="fog")
SPEC = Detect(net=foggy.NET, classes=STREETS.classes(), normalise=foggy.NORMALISE)
SEEN = Ordered(source=STREETS, batch=4)


def ap50(spec, engine):
    return shapes.evaluation(spec, engine, SEEN).values["ap50"]


def test_four_streets_are_learnt_by_heart():
    engine = shapes.engine_of(SPEC, Shuffled(source=STREETS, batch=4), 50, optim=Optim(name="AdamW", lr=5e-3))
    assert ap50(SPEC, engine) < 0.05
    shapes.train(engine)
    assert ap50(SPEC, engine) > 0.6


@pytest.mark.nightly
@pytest.mark.parametrize("align", [Align(), None], ids=["aligned", "taught"])
def test_they_are_learnt_beside_fog_that_has_no_labels(align):
    teacher = None if align else Teacher(threshold=0.6, burn_in=0.5)
    spec = Adapt(net=foggy.NET, classes=SPEC.classes, normalise=SPEC.normalise, align=align, teacher=teacher)
    strong = Strong((ColorJitter(brightness=0.2),))
    pair = Pair(
        source=Shuffled(source=STREETS, batch=4, transform=(strong,)),
        target=Shuffled(source=FOG, batch=4, transform=(Target(), strong)),
    )
    how = How(precision="fp32", ema=Ema(decay=0.8, into="net -> teacher") if teacher else None)
    engine = shapes.engine_of(spec, pair, 80, how=how, optim=Optim(name="AdamW", lr=5e-3))
    losses = shapes.train(engine)
    assert ap50(spec, engine) > 0.5
    assert ("domain_image" in losses[-1]) == (align is not None)
    assert ("target_classes" in losses[-1]) == (align is None)
