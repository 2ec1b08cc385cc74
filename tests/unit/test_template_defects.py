"""Defects 11 to 39 of the pytorch-segmentation template, by number: where a test shows the right behaviour.

Those without a test elsewhere have theirs here. The numbers are those of the table of its defects; 1 to 10 are of its
loaders (pairs, prefetching, splits), which streams and readers have no counterpart of.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests import segroots
from tests.small import Small, SmallModule, small_run
from visloom import saved
from visloom.config import change, dump
from visloom.convert import template
from visloom.data.clothes import CLASSES, Clothes
from visloom.drive import Telling, train
from visloom.errors import ConfigError
from visloom.module import TaskModule
from visloom.nets.smp import create
from visloom.nets.unet import UNet
from visloom.nets.upernet import Decoder, HeadShape
from visloom.recipes import clothes
from visloom.rules import resolve_rules
from visloom.run import Log, Optim, Rule
from visloom.task import Batch, Losses
from visloom.tasks.segment import Segment, SegmentBatch
from visloom.tasks.segment import metrics as counting
from visloom.tasks.segment.losses import balanced
from visloom.tasks.segment.nets import IMAGENET, Unet
from visloom.units import Monitor, Steps

HERE = Path(__file__).resolve().parents[1]
OWN = "unit/test_template_defects.py"

SHOWN = {
    11: (OWN, "test_11_", "the data set's arguments are named as they are, and one of another name is refused"),
    12: (OWN, "test_12_", "the clothes have a palette"),
    13: ("e2e/test_segment_verbs.py", "test_predict_again_into_the_same_folder", "output folders may be there"),
    14: (OWN, "test_14_", "weights are loaded whole, and the network is in evaluation mode, on any device"),
    15: (OWN, "test_15_", "0 turns patience off; n evaluations are n; NaN first is no crash"),
    16: ("e2e/test_segment_verbs.py", "test_best_and_last_are_both_kept", "the best whenever found, the last always"),
    17: (OWN, "test_17_", "a run without any logger ends with its values"),
    18: ("unit/test_convert_template.py", "test_old_checkpoints_predict_at_once_and_go_back", "numpy's number"),
    19: (OWN, "test_19_", "a checkpoint of a GPU opens on a CPU; edits of a resumed run are said"),
    20: (OWN, "test_20_", "the network's own name is kept, never a wrapper's"),
    21: ("unit/test_segment_losses.py", "test_recorded_values_and_gradients", "targets are not changed"),
    22: ("unit/test_segment_losses.py", "test_recorded_values_and_gradients", "Dice takes ignored pixels"),
    23: ("unit/test_segment_losses.py", "test_half_ignored_focal_is_the_mean_over_the_other_half", "Focal"),
    24: ("unit/test_segment_losses.py", "test_lovasz_options_do_what_they_say", "Lovasz uses its options"),
    25: ("unit/test_segment_metrics.py", "test_absent_classes_do_not_depress_the_mean", "both means"),
    26: ("unit/test_segment_metrics.py", "test_counts_stay_exact_beyond_what_float32_counts", "int64 counts"),
    27: (OWN, "test_27_", "a training step counts no confusion matrix and waits for no number"),
    28: ("unit/test_schedule.py", "test_template_curves", "the curve is a function of the step"),
    29: ("unit/test_convert_template.py", "test_missing_keys_have_the_originals_defaults", "absent keys"),
    30: ("unit/test_convert_template.py", "test_keys_go_where_they_belong", "freeze_backbone is a rule"),
    31: ("unit/test_segment.py", "test_windows_cover_every_pixel", "a stride for each axis"),
    32: (OWN, "test_32_", "every parameter of a backbone is in its group"),
    33: (OWN, "test_33_", "DeepLab has gradients with each backbone"),
    34: ("unit/test_older_nets.py", "test_any_size_is_answered_at_its_size", "odd sizes"),
    35: (OWN, "test_35_", "no two layers share weights; the pyramid is cumulative"),
    36: ("unit/test_segment.py", "test_auxiliary_outputs_are_trained_with_a_share_and_gone_in_evaluation", "auxiliary"),
    37: ("unit/test_older_nets.py", "test_segnet_takes_weights_only_where_it_is_told_to", "no surprise download"),
    38: (OWN, "test_38_", "what is imported is declared; weights for any number of classes, on any device"),
    39: ("unit/test_mask_datasets.py", "test_cityscapes_pairs_by_name_whatever_order_the_file_system_has", "pairs"),
}  # fmt: skip


def test_every_defect_has_a_test():
    assert list(SHOWN) == list(range(11, 40))
    for number, (file, name, _) in SHOWN.items():
        found = re.findall(rf"^def ({name}\w*)\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert found, f"defect {number}: {file} has no {name}"


def test_11_arguments_of_the_data_set(tmp_path: Path):
    segroots.clothes(tmp_path)
    assert len(Clothes(root=str(tmp_path))) > 0  # complete without a split, a mean, a size
    with pytest.raises(ConfigError, match=r"scale_size.*scale"):
        change(clothes.clothes(), {"train.transform.0.scale_size": [0.5, 2.0]})
    with pytest.raises(ConfigError, match=r"train, val or all"):
        change(clothes.clothes(), {"train.source.part": "training"})


def test_12_the_clothes_have_a_palette(tmp_path: Path):
    segroots.clothes(tmp_path)
    palette = Clothes(root=str(tmp_path)).palette()
    assert len(palette) == len(CLASSES) == 59
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert len(set(palette)) == 59


def _file(tmp_path: Path, **more: object) -> tuple[Path, UNet]:
    torch.manual_seed(0)
    net = UNet(3, width=4)
    file = tmp_path / "best_model.pth"
    tensors = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": tensors, "arch": "DataParallel", "epoch": 2, **more}, file)
    return file, net


def test_14_weights_are_loaded_whole_and_nothing_trains(tmp_path: Path):
    file, net = _file(tmp_path)
    opened = saved.open_saved(file, device="cpu")
    loaded = opened.task.net.state_dict()  # type: ignore[union-attr]
    assert list(loaded) == list(net.state_dict())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module.training for module in opened.task.modules())


@dataclass(frozen=True)
class Still(Small):
    """Always the same accuracy."""

    def build(self) -> TaskModule:
        return StillModule(self)


class StillModule(SmallModule):
    def forward(self, batch: Batch) -> Losses:
        found = super().forward(batch)
        return Losses({"ce": found.terms["ce"] * 0 + 1}, {}, found.count)


@pytest.mark.parametrize(("patience", "steps"), [(0, 24), (1, 10), (2, 15)])
def test_15_patience(tmp_path: Path, patience: int, steps: int):
    run = small_run(tmp_path)
    # an evaluation every 5 steps, of weights that stay as they are: nothing gets better than the first time
    setting = replace(run.evals["val"], every=Steps(5), patience=patience, monitor=Monitor("min", "loss"))
    report = train(replace(run, evals={"val": setting}, task=Still()), told=Telling(screen="off"))
    assert (report.step, report.best_step) == (steps, 5)


def test_17_without_any_logger(tmp_path: Path):
    run = small_run(tmp_path, log=Log(every=Steps(1000), tensorboard=False, report=False, images=0))
    report = train(run, told=Telling(screen="off"))
    assert report.values["val"]["loss"] > 0
    kinds = {json.loads(line)["kind"] for line in (report.directory / "log.jsonl").read_text().splitlines()}
    assert {"eval", "epoch"} <= kinds


def test_19_a_checkpoint_of_a_gpu_opens_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        file, net = _file(tmp_path)
    assert b"cuda:0" in file.read_bytes()
    found = template.weights([file])
    assert all(tensor.device.type == "cpu" for tensor in found.tensors.values())
    assert torch.equal(found.tensors["net.final_conv.weight"], net.final_conv.weight)


def test_20_the_networks_own_name(tmp_path: Path):
    file, _ = _file(tmp_path)
    found = template.weights([file])
    assert next(row for row in found.rows if row.key == "arch").verdict == "not needed"
    assert found.task.net == Unet(width=4)  # type: ignore[attr-defined]
    assert "DataParallel" not in json.dumps(dump(clothes.unet()))
    assert dump(clothes.small())["task"]["net"]["kind"].endswith("Compact")


def test_27_a_step_counts_no_matrix_and_waits_for_no_number(monkeypatch: pytest.MonkeyPatch):
    spec = Segment(net=Unet(width=4, depth=1), classes=("a", "b", "c"), normalise=IMAGENET)
    task = spec.build().train()
    image = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    mask = torch.randint(-1, 3, (2, 8, 8)).to(torch.int16)
    batch = SegmentBatch(ids=("a", "b"), image=image, mask=mask, sizes=((8, 8),) * 2)
    task(batch)  # the first picture of a size is looked at

    def never(*given: object, **named: object) -> object:
        raise AssertionError("a training step asked the device for a number, or counted pixels by class")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, never)
    monkeypatch.setattr(counting, "confusion", never)
    losses = task(batch)
    sum(losses.terms.values()).backward()
    assert set(losses.logs) == {"pixel_accuracy"}


def test_32_every_parameter_of_a_backbone_is_in_its_group():
    with torch.device("meta"):
        net = create("unet", "densenet121", 3)
    rows = resolve_rules(net, Optim(lr=1.0), (Rule(name=r"model\.encoder\.", lr=0.1),))
    inside = {row.name: row.lr for row in rows if row.name.startswith("model.encoder.")}
    assert sum("denseblock4" in name for name in inside) > 50
    assert set(inside.values()) == {0.1}
    assert {row.lr for row in rows if row.name not in inside} == {1.0}


@pytest.mark.parametrize(
    "encoder",
    ["resnet18", "resnet34", pytest.param("tu-xception41", marks=pytest.mark.nightly)],
)
def test_33_deeplab_has_gradients_with_each_backbone(encoder: str):
    net = create("deeplabv3plus", encoder, 3).train()
    net(torch.randn(2, 3, 64, 64)).mean().backward()
    used = [p for name, p in net.named_parameters() if ".fc." not in name]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in used)


def test_35_no_two_layers_share_weights_and_the_pyramid_is_cumulative():
    for net in (create("upernet", "resnet18", 3), UNet(3, width=4)):
        names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
        assert len(names) == len({id(p) for p in net.parameters()})
    torch.manual_seed(0)
    decoder = Decoder([4, 4, 4, 4], [HeadShape("head", 2, at="finest")], width=4, pooled=4)
    maps = [torch.randn(2, 4, side, side, requires_grad=True) for side in (16, 8, 4, 2)]
    decoder(maps, ["head"])["head"].square().sum().backward()
    for level in maps:  # adding neighbours alone would leave the two coarsest out of the finest
        assert level.grad is not None
        assert level.grad.any()


def test_38_what_is_imported_is_declared_and_weights_are_counted_anywhere():
    code = (
        "import sys\n"
        "for name in ('sklearn', 'skimage'): sys.modules[name] = None\n"
        "import visloom.tasks.segment.module, visloom.data.clothes, visloom.recipes.clothes, scipy.io\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    project = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    needed = project[project.index("dependencies = [") :].partition("]")[0]
    assert '"scipy' in needed
    for classes in (2, 7, 59):
        weights = balanced(list(range(1, classes + 1)), "inverse", 10.0)
        assert len(weights) == classes
        assert weights[0] > weights[-1]
