"""prove-resume: what is compared, and that a difference is found. Whole proofs are in tests/e2e."""

from __future__ import annotations

import pytest

from tests.lives import OFF
from tests.small import small_run
from visloom import prove
from visloom.drive import train
from visloom.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs of the same value."""
    folder = tmp_path_factory.mktemp("pair")
    return [train(small_run(folder / name), told=OFF).directory for name in ("alone", "killed")]


def test_equal_runs_are_equal_in_every_file(pair):
    found = prove.compare(*pair)
    assert all(each.same for each in found)
    names = {each.name.rpartition("/")[2] for each in found}
    assert {"model.safetensors", "optim.safetensors", "state.json", "log.jsonl"} <= names
    assert prove.Proof(files=found).identical


def test_a_run_of_another_seed_differs_and_the_file_is_named(pair, tmp_path):
    other = train(small_run(tmp_path, seed=1), told=OFF).directory
    differing = {each.name for each in prove.compare(pair[0], other) if not each.same}
    assert any(name.endswith("model.safetensors") for name in differing) and "log.jsonl" in differing


def test_a_log_that_differs_in_one_byte_is_found(pair, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(pair[0], copy)
    log = copy / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"0.", b"1.", 1))
    assert [each.name for each in prove.compare(pair[0], copy) if not each.same] == ["log.jsonl"]


def test_runs_of_different_lengths_are_never_identical(pair, tmp_path):
    from visloom.units import Steps

    short = train(small_run(tmp_path, length=Steps(8)), told=OFF).directory
    assert not prove.Proof(files=prove.compare(pair[0], short)).identical


def test_nothing_compared_proves_nothing():
    assert not prove.Proof().identical


def test_a_damaged_last_checkpoint_is_an_error(pair, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(pair[0], copy)
    file = sorted((copy / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="damaged"):
        prove.compare(pair[0], copy)


def test_kills_are_counted_from_zero(tmp_path):
    with pytest.raises(UsageError):
        prove.prove(prove.Plan("town", kills=-1, folder=tmp_path))
