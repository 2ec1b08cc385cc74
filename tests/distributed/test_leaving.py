"""One of several processes that leaves is ended by torchrun on its way: it must come to say why, with its exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from visloom import dist
from visloom.errors import DataError
from visloom.signals import Signals


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    old = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, old)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("why", ["asked", "failed", "done"])
def test_sigterm_is_passed_over_by_one_of_several_that_leaves_early(monkeypatch, world, why):
    monkeypatch.setattr(dist, "world", lambda: dist.World(0, world, 0))
    signals = Signals()
    try:
        with signals:
            assert signal.getsignal(signal.SIGTERM) == signals._handle
            if why == "asked":
                signal.raise_signal(signal.SIGTERM)
            elif why == "failed":
                raise DataError("bad.jpg is broken")
    except DataError:
        assert why == "failed"
    early = world > 1 and why != "done"
    assert signal.getsignal(signal.SIGTERM) == (signal.SIG_IGN if early else signal.SIG_DFL)
