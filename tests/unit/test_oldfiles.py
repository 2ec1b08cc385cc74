"""Old files: what they may hold comes back as plain values; the rest is refused by name and runs nothing."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from visloom.convert.oldfiles import read, read_old
from visloom.errors import ConfigError


class Runs:
    """Pickles into a call of os.mkdir."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Unknown:
    pass


def named(monkeypatch, module, name, base=object):
    """A class under a name of a package that is not installed."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
    made = type(name, (base,), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def weights():
    return collections.OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(3, dtype=torch.int64))


def test_a_checkpoint_with_meta(tmp_path, monkeypatch):
    history = named(monkeypatch, "mmengine.logging.history_buffer", "HistoryBuffer")()
    type(history).mean = mean = lambda self: 0.0
    mean.__qualname__, mean.__module__ = "HistoryBuffer.mean", "mmengine.logging.history_buffer"
    history.log, history.most, history.methods = np.arange(3.0), 5, {"mean": mean}  # as mmengine keeps them
    config = named(monkeypatch, "mmcv.utils.config", "ConfigDict", dict)(lr=0.1)
    meta = {
        "epoch": np.int64(7), "loss": np.float32(0.5), "seen": np.array([[1, 2], [3, 4]], dtype=">i4").T,
        "args": argparse.Namespace(arch="resnet50", depth=50), "at": datetime.datetime(2020, 1, 1),
        "path": pathlib.PurePosixPath("a/b"), "table": collections.defaultdict(list, x=[1]), "hub": {"loss": history},
        "cfg": config, "set": {1, 2}, "bytes": b"\x00\xff",
    }  # fmt: skip
    torch.save({"meta": meta, "state_dict": weights()}, tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)
    found = read_old(tmp_path / "a.pth")
    assert found.entry == "state_dict" and found.tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    told = found.extra["meta"]
    assert told["epoch"] == 7 and type(told["epoch"]) is int and told["loss"] == 0.5
    assert told["seen"].tolist() == [[1, 3], [2, 4]] and told["args"] == {"arch": "resnet50", "depth": 50}
    assert told["path"] == "a/b" and told["table"] == {"x": [1]} and told["cfg"] == {"lr": 0.1}
    assert told["hub"]["loss"]["log"].tolist() == [0, 1, 2] and told["hub"]["loss"]["most"] == 5
    assert told["hub"]["loss"]["methods"] == {"mean": None}
    assert told["set"] == {1, 2} and told["bytes"] == b"\x00\xff"
    monkeypatch.undo()


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"])
def test_paths_as_any_python_writes_them(tmp_path, module, name):
    """Python 3.13 names another module, whichever Python reads the file."""
    written = pickle.dumps(
        {"weights": {"a": np.ones(2, np.float32)}, "path": pathlib.PurePosixPath("a/b")}, protocol=2
    )
    here = f"c{pathlib.PurePosixPath.__module__}\nPurePosixPath\n".encode()
    assert written.count(here) == 1
    (tmp_path / "a.pkl").write_bytes(written.replace(here, f"c{module}\n{name}\n".encode()))
    assert read_old(tmp_path / "a.pkl").extra["path"] == "a/b"


@pytest.mark.parametrize("old_format", [True, False])
def test_both_formats_of_torch(tmp_path, old_format):
    torch.save(weights(), tmp_path / "a.pth", _use_new_zipfile_serialization=not old_format)
    assert torch.equal(read_old(tmp_path / "a.pth").tensors["a"], weights()["a"])


def test_plain_pickles_of_arrays(tmp_path):
    blobs = {"conv1_w": np.arange(4, dtype=np.float32).reshape(2, 2), "lr": np.float64(0.5), "words": ["a"]}
    for protocol in (0, 2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=protocol))
        if protocol == 0:
            continue  # text pickles have no mark of their own
        found = read_old(tmp_path / "a.pkl")
        assert found.entry == "blobs" and found.tensors["conv1_w"].tolist() == [[0, 1], [2, 3]]
        assert found.extra == {"lr": 0.5, "words": ["a"]}


def malicious(folder):
    yield "call", Runs(folder)
    yield "inside", {"state_dict": {"a": np.ones(2)}, "meta": [Runs(folder)]}


@pytest.mark.parametrize("plain", [True, False])
def test_malicious_pickles_are_refused_by_name_and_run_nothing(tmp_path, plain):
    folder = tmp_path / "made"
    for name, value in malicious(folder):
        file = tmp_path / f"{name}.pkl"
        file.write_bytes(pickle.dumps(value, protocol=2)) if plain else torch.save(value, file)
        with pytest.raises(ConfigError, match=r"refused.*posix.*mkdir"):
            read(file)
        assert not folder.exists()


# a hand-made program of pickle opcodes each: REDUCE on a listed name, BUILD on a class, attribute chains
PROGRAMS = {
    "getattr": b"\x80\x02cbuiltins\ngetattr\nccollections\nOrderedDict\nX\x08\x00\x00\x00__init__\x86R.",
    "getattr of a getattr": b"\x80\x02cbuiltins\ngetattr\ncbuiltins\ngetattr\nX\x08\x00\x00\x00__call__\x86R.",
    "eval": b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.",
    "dotted": b"\x80\x04\x8c\x02os\x8c\x0bpath.isfile\x93.",
    "numpy": b"\x80\x02cnumpy\nload\n.",
    "torch": b"\x80\x02ctorch\nload\n.",
    "jit": b"\x80\x02ctorch.jit\nload\n.",
    "persistent": b"\x80\x02Uspid0Q.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_refused(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(PROGRAMS[name])
    with pytest.raises(ConfigError):
        read(tmp_path / "a.pkl")


def test_a_listed_name_is_never_the_thing_itself(tmp_path):
    for name in (b"numpy\ndtype", b"pathlib\nPosixPath", b"collections\ndefaultdict", b"datetime\ndatetime",
                 b"builtins\ngetattr"):  # fmt: skip
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02c" + name + b"\n.")
        assert read(tmp_path / "a.pkl") is None


def test_attributes_that_one_file_sets_do_not_reach_the_next(tmp_path):
    # BUILD on the class EasyDict with (None, {"code": "x"}), which sets an attribute of the class
    evil = b"\x80\x02ceasydict\nEasyDict\n(N}X\x04\x00\x00\x00codeX\x01\x00\x00\x00xstb."
    (tmp_path / "evil.pkl").write_bytes(evil)
    read(tmp_path / "evil.pkl")
    from visloom.convert import oldfiles

    assert not hasattr(oldfiles._Ordered, "code")


def test_arrays_of_objects_and_records_are_refused(tmp_path):
    for value in (np.array([{}], dtype=object), np.zeros(2, dtype=[("a", "f4")])):
        torch.save({"x": value, "state_dict": weights()}, tmp_path / "a.pth")
        with pytest.raises(ConfigError, match=r"a\.pth"):
            read(tmp_path / "a.pth")


def test_what_is_wrong_is_said_with_the_files_name(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*none\.pth"):
        read(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.pth"):
        read(tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ConfigError, match="no named tensors; it has epoch"):
        read_old(tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="a list, not named tensors"):
        read_old(tmp_path / "list.pth")
    torch.save({"a": Unknown()}, tmp_path / "unknown.pth")
    with pytest.raises(ConfigError, match="Unknown"):
        read(tmp_path / "unknown.pth")
    (tmp_path / "deep.pkl").write_bytes(b"\x80\x02" + 500 * b"]" + 499 * b"a" + b".")
    with pytest.raises(ConfigError, match="nested"):
        read(tmp_path / "deep.pkl")


def test_a_list_of_lists_of_one_list_costs_no_time(tmp_path):
    wide = [1.0]
    for _ in range(60):  # 2 ** 60 leaves if it were written out
        wide = [wide, wide]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(wide, protocol=2))
    found = read(tmp_path / "a.pkl")
    assert found[0] is found[1]


def test_damaged_files_never_pass_as_something(tmp_path):
    buffer = io.BytesIO()
    torch.save({"state_dict": weights()}, buffer)
    data = buffer.getvalue()
    for cut in (1, 20, len(data) // 2, len(data) - 3):
        (tmp_path / "a.pth").write_bytes(data[:cut])
        with pytest.raises(ConfigError):
            read_old(tmp_path / "a.pth")
