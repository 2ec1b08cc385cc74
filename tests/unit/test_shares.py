"""Shares of a mixture: what each source can expect, in the header, and what it got, in the log, also after a kill."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from tests.lives import OFF, Crash, crash_at, rows
from tests.small import small_run
from tests.worlds import Numbers
from visloom.drive import Telling, resume, train
from visloom.run import Host
from visloom.stream import Mixture, Pair, Shuffled
from visloom.units import Steps

FEW, MANY = (Shuffled(source=Numbers(size=size), batch=4, tail="wrap") for size in (12, 36))
NAMES = ("Numbers 0", "Numbers 1")
MIXED = Mixture(parts=(FEW, MANY), seed=3)


@pytest.mark.parametrize("scope", ["step", "sample"])
def test_what_was_drawn_is_what_the_tickets_say(scope):
    mixed = dataclasses.replace(MIXED, scope=scope, weights=(1.0, 3.0))
    assert mixed.shares() == pytest.approx(dict(zip(NAMES, (0.25, 0.75))))
    counts: Counter[int] = Counter()
    for step in range(60):
        assert mixed.drawn(step) == dict(zip(NAMES, (counts[0], counts[1])))
        source = mixed.tickets(step).source
        counts.update((source[:1] if scope == "step" else source).tolist())
    assert sum(counts.values()) == (60 if scope == "step" else 240)


def test_counts_of_many_steps_come_at_once_and_near_the_shares():
    drawn = MIXED.drawn(400_000)
    assert sum(drawn.values()) == 400_000
    assert drawn[NAMES[0]] / 400_000 == pytest.approx(0.25, abs=0.004)  # six standard errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Numbers):
    kind: str = "a"
    part: str = "train"


def test_names_are_what_sources_differ_in():
    def names(*sources):
        return list(Mixture(parts=tuple(Shuffled(source=s, batch=1) for s in sources)).shares())

    assert names(Named(kind="cats", root="x/1"), Named(kind="dogs", root="x/2")) == ["cats", "dogs"]
    assert names(Named(root="data/street/"), Named(root="data/room")) == ["street", "room"]
    assert names(Numbers(size=4), Named()) == ["Numbers", "Named"]
    assert names(Numbers(size=4), Numbers(size=5)) == list(NAMES)


def test_other_streams_draw_from_nothing_and_a_pair_says_what_its_halves_do():
    assert FEW.shares() == FEW.drawn(7) == {}
    assert Pair(source=FEW, target=MANY).shares() == {}
    pair = Pair(source=MIXED, target=MANY, seed=5)
    assert pair.shares() == MIXED.shares()
    counts = Counter(NAMES[pair.tickets(step).source[0]] for step in range(40))
    assert pair.drawn(40) == dict(sorted(counts.items()))
    assert set(Pair(source=MIXED, target=MIXED).drawn(3)) == {
        f"{half} {name}" for half in ("source", "target") for name in NAMES
    }


def run(out):
    return small_run(
        out,
        train=MIXED,
        evals={},
        length=Steps(12),
        host=Host(out=str(out), data=str(out), workers=0, threads=1),
    )


def test_header_and_log_tell_them_and_a_kill_changes_nothing(tmp_path, capsys):
    report = train(run(tmp_path / "whole"), told=Telling(screen="plain"))
    said = " ".join(capsys.readouterr().out.split())
    assert "drawn from Numbers 0 25.0 %, Numbers 1 75.0 %" in said and "1 epoch = 12 steps" in said
    points = rows(report.directory, "train")
    assert points[-1]["step"] == 12 and len(points) > 2
    assert all(sum(point["drawn"].values()) == point["step"] for point in points)
    last = points[-1]["drawn"]
    assert f"drawn {last[NAMES[0]]}+{last[NAMES[1]]}" in said
    with pytest.raises(Crash):
        train(run(tmp_path / "killed"), drive=crash_at(7), told=OFF)
    (directory,) = (tmp_path / "killed").glob("*-*")
    resume(directory, told=OFF, trust=True)
    assert (directory / "log.jsonl").read_bytes() == (report.directory / "log.jsonl").read_bytes()
