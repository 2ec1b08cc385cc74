"""doctor: findings about the machine, and one step of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.small import Small, SmallModule, small_run
from tests.tiny import make_recipe
from visloom import doctor, several
from visloom.cli import main
from visloom.run import Rule
from visloom.task import Losses


def test_the_machine_is_looked_at_and_nothing_here_is_broken(tmp_path):
    found = {finding.name: finding for finding in doctor.examine(str(tmp_path))}
    assert {"versions", "torchvision", "cpu", "precision", "disk", "workers", "processes"} <= set(found)
    assert not [f for f in found.values() if f.mark == "bad"]
    assert torch.__version__.partition("+")[0] in found["versions"].text


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (None, "13.2", ["torch is built for the CPU", "torchvision for CUDA 13.2", "named cpu"]),
        ("13.2", None, ["torch is built for CUDA 13.2", "torchvision for the CPU", "named cu132"]),
        (None, "unknown", ["torchvision fails to load", "operator torchvision::nms does not exist"]),
    ],
)
def test_a_pair_that_does_not_fit_is_told_in_words(ours, theirs, said):
    text = doctor.pair_problem(
        ours, theirs, "operator torchvision::nms does not exist" if theirs == "unknown" else ""
    )
    for part in said:
        assert part in text


def test_a_torchvision_of_another_build_is_found(monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.version, "cuda", 9990, raising=False)
    found = list(doctor._torch_pair())
    assert [f.mark for f in found] == ["note"] and "CUDA 9.99" in found[0].text


def test_a_torchvision_that_does_not_load_is_bad(monkeypatch):
    import torchvision.extension

    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: False)
    found = list(doctor._torch_pair())
    assert [f.mark for f in found] == ["bad"] and "same place" in found[0].text


def test_a_folder_that_cannot_be_written_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)  # root may write everywhere
    found = list(doctor._memory_and_disk(tmp_path / "deep" / "runs"))
    assert [f.name for f in found if f.mark == "bad"] == ["runs"]


# -------------------------------------------------------------------------------------------- several processes


def test_gloo_is_tried_and_of_nccl_it_is_said_what_could_be():
    gloo, nccl = doctor._several(0)
    assert (gloo.mark, nccl.mark) == ("good", "note")
    assert "two processes on the CPU added up a number by gloo" in gloo.text
    assert "not tried: there is no GPU" in nccl.text and "cannot be tested on this machine" in nccl.text


def test_processes_that_cannot_talk_are_told_with_the_reason(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuchcard")
    gloo, _ = doctor._several(0)
    assert gloo.mark == "note" and "nosuchcard" in gloo.text and "--nproc fails here" in gloo.text


def test_processes_that_do_not_meet_are_not_waited_for():
    assert several.added_up("gloo", 2, "spawn", patience=0.0) == "they did not find each other within 0 s"


@pytest.mark.parametrize(
    ("gpus", "version", "problem", "mark", "said"),
    [
        (
            1,
            (2, 27, 5),
            "",
            "note",
            "2.27.5 works in one process on one GPU; an exchange between GPUs cannot",
        ),
        (4, (2, 27, 5), "", "good", "4 processes added up a number, one GPU each"),
        (
            2,
            (2, 27, 5),
            "unhandled system error",
            "note",
            "does not work on 2 GPU(s): unhandled system error",
        ),
        (2, None, "", "note", "not in this torch"),
    ],
)
def test_what_is_said_of_nccl_where_there_are_gpus(monkeypatch, gpus, version, problem, mark, said):
    asked = []
    monkeypatch.setattr(several, "added_up", lambda *words: asked.append(words) or problem)
    found = doctor._nccl(gpus, version)
    assert found.mark == mark and said in found.text
    assert asked == ([("nccl", gpus, "spawn")] if version else [])


# ------------------------------------------------------------------------------------------------ one step


class Shaky(SmallModule):
    """Uses an operation that has no deterministic kernel anywhere."""

    def forward(self, batch):
        losses = super().forward(batch)
        torch.zeros(2).put_(torch.tensor([0]), torch.tensor([1.0]))
        return losses


@dataclass(frozen=True)
class ShakySpec(Small):
    def build(self):
        return Shaky(self)


def marks(run):
    patient = doctor.examine_recipe(run)
    return {finding.name: finding for finding in patient.findings}, patient


def test_a_recipe_that_trains_is_good_and_its_rules_are_shown(tmp_path):
    run = small_run(tmp_path, rules=(Rule(kind="bias", weight_decay=0.0, lr=2.0),))
    found, patient = marks(run)
    assert {f.mark for f in found.values()} == {"good"}
    assert "ce " in found["one step"].text
    assert "every operation" in found["same bits"].text
    assert [row[0] for row in patient.rules[1:]] == ["base", "bias"]
    assert list(tmp_path.iterdir()) == []


def test_operations_without_a_deterministic_kernel_are_named(tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    found, _ = marks(small_run(tmp_path, task=ShakySpec()))
    assert found["same bits"].mark == "note" and "put_" in found["same bits"].text
    assert torch.are_deterministic_algorithms_enabled() in (before, True)


def test_warnings_of_torch_name_their_operation_once():
    said = [
        "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set ...",
        "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set ...",
        "something else",
        "Deterministic behavior was enabled with ... but this operation is not deterministic because it uses CuBLAS "
        "... you must set CUBLAS_WORKSPACE_CONFIG=:4096:8",
    ]
    found = doctor.undetermined(said)
    assert found[0] == "adaptive_max_pool2d_backward_cuda"
    assert len(found) == 2 and "CUBLAS_WORKSPACE_CONFIG" in found[1]


class Broken(SmallModule):
    def forward(self, batch):
        return Losses({}, {}, torch.tensor(1.0))


@dataclass(frozen=True)
class BrokenSpec(Small):
    def build(self):
        return Broken(self)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": BrokenSpec()}, "no loss terms"),
        ({"rules": (Rule(name="no such layer", lr=1.0),)}, "matches nothing"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_bad_finding(tmp_path, change, said):
    found, _ = marks(small_run(tmp_path, **change))
    assert found["recipe"].mark == "bad" and said in found["recipe"].text


def test_a_checkpoint_that_does_not_fit_the_disk_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "free_bytes", lambda place: 1000)
    found, _ = marks(small_run(tmp_path))
    assert found["checkpoints"].mark == "bad"


def test_the_verb_exits_1_only_if_something_is_broken(tmp_path, capsys):
    recipe = make_recipe(tmp_path)
    assert main(["doctor", str(recipe)]) == 0
    out = capsys.readouterr().out
    assert "nothing is broken" in out and "parameter rules" in out
    assert all(len(line) <= 80 or str(tmp_path) in line for line in out.splitlines())
    (tmp_path / "data" / "train" / "red" / "0.png").write_bytes(b"")
    assert main(["doctor", str(recipe)]) == 1
    out = capsys.readouterr().out
    assert "1 broken" in out and "0.png" in out


def test_settings_without_a_recipe_are_taken_for_one(capsys):
    assert main(["doctor", "optim.lr=1"]) == 3
