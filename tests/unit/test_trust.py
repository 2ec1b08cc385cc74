"""What a file may import and call: nothing of a stranger's runs because a file was opened."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys

import pytest

from tests.configs import sample
from visloom.config import apply, change, dump, load
from visloom.data.cifar import Cifar
from visloom.errors import ConfigError
from visloom.run import Call
from visloom.tasks.classify import Custom
from visloom.trust import CALLS, NETS, Trust, defined, modules

TRIPWIRE = "import pathlib; pathlib.Path('ran').write_text('x')\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with code that leaves a trace when it runs, on sys.path as a careless shell would have it."""
    (tmp_path / "evil_code.py").write_text(
        TRIPWIRE + "from visloom.schedule import Cosine as Evil\n"
        "from tests.configs import sample\ndef evil_code(): return sample()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("evil_code", None)


def refused(ref):
    with pytest.raises(ConfigError) as caught:
        load(ref)
    return str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": {"kind": "evil_code:Evil"}},
        {"schedule.kind": "evil_code:Evil"},
        {"task.net": {"kind": "Custom", "call": {"target": "evil_code:f"}}},
        {"task.net": {"kind": "Custom", "call": "evil_code:f"}},
        {"train.transform.+": [{"kind": "evil_code:Evil"}]},
        {"optim.name": "evil_code:f"},
        {"optim.rest": {"name": "evil_code:f"}},
        {"optim.options.x": {"kind": "evil_code:Evil"}},
        {"optim.options": {"x": [{"kind": "visloom.run:Call", "target": "os:system"}]}},
        {"task.net": {"kind": "Custom", "call": {"target": "torch.nn:Fold", "kwargs": {"x": {"kind": "evil_code:A"}}}}},
        {"extends": "evil_code.py"},
        {"extends": "evil_code.py:evil_code"},
        {"extends": "evil_code:evil_code"},
        {"extends": "os:abort"},
        {"extends": "visloom.config:load"},
        {"extends": "visloom.recipes.nothing:load"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["mine.json", "run/run.json"])
def test_opening_a_file_runs_nothing(folder, settings, name):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        json.dumps({"extends": "base.json" if name == "mine.json" else "../base.json", **settings})
    )
    harmless = change(sample(), {"train.source": Cifar(), "evals.val.stream.source": Cifar()})
    (folder / "base.json").write_text(json.dumps(dump(harmless)))
    assert load(folder / "base.json") == harmless
    said = refused(str(file))
    assert not (folder / "ran").exists(), "nothing ran"
    assert "evil_code" not in sys.modules
    assert "--trust" in said or "no recipe" in said or "no file" in said


def test_trust_lets_it_run(folder):
    (folder / "mine.yaml").write_text("extends: evil_code.py\nschedule: {kind: 'evil_code:Evil'}")
    assert load("mine.yaml", trust=True).schedule.floor == 0
    assert (folder / "ran").exists()


def test_the_folder_of_a_python_recipe_is_trusted_and_nothing_beyond_it(folder):
    (folder / "deeper").mkdir()
    (folder / "deeper" / "other_code.py").write_text(TRIPWIRE)
    sys.path.insert(0, str(folder / "deeper"))
    edits = ["task.net={kind: Custom, call: {target: 'evil_code:f'}}", "optim.name=evil_code:f"]
    assert load("evil_code.py", edits).optim.name == "evil_code:f"
    for target in (
        "other_code:f",
        "os:system",
        "sys:exit",
        "posix:system",
        "json:loads",
        "torch:load",
        "_io:open",
    ):
        with pytest.raises(ConfigError, match="none of the calls that settings may ask for"):
            load("evil_code.py", [f"optim.name={target}"])


def test_python_may_call_what_it_likes_and_settings_leave_that_alone():
    run = change(sample(), {"task.net": Custom(Call("os.path:join", {"a": 1}))})
    assert apply(run, ["task.net.call.kwargs.a=2"]).task.net.call == Call("os.path:join", {"a": 2})
    with pytest.raises(ConfigError, match=r"task\.net\.call\.target: os\.path:split is none of the calls"):
        apply(run, ["task.net.call.target=os.path:split"])


@pytest.mark.parametrize(
    "target",
    [
        "os:system", "builtins:exec", "torch:load", "torch:save", "torch.hub:load", "torch.serialization:load",
        "torch.nn:factory_kwargs", "torch.nn.functional:relu", "torch.nn:Module.load_state_dict",
        "torch.nn:functional.torch.load", "torchvision.models:_api", "torchvision.models:resnet.torch",
        "torchvision.models.resnet:load_state_dict_from_url", "torchvision.datasets:CIFAR10",
        "torchvision.io:read_file", "timm:models", "timm.models:load_checkpoint", "timm.models._hub:load",
        "segmentation_models_pytorch:from_pretrained", "numpy:load", "numpy:memmap", "pickle:loads",
        "visloom.config:load", "visloom.nets.backbone:difflib", "visloom.nets.backbone:_from_file",
        "visloom.nets:x", "visloom.nets.backbone:nn", "visloom.data.cifar:open", "visloom.nets...:x",
        "visloom.nets.../x:y", "", ":", "torch", "torch:", ":load", "torch.nn: Linear", "torch.nn:Linear\n",
    ],
)  # fmt: skip
def test_calls_that_files_may_not_make(target):
    assert not Trust().call(target)


@pytest.mark.parametrize(
    "target",
    [
        "timm:create_model", "torchvision.models:resnet18", "torchvision.models.detection:fasterrcnn_resnet50_fpn",
        "torchvision.transforms.v2:GaussianBlur", "torch.nn:CrossEntropyLoss", "torch.optim:AdamW",
        "segmentation_models_pytorch:Unet", "visloom.nets.resnet_cifar:ResNetCifar",
    ],
)  # fmt: skip
def test_calls_that_files_may_make(target):
    assert Trust().call(target)


@pytest.mark.parametrize(
    "module", ["os", "torch", "numpy", "visloom_x", "visloom.__main__", "visloom._x", "visloom..x", ""]
)
def test_kinds_come_from_visloom_alone(module):
    assert not Trust().kind(module)
    assert Trust().kind("visloom.data.town")


QUICK = [module for module in CALLS if not module.startswith("segmentation")]
SLOW = [
    pytest.param(module, marks=pytest.mark.nightly) for module in CALLS if module not in QUICK
]  # slow to import


@pytest.mark.parametrize("module", QUICK + SLOW)
def test_what_may_be_called_belongs_to_the_library_itself(module):
    """A name that a library imported from elsewhere, such as a loader of files, must not slip through."""
    loaded = importlib.import_module(module)
    home = module.split(".")[0]
    for name, value in vars(loaded).items():
        if not re.fullmatch(CALLS[module], name) or not callable(value):
            continue
        assert (value.__module__ or "").split(".")[0] == home, name
        taken = inspect.signature(value).parameters if inspect.isfunction(value) else {}
        assert not {"f", "file", "url", "checkpoint", "weights_only"} & set(taken), f"{name} reads files"


def test_networks_of_visloom_are_found_without_importing_them():
    found = [name for module in modules("visloom.nets") for name in defined(module)]
    assert "ResNetCifar" in found
    assert all(module.startswith(NETS) for module in modules("visloom.nets") if module != "visloom.nets")
