"""Initial weights: every kind of file, what is unwrapped and said, and what is refused in one line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from visloom import bundle
from visloom.checkpoint import Checkpoints, State
from visloom.errors import ConfigError
from visloom.init import Report, initialise, read_weights
from visloom.rundir import create, write_json


class Net(nn.Module):
    """A small network with a batch norm and a head."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 40, 3)
        self.bn = nn.BatchNorm2d(40)
        self.fc = nn.Linear(40, classes)


class Task(nn.Module):
    """What a task looks like from here: a network and something beside it."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.net = Net(classes)
        self.scale = nn.Parameter(torch.ones(1))


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    return Task()


@pytest.fixture
def trained() -> Task:
    torch.manual_seed(1)
    task = Task()
    task.net.bn.running_mean.fill_(0.25)
    task.net.bn.num_batches_tracked.fill_(77)
    return task


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same values."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.pth.tar", "w.bin"])
def test_a_file_for_a_part(tmp_path, task, trained, name):
    save = save_file if name.endswith(".safetensors") else torch.save
    save(trained.net.state_dict(), tmp_path / name)
    report = initialise(task, {"net": str(tmp_path / name)})
    assert same(task.net, trained.net)
    assert task.scale.item() == 1
    (part,) = report.parts
    assert part.coverage == 1
    assert len(part.loaded) == len(trained.net.state_dict())
    assert str(report) == (
        f"init.net from {tmp_path / name}\n"
        "  loaded          9  100.0 % of 1,405 parameters\n"
        "  missing         0\n"
        "  unexpected      0\n"
        "  wrong shape     0"
    )


def wrappers(state: dict[str, Tensor]) -> dict[str, tuple[Any, str]]:
    """Usual containers, and what the table says of each."""
    module = {f"module.{name}": value for name, value in state.items()}
    return {
        "plain": (state, "init.model from"),
        "state_dict": ({"state_dict": state, "epoch": 3}, "entry 'state_dict'"),
        "model": ({"model": state, "optimizer": {"state": {}}, "lr": 0.1}, "entry 'model'"),
        "nested": ({"model": {"state_dict": module}}, "entry 'model'; entry 'state_dict'; prefix 'module.'"),
        "module": (module, "prefix 'module.' removed from 10 keys"),
        "compiled": (
            {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
            "prefix 'module._orig_mod.' removed from 10 keys",
        ),
        "lightning": (
            {"state_dict": {f"model.{name}": v for name, v in state.items()} | {"loss.w": torch.ones(2)}},
            "prefix 'model.' removed from 10 keys, 1 keys without it left out",
        ),
        "two": ({"model": state, "model_ema": state}, "entry 'model', also there: model_ema"),
    }


@pytest.mark.parametrize("kind", list(wrappers({})))
def test_usual_containers(tmp_path, task, trained, kind):
    content, says = wrappers(trained.state_dict())[kind]
    torch.save(content, tmp_path / "w.pth")
    report = initialise(task, {"model": str(tmp_path / "w.pth")})
    assert same(task, trained)
    assert says in str(report)


def test_an_entry_can_be_chosen(tmp_path, task, trained):
    torch.save({"model": Task().state_dict(), "model_ema": trained.state_dict()}, tmp_path / "w.pth")
    report = initialise(task, {"model": f"{tmp_path / 'w.pth'}#model_ema"})
    assert same(task, trained)
    assert "entry 'model_ema', also there: model" in str(report)
    with pytest.raises(ConfigError, match="no entry 'ema' with weights; it has model, model_ema"):
        initialise(task, {"model": f"{tmp_path / 'w.pth'}#ema"})


def test_a_hash_may_be_part_of_a_path(tmp_path, task, trained):
    (tmp_path / "a#b").mkdir()
    save_file(trained.state_dict(), tmp_path / "a#b" / "w.safetensors")
    initialise(task, {"model": str(tmp_path / "a#b" / "w.safetensors")})
    assert same(task, trained)


def test_a_part_is_taken_out_of_a_whole(tmp_path, task, trained):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    report = initialise(task, {"net": str(tmp_path / "w.safetensors")})
    assert same(task.net, trained.net)
    assert "prefix 'net.' removed from 9 keys, 1 keys without it left out" in str(report)
    initialise(task, {"net.conv": str(tmp_path / "w.safetensors")})


def test_other_dtypes_are_converted_and_said(tmp_path, task, trained):
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in trained.state_dict().items()
    }
    torch.save(half, tmp_path / "w.pth")
    report = initialise(task, {"model": str(tmp_path / "w.pth")})
    assert "converted from float16" in str(report)
    assert task.net.conv.weight.dtype is torch.float32
    assert torch.equal(task.net.conv.weight, half["net.conv.weight"].float())


def test_memory_format_and_gradients_of_the_task_stay(tmp_path, task, trained):
    task.to(memory_format=torch.channels_last)
    weight = task.net.conv.weight
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    initialise(task, {"model": str(tmp_path / "w.safetensors")})
    assert task.net.conv.weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.requires_grad


# -- what does not fit ---------------------------------------------------------------------------------------


def test_the_table(tmp_path, task, trained):
    state = trained.net.state_dict()
    state["fc.weight"] = torch.zeros(9, 40)
    del state["fc.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(14)}
    save_file(state, tmp_path / "w.safetensors")
    before = task.net.fc.weight.clone()
    report = initialise(task, {"net": str(tmp_path / "w.safetensors")}, coverage=0.8)
    (part,) = report.parts
    assert (part.covered, part.total) == (1200, 1405)
    lines = str(report).splitlines()
    assert lines[1] == "  loaded          7  85.4 % of 1,405 parameters"
    assert lines[2] == "  missing         1  fc.bias"
    assert lines[3].startswith("  unexpected     14  extra.0, extra.1")
    assert lines[3].endswith(", ... and 4 more")
    assert lines[3].count("extra.") == 10
    assert lines[4] == "  wrong shape     1  fc.weight (file 9x40, model 5x40)"
    assert torch.equal(task.net.fc.weight, before)
    assert torch.equal(task.net.conv.weight, trained.net.conv.weight)


def test_too_little_coverage_changes_nothing(tmp_path, task, trained):
    save_file({"fc.weight": trained.net.fc.weight.detach()}, tmp_path / "w.safetensors")
    save_file(trained.state_dict(), tmp_path / "all.safetensors")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        initialise(task, {"model": str(tmp_path / "all.safetensors"), "net": str(tmp_path / "w.safetensors")})
    assert caught.value.path == "init.net"
    for part in ("holds 14.2 % of the parameters", "init_coverage asks for 90.0 %", "missing", "conv.weight"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_nothing_found_is_an_error_at_any_floor(tmp_path, task):
    save_file({"other": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"holds 0\.0 %"):
        initialise(task, {"model": str(tmp_path / "w.safetensors")}, coverage=0.0)


def test_weights_of_a_part_given_to_the_whole_are_recognised(tmp_path, task, trained):
    state = {f"stem.{name}": value for name, value in trained.net.state_dict().items()}
    task.stem, task.net = task.net, nn.Identity()
    save_file(trained.net.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"The file fits the sub-module 'stem': write init\.stem="):
        initialise(task, {"model": str(tmp_path / "w.safetensors")})
    save_file(state, tmp_path / "w.safetensors")
    assert initialise(task, {"model": str(tmp_path / "w.safetensors")}).parts[0].coverage > 0.99


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nett", "Did you mean net"),
        ("net.convs", "Did you mean net.conv"),
        ("backbone", "There are: model, net"),
        ("", "no sub-module ''"),
    ],
)
def test_unknown_targets_name_the_nearest(tmp_path, task, trained, target, says):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        initialise(task, {target: str(tmp_path / "w.safetensors")})
    assert says in str(caught.value)
    assert caught.value.path == f"init.{target}"


def test_parts_override_the_whole(tmp_path, task, trained):
    save_file(trained.state_dict(), tmp_path / "all.safetensors")
    save_file({"weight": torch.zeros(5, 40), "bias": torch.ones(5)}, tmp_path / "fc.safetensors")
    init = {"net.fc": str(tmp_path / "fc.safetensors"), "model": str(tmp_path / "all.safetensors")}
    report = initialise(task, init)
    assert [part.target for part in report.parts] == ["model", "net.fc"]
    assert task.net.fc.bias.tolist() == [1] * 5
    assert torch.equal(task.net.conv.weight, trained.net.conv.weight)


def test_tied_weights_count_once(tmp_path):
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        net[1].weight = net[0].weight
        return net

    net = tied()
    torch.save({"0.weight": torch.ones(8, 8)}, tmp_path / "w.pth")
    (part,) = initialise(net, {"model": str(tmp_path / "w.pth")}).parts
    assert (part.covered, part.total) == (64, 64)
    assert net[1].weight.sum() == 64


def test_no_entries_no_report(task):
    report = initialise(task, {})
    assert not report
    assert str(report) == ""
    assert report == Report()


# -- Visloom's own -------------------------------------------------------------------------------------------


def run_of(out: Path, trained: Task, *, ema: Task | None = None) -> Any:
    """A run with checkpoints at 10 (best) and 20, that also hold an optimizer."""
    run = create(out, "town")
    write_json(run.run_json, {})
    store = Checkpoints(run.checkpoints, keep=9, background=False)
    for step, scale in ((10, 3.0), (20, 4.0)):
        with torch.no_grad():
            trained.scale.fill_(scale)
        tensors = {"model": dict(trained.state_dict()), "optim": {"net.conv.weight/m": torch.ones(3)}}
        if ema is not None:
            tensors["ema"] = dict(ema.state_dict())
        store.save(State(step, tensors, {"best": 0.5}))
    store.mark_best(10)
    return run


def test_a_run_means_its_best_checkpoint(tmp_path, task, trained):
    run = run_of(tmp_path / "runs", trained)
    report = initialise(task, {"model": "town-001"}, out=tmp_path / "runs")
    assert task.scale.item() == 3
    assert "init.model from town-001 step-00000010 (best)" in str(report)
    assert not hasattr(report, "step")
    for ref, scale in ((f"{run.path}@20", 4), (f"{run.path}@latest", 4), (f"{run.path}@best", 3)):
        initialise(task, {"model": ref})
        assert task.scale.item() == scale
    initialise(task, {"model": str(run.checkpoints / "step-00000020")})
    assert task.scale.item() == 4


def test_the_average_is_taken_and_said(tmp_path, task, trained):
    average = Task()
    with torch.no_grad():
        average.scale.fill_(9)
    run = run_of(tmp_path, trained, ema=average)
    report = initialise(task, {"model": str(run.path)})
    assert task.scale.item() == 9
    assert "the average of the weights; #model takes the raw ones" in str(report)
    initialise(task, {"model": f"{run.path}#model"})
    assert task.scale.item() == 3
    with pytest.raises(ConfigError, match="holds no 'teacher'; it holds model, optim, ema"):
        initialise(task, {"model": f"{run.path}#teacher"})


def test_a_damaged_checkpoint_is_not_read(tmp_path, task, trained):
    run = run_of(tmp_path, trained)
    place = run.checkpoints / "step-00000010"
    os.truncate(place / "model.safetensors", 100)
    for ref in (str(run.path), str(place)):
        with pytest.raises(ConfigError, match=r"model\.safetensors has 100 bytes"):
            initialise(task, {"model": ref})
    assert bundle.verify(place)


def test_a_run_without_checkpoints(tmp_path, task):
    run = create(tmp_path, "town")
    write_json(run.run_json, {})
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        initialise(task, {"model": str(run.path)})


# -- refused -------------------------------------------------------------------------------------------------


class Payload:
    """A pickle that writes a file when it is loaded by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("writer", ["torch", "pickle", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_a_malicious_file_is_refused_in_one_line(tmp_path, task, writer):
    marker = tmp_path / "ran"
    content = {"state_dict": {"w": torch.ones(1)}, "more": Payload(marker)}
    path = tmp_path / "evil.pth"
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"more": Payload(marker)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ConfigError) as caught:
        initialise(task, {"model": str(path)})
    assert not marker.exists()
    message = str(caught.value)
    assert "\n" not in message
    assert "refused" in message
    assert str(path) in message
    assert "weights_only=False" not in message


def test_a_whole_pickled_module_is_refused(tmp_path, task):
    torch.save(Net(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"refused: it holds more than tensors \(.*Net\)"):
        initialise(task, {"model": str(tmp_path / "w.pth")})


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0, 1, 50, 99])
def test_truncated_files(tmp_path, task, trained, name, share):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(trained.state_dict(), path)
    os.truncate(path, path.stat().st_size * share // 100)
    with pytest.raises(ConfigError) as caught:
        initialise(task, {"model": str(path)})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "holds a list, not named tensors"),
        (torch.ones(2), "holds a Tensor, not named tensors"),
        ({"epoch": 3, "lr": 0.1}, "holds no named tensors; its entries are: epoch, lr"),
        ({}, "holds no named tensors"),
    ],
)
def test_files_without_weights(tmp_path, task, content, says):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=says):
        initialise(task, {"model": str(tmp_path / "w.pth")})


def test_what_is_not_there(tmp_path, task, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no file resnet81\.pth\. Did you mean resnet18\.pth\?"):
        initialise(task, {"model": "resnet81.pth"})
    with pytest.raises(ConfigError, match="nor a folder"):
        initialise(task, {"model": "none/w.safetensors"})
    with pytest.raises(ConfigError, match=r"init\.model: no run 'some-run'"):
        initialise(task, {"model": "some-run"})
    with pytest.raises(ConfigError, match="Download it first"):
        read_weights("https://example.org/w.pth")
