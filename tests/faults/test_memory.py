"""Memory that runs out, by the real kernel: the heap under RLIMIT_AS, and /dev/shm too small for what workers send."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.faults.disks import in_private_mounts, tmpfs
from tests.lives import OFF, end_of, only
from tests.small import Small, SmallModule, small_run
from tests.worlds import Lister, Numbers
from visloom.checkpoint import Checkpoints
from visloom.cli import unexpected
from visloom.drive import resume, train
from visloom.errors import DataError
from visloom.loader import Loader, Plan
from visloom.run import Host
from visloom.sample import Sample
from visloom.stream import Shuffled
from visloom.task import Batch, Losses

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and /dev/shm are those of Linux")


@dataclass(frozen=True)
class Hungry(Small):
    """Asks for 64 GB in the ninth update, once."""

    marks: str = ""

    def build(self):
        return HungryModule(self)


class HungryModule(SmallModule):
    spec: Hungry

    def forward(self, batch: Batch) -> Losses:
        mark = Path(self.spec.marks, "hungry")
        if (
            self.training
            and batch.progress is not None
            and float(batch.progress.step) == 8
            and not mark.exists()
        ):
            mark.write_text("")
            torch.empty(64 << 30, dtype=torch.uint8)
        return super().forward(batch)


def in_child(work) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child failed: its traceback is above"


def test_a_run_that_meets_its_memory_limit_says_so_and_goes_on_like_one_that_did_not(tmp_path):
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (48 << 30, 48 << 30))
        with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
            train(small_run(tmp_path / "a", task=Hungry(marks=str(tmp_path))), told=OFF)
        said = unexpected(caught.value)
        assert said.startswith("error: out of memory") and "train.batch" in said and "bug" not in said
        assert Checkpoints(only(tmp_path / "a") / "checkpoints").load().step == 6  # the best one so far
        resume(only(tmp_path / "a"), trust=True, told=OFF)
        train(small_run(tmp_path / "b", task=Hungry(marks=str(tmp_path))), told=OFF)
        assert not end_of(only(tmp_path / "a")).differs(end_of(only(tmp_path / "b")))

    in_child(work)


@dataclass(frozen=True, kw_only=True)
class Big(Numbers):
    """Samples that arrive as tensors, which workers send through /dev/shm."""

    def fetch(self, index: int) -> Sample:
        return super().fetch(index)


@dataclass(kw_only=True)
class Heavy(Batch):
    x: torch.Tensor  # (B, 1000000) float32


class HeavyLister(Lister):
    def collate(self, samples, key):
        return Heavy(ids=tuple(s.id for s in samples), x=torch.ones(len(samples), 1_000_000))


def test_a_full_shared_memory_is_named_with_what_to_do(tmp_path):
    def work() -> None:
        tmpfs(Path("/dev/shm"), "256k")
        loader = Loader(
            Plan(Shuffled(source=Big(), batch=4), HeavyLister(), seed=0),
            Host(workers=2, timeout=60.0),
            torch.device("cpu"),
            5,
        )
        with pytest.raises(DataError, match=r"/dev/shm is full, enlarge it or set host\.workers=0"):
            list(loader.open())

    in_private_mounts(work)
