"""Checkpoints: what comes back, what is kept, what damage is found, and what is refused before writing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from visloom import bundle, checkpoint, faults
from visloom.checkpoint import Checkpoints, State, estimate_bytes, room
from visloom.errors import CheckpointError, ConfigError


def make(step: int, **data: Any) -> State:
    """A small state whose values tell its step."""
    weight = torch.full((4, 3, 2, 2), float(step)).to(memory_format=torch.channels_last)
    return State(
        step,
        {
            "model": {"net.weight": weight, "net.tied": weight, "net.count": torch.tensor(step)},
            "optim": {"net.weight/momentum": weight / 2, "net.weight/step": torch.tensor(float(step))},
        },
        {"step_again": step, **data},
    )


def holds(state: State | None, step: int) -> bool:
    """Whether a state is the one that `make(step)` gave."""
    if state is None or state.step != step or state.data["step_again"] != step:
        return False
    want = make(step)
    return all(
        torch.equal(state.tensors[stem][name], tensor)
        for stem, group in want.tensors.items()
        for name, tensor in group.items()
    )


@pytest.fixture
def store(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=3, background=False)


# -- round trip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
def test_a_state_comes_back(tmp_path, background):
    store = Checkpoints(tmp_path / "c", keep=2, background=background)
    state = make(12000, nested={"list": [1, 2.5, None, True, "ü"]}, big=2**80, tiny=5e-324, minus=-0.0)
    store.save(state)
    store.join()
    back = store.load()
    assert back is not None
    assert holds(back, 12000)
    assert back.data == state.data
    assert math.copysign(1, back.data["minus"]) == -1
    assert back.tensors["model"]["net.weight"].is_contiguous(memory_format=torch.channels_last)
    assert back.tensors["model"]["net.tied"] is back.tensors["model"]["net.weight"]
    assert list(back.tensors) == ["model", "optim"]
    store.close()


def test_nan_and_infinities_come_back(store):
    store.save(make(1, values=[math.inf, -math.inf, math.nan]))
    values = store.load(1).data["values"]
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


def test_the_layout_on_disk(store):
    store.save(make(12000))
    place = store.directory / "step-00012000"
    assert sorted(p.name for p in place.iterdir()) == [
        "manifest.json", "model.safetensors", "optim.safetensors", "state.json",
    ]  # fmt: skip
    assert (store.directory / "latest").read_text() == "step-00012000\n"
    manifest = json.loads((place / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"]) == (1, 12000)
    for name, entry in manifest["files"].items():
        raw = (place / name).read_bytes()
        assert entry == {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    assert sorted(p.name for p in store.directory.iterdir()) == ["latest", "step-00012000"]


def test_an_empty_state_is_a_checkpoint(store):
    store.save(State(0))
    assert store.load() == State(0, {}, {})


def test_the_snapshot_is_taken_when_save_returns(tmp_path, monkeypatch):
    go = threading.Event()
    fill = bundle.fill
    monkeypatch.setattr(bundle, "fill", lambda *args: (go.wait(10), fill(*args)))
    store = Checkpoints(tmp_path / "c", keep=2, background=True)
    weight = torch.ones(1000)
    data = {"best": [1.0]}
    store.save(State(1, {"model": {"w": weight}}, data))
    weight.zero_()
    data["best"][0] = 2.0
    assert store.steps() == []
    go.set()
    store.join()
    state = store.load(1)
    assert torch.equal(state.tensors["model"]["w"], torch.ones(1000))
    assert state.data == {"best": [1.0]}


def test_wait_means_durable_on_return(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=2, background=True)
    store.save(make(5), wait=True)
    assert holds(Checkpoints(tmp_path / "c", keep=2, background=False).load(), 5)


def test_a_second_save_waits_for_the_first(tmp_path, monkeypatch):
    running, most = 0, 0
    fill = bundle.fill

    def counted(*args: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        fill(*args)
        running -= 1

    monkeypatch.setattr(bundle, "fill", counted)
    store = Checkpoints(tmp_path / "c", keep=9, background=True)
    for step in range(1, 6):
        store.save(make(step))
    store.close()
    assert most == 1
    assert all(holds(store.load(step), step) for step in range(1, 6))


def test_importing_and_listing_need_no_torch(store):
    store.save(make(3))
    code = (
        "import sys; from pathlib import Path; from visloom.checkpoint import Checkpoints;"
        "import visloom.rundir, visloom.provenance, visloom.init;"
        f"assert Checkpoints(Path({str(store.directory)!r})).steps() == [3];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- retention -----------------------------------------------------------------------------------------------


def test_newest_best_and_milestones_stay(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=2, background=False, milestone=lambda step: step % 40 == 0)
    for step in range(10, 101, 10):
        store.save(make(step))
        if step == 30:
            store.mark_best(30)
    assert store.steps() == [30, 40, 80, 90, 100]
    assert (store.best(), store.latest()) == (30, 100)
    store.mark_best(90)
    assert store.steps() == [40, 80, 90, 100]
    assert (store.directory / "best").read_text() == "step-00000090\n"
    assert not [p for p in store.directory.iterdir() if p.name.startswith(".")]


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match=r"save\.keep"):
        Checkpoints(tmp_path, keep=0, background=False)


def test_best_must_exist(store):
    store.save(make(1))
    with pytest.raises(CheckpointError, match="step 2 was not saved"):
        store.mark_best(2)
    assert store.best() is None
    (store.directory / "best").write_text("step-00000009\n")
    assert store.best() is None
    (store.directory / "best").write_bytes(b"\xff\xfe")
    assert store.best() is None


def test_best_waits_for_the_write(tmp_path):
    faults.arm("slow-write:0.01")
    try:
        store = Checkpoints(tmp_path / "c", keep=2, background=True)
        store.save(make(4))
        store.mark_best(4)
    finally:
        faults.arm("")
    assert store.best() == 4
    assert store.verify(4) == ""


def test_the_best_one_is_kept_when_it_is_the_oldest(store):
    store.save(make(1))
    store.mark_best(1)
    for step in range(2, 9):
        store.save(make(step))
    assert store.steps() == [1, 6, 7, 8]
    assert holds(store.load(store.best()), 1)


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=2, background=False)
    for step in (1, 2):
        store.save(make(step))
    (store.directory / "step-00000002" / "state.json").write_text("{}")
    assert holds(store.load(say=lambda _: None), 1)
    store.save(make(3))
    assert store.steps() == [1, 3]


def test_a_failure_to_delete_only_warns(store, monkeypatch, caplog):
    for step in range(1, 4):
        store.save(make(step))
    rename = os.rename

    def stubborn(source: Any, target: Any) -> None:
        if ".gone-" in str(target):
            raise PermissionError(13, "Permission denied", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", stubborn)
    with caplog.at_level(logging.WARNING):
        store.save(make(4))
    assert "step 1 could not be deleted: Permission denied" in caplog.text
    assert holds(store.load(), 4)


def test_an_older_point_can_be_continued(store):
    for step in (10, 20, 30):
        store.save(make(step))
    store.mark_best(30)
    assert store.drop_after(10) == [20, 30]
    assert (store.steps(), store.best()) == ([10], None)
    assert (store.directory / "latest").read_text() == "step-00000010\n"
    assert store.drop_after(10) == []


# -- the same step again -------------------------------------------------------------------------------------


def test_the_same_step_may_be_written_again(store):
    store.save(make(7, note="old"))
    store.save(make(7, note="new"))
    state = store.load(7)
    assert holds(state, 7)
    assert state.data["note"] == "new"
    assert store.steps() == [7]


def test_a_failed_second_write_leaves_the_first(store):
    store.save(make(7, note="old"))
    for where in ("manifest", "before-rename", "set-aside"):
        faults.arm(f"fail-at:{where}:EIO")
        try:
            with pytest.raises(CheckpointError, match="Input/output error"):
                store.save(make(7, note="new"))
        finally:
            faults.arm("")
        assert store.load(7).data["note"] == "old"
        assert sorted(p.name for p in store.directory.iterdir()) == ["latest", "step-00000007"]


# -- damage --------------------------------------------------------------------------------------------------


FILES = ["manifest.json", "model.safetensors", "optim.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(store, name):
    store.save(make(1))
    path = store.directory / "step-00000001" / name
    raw = path.read_bytes()
    assert store.verify(1) == ""
    bits = range(0, len(raw) * 8, 1 if name == "state.json" else 61)
    for bit in bits:
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert name in store.verify(1), f"bit {bit} of {name}"
    path.write_bytes(raw)
    assert store.verify(1) == ""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 1, 50, 99])
def test_a_truncated_newest_checkpoint_is_passed_over_aloud(store, name, share):
    for step in (10, 12):
        store.save(make(step))
    path = store.directory / "step-00000012" / name
    size = path.stat().st_size
    os.truncate(path, size * share // 100)
    told: list[str] = []
    assert holds(store.load(say=told.append), 10)
    (sentence,) = told
    for word in ("step-00000012", name, f"{size * share // 100:,}", "step 10"):
        assert word in sentence
    if name != "manifest.json":
        assert str(size) in sentence


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(store, name):
    for step in (10, 12):
        store.save(make(step))
    (store.directory / "step-00000012" / name).unlink()
    told: list[str] = []
    assert holds(store.load(say=told.append), 10)
    assert f"{name} is missing" in told[0]


def test_falling_back_warns_by_default(store, caplog):
    for step in (1, 2):
        store.save(make(step))
    (store.directory / "step-00000002" / "state.json").unlink()
    with caplog.at_level(logging.WARNING):
        store.load()
    assert "state.json is missing; using step 1 instead" in caplog.text


def test_all_damaged_stops_with_the_list(store):
    for step in (1, 2, 3):
        store.save(make(step))
        (store.directory / f"step-0000000{step}" / "model.safetensors").write_bytes(b"x" * step)
    with pytest.raises(CheckpointError) as caught:
        store.load()
    for step in (1, 2, 3):
        assert f"step-0000000{step}: model.safetensors has {step} bytes" in str(caught.value)
    assert caught.value.exit_code == 3


def test_an_explicit_step_never_falls_back(store):
    for step in (1, 2):
        store.save(make(step))
    (store.directory / "step-00000002" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing\nOther steps: 1"):
        store.load(2)
    with pytest.raises(CheckpointError, match="no checkpoint of step 5; there are: 1, 2"):
        store.load(5)


def test_nothing_yet_is_none(tmp_path):
    store = Checkpoints(tmp_path / "never made", keep=2, background=False)
    assert (store.load(), store.steps(), store.latest(), store.best()) == (None, [], None, None)
    with pytest.raises(CheckpointError, match="there are: none"):
        store.load(1)


def test_a_directory_of_another_step_is_found_out(store):
    store.save(make(1))
    (store.directory / "step-00000001").rename(store.directory / "step-00000009")
    assert "manifest.json is that of step 1" in store.verify(9)


def test_a_newer_format_is_not_taken_for_damage(store, monkeypatch):
    monkeypatch.setattr(bundle, "FORMAT", 2)
    store.save(make(2))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2, this release reads 1"):
        store.load()


@pytest.mark.parametrize(
    "body",
    [
        {"format": 1, "step": 1},
        {"format": 1, "step": 1, "files": []},
        {"format": 1, "step": "1", "files": {"state.json": {}}},
        {"format": 1, "step": 1, "files": {"../../evil.json": {}, "state.json": {}}},
        {"format": 1, "step": 1, "files": {"state.json": 3}},
        {"format": 1, "step": 1, "files": {"state.json": {}}},
    ],
    ids=str,
)
def test_a_forged_manifest_is_damage_not_a_crash(store, body):
    store.save(make(1))
    (store.directory / "step-00000001" / "manifest.json").write_bytes(bundle._manifest_bytes(body))
    assert "manifest.json" in store.verify(1) or "state.json" in store.verify(1)


def test_a_consistent_forgery_of_the_tensors_is_an_error(store):
    store.save(make(1))
    place = store.directory / "step-00000001"
    honest = {path: path.read_bytes() for path in place.iterdir()}
    for name, raw in (
        ("model.safetensors", b"\xff" * 32),
        ("state.json", b"[" * 100_000 + b"]" * 100_000),
        ("state.json", b"[]"),
    ):
        for path, content in honest.items():
            path.write_bytes(content)
        (place / name).write_bytes(raw)
        manifest = json.loads((place / "manifest.json").read_text())
        del manifest["sha256"]
        manifest["files"][name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        (place / "manifest.json").write_bytes(bundle._manifest_bytes(manifest))
        assert store.verify(1) == ""
        with pytest.raises(CheckpointError, match=r"not a safetensors file|nested too deep|no JSON object"):
            store.load()


# -- leftovers -----------------------------------------------------------------------------------------------


def dead_pid() -> int:
    """A process id that no process has."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_only_own_leftovers_are_swept(store):
    store.save(make(1))
    gone, live = dead_pid(), os.getppid()
    ours = [f".tmp-step-00000002-{gone}", f".gone-step-00000000-{gone}", f".tmp-step-00000003-{os.getpid()}"]
    others = [f".tmp-step-00000004-{live}", ".tmp-notes", "step-1", "step-0000000x", "notes"]
    for name in ours + others:
        (store.directory / name).mkdir()
        (store.directory / name / "half").write_text("x")
    (store.directory / f".latest.tmp-{gone}").write_text("st")
    assert store.steps() == [1]
    assert sorted(store.sweep()) == sorted([*ours, f".latest.tmp-{gone}"])
    assert {p.name for p in store.directory.iterdir()} == {*others, "latest", "step-00000001"}


def test_the_first_save_sweeps(store):
    store.directory.mkdir()
    orphan = store.directory / f".tmp-step-00000002-{dead_pid()}"
    orphan.mkdir()
    store.save(make(1))
    assert not orphan.exists()


def test_a_checkpoint_set_aside_counts_until_it_is_replaced(store):
    store.save(make(5))
    pid = dead_pid()
    aside = store.directory / f".old-step-00000005-{pid}"
    (store.directory / "step-00000005").rename(aside)
    assert store.steps() == [5]
    assert holds(Checkpoints(store.directory, keep=1, background=False).load(), 5)
    assert store.sweep() == [aside.name]
    assert (store.directory / "step-00000005").is_dir()
    store.save(make(5, note="new"))
    (store.directory / "step-00000005").rename(aside)
    store.save(make(5, note="newer"))
    assert store.load(5).data["note"] == "newer"
    store.sweep()
    assert not aside.exists()


# -- refused before writing ----------------------------------------------------------------------------------


def loop() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["self"] = data
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"a": {"b": [1, (2, 3)]}}, r"data\.a\.b\[1\]: a tuple"),
        ({"a": {1: 2}}, r"data\.a: the key 1 is int"),
        ({"a": {1, 2}}, r"data\.a: set"),
        ({"a": torch.ones(1)}, r"data\.a: Tensor"),
        ({"a": b"x"}, r"data\.a: bytes"),
        ({"a": Path()}, r"data\.a: PosixPath"),
        ({"a": 1 << 20_000}, r"data\.a: a whole number of 20001 bits"),
        (loop(), r"data\.self\.self.*nested more than 100 levels"),
        ([], "data: expected a dict, got list"),
    ],
    ids=["tuple", "key", "set", "tensor", "bytes", "path", "huge", "cycle", "list"],
)
def test_what_json_cannot_hold_is_refused_by_path(store, data, says):
    with pytest.raises(CheckpointError, match=says):
        store.save(State(1, {}, data))
    assert not store.directory.exists()


@pytest.mark.parametrize("stem", ["", "Model", "../x", "a.b", "state json"])
def test_file_stems_are_checked(store, stem):
    with pytest.raises(CheckpointError, match="file name"):
        store.save(State(1, {stem: {}}))


@pytest.mark.parametrize("step", [-1, 1.0, True, 10**18])
def test_steps_are_checked(store, step):
    with pytest.raises(CheckpointError, match="whole number from 0"):
        store.save(State(step))


def test_a_bad_tensor_is_refused_before_anything_is_written(store):
    groups = {"model": {"w": torch.ones(1)}, "ema": {"net.w": torch.ones(1, device="meta")}}
    with pytest.raises(CheckpointError, match=r"tensors/ema/net\.w"):
        store.save(State(1, groups))
    assert not store.directory.exists()


# -- room and cost -------------------------------------------------------------------------------------------


def test_the_estimate_is_what_is_written(store):
    state = make(3, notes=["x" * 1000] * 20)
    store.save(state)
    written = sum(p.stat().st_size for p in (store.directory / "step-00000003").iterdir())
    assert written <= estimate_bytes(state) <= written + 600


def test_room_names_what_is_needed_and_free(tmp_path, monkeypatch):
    place = tmp_path / "not" / "made" / "yet"
    assert room(place, 1) > 1
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _: 12_345_678)
    with pytest.raises(CheckpointError, match=r"needs 1\.5 GB, 12\.3 MB is free.*host\.out"):
        room(place, 1_500_000_000)


def test_check_calls_nothing_while_all_is_well():
    """`check` runs at every step: before its branch there is a look-up and a comparison, no call."""
    import dis

    operations = [i.opname for i in dis.get_instructions(Checkpoints.check)]
    before = operations[: next(i for i, name in enumerate(operations) if "JUMP" in name)]
    assert not [name for name in before if name.startswith("CALL")]


def test_a_state_is_a_plain_dataclass():
    assert [f.name for f in dataclasses.fields(State)] == ["step", "tensors", "data"]
