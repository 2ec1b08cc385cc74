"""CenterFusion's files: scripts as recipes, checkpoints of several makes, and back."""

from __future__ import annotations

import pytest
import torch

from tests.fusion import NARROW
from visloom.config import dump
from visloom.convert import centerfusion, common
from visloom.errors import ConfigError
from visloom.schedule import Multistep
from visloom.tasks.fusion3d import Fusion3d
from visloom.units import Epochs

SCRIPT = r"""
export CUDA_DEVICE_ORDER=PCI_BUS_ID
cd src
# train, with --batch_size 1 in a comment
python main.py \
    ddd \
    --exp_id centerfusion \
    --shuffle_train \
    --train_split train \
    --val_split mini_val \
    --val_intervals 1 \
    --run_dataset_eval \
    --nuscenes_att \
    --velocity \
    --batch_size 32 \
    --lr 2.5e-4 \
    --num_epochs 60 \
    --lr_step 50 \
    --save_point 20,40,50 \
    --gpus 0,1 \
    --not_rand_crop \
    --flip 0.5 \
    --shift 0.1 \
    --pointcloud \
    --radar_sweeps 3 \
    --max_pc_dist 60.0 \
    --pc_z_offset 0.0 \
    --pillar_dims 1.0,0.2,0.2 \
    --load_model ../models/centernet_baseline_e170.pth \
    # --freeze_backbone \
"""


def test_the_published_script(tmp_path):
    file = tmp_path / "train.sh"
    file.write_text(SCRIPT)
    made = centerfusion.config(file)
    run = made.run
    assert (
        run.train.batch == 32
        and run.length == Epochs(60)
        and run.optim.lr == 2.5e-4
        and run.optim.name == "Adam"
    )
    assert run.schedule == Multistep((Epochs(50),), gamma=0.1)
    assert (
        run.task.radar
        and run.task.max_depth == 60
        and run.save.milestones == (Epochs(20), Epochs(40), Epochs(50))
    )
    assert run.train.source.sweeps == 3 and run.evals["val"].stream.source.scenes == "mini_val"
    assert run.rules == ()  # freeze_backbone is in a comment
    assert not common.uncovered(made.rows) and len(made.rows) == 23
    assert dump(run)["name"] == "centerfusion"


def test_flags_that_are_wrong_or_unknown(tmp_path):
    file = tmp_path / "a.sh"
    file.write_text("python main.py ddd --batch_size many\n")
    with pytest.raises(ConfigError, match="--batch_size is 'many', expected int"):
        centerfusion.config(file)
    file.write_text("python main.py ddd --tracking --freeze_backbone --optim=sgd\n")
    made = centerfusion.config(file)
    assert [row.key for row in common.uncovered(made.rows)] == ["--tracking"]
    assert made.run.rules[0].frozen and made.run.optim.name == "SGD" and not made.run.task.radar
    file.write_text("echo hello\n")
    with pytest.raises(ConfigError, match="passes no flags"):
        centerfusion.config(file)
    file.write_text("python main.py --exp_id 'open\n")
    with pytest.raises(ConfigError, match="cannot be split"):
        centerfusion.config(file)


def _old(radar: bool) -> tuple[Fusion3d, dict[str, torch.Tensor]]:
    import dataclasses

    spec = Fusion3d(
        net=dataclasses.replace(NARROW, levels=(1, 1, 1, 2, 2, 1), up="deform"), hidden=4, radar=radar
    )
    torch.manual_seed(3)
    tensors = {n: torch.randn(t.shape).to(t.dtype) for n, t in spec.build().state_dict().items()}
    return spec, centerfusion.original(spec, tensors)


@pytest.mark.parametrize("radar", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_come_in_and_go_back(tmp_path, radar, prefix):
    spec, old = _old(radar)
    stored = {prefix + name: tensor for name, tensor in old.items()}
    stored[f"{prefix}base.fc.weight"] = torch.zeros(1000, 16, 1, 1)
    kept = [n for n in stored if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    state = {
        i: {"step": 7, "exp_avg": torch.randn_like(stored[n]), "exp_avg_sq": torch.rand_like(stored[n])}
        for i, n in enumerate(kept)
    }
    file = tmp_path / "model_last.pth"
    torch.save({"epoch": 3, "state_dict": stored, "optimizer": {"state": state, "param_groups": []}}, file)
    assert common.recognise(file) is centerfusion
    made = centerfusion.weights([file])
    assert made.task.radar == radar and made.task.net == spec.net and made.task.hidden == 4 and made.step == 7
    assert [row.verdict for row in made.rows].count("not needed") == 1 and not common.uncovered(made.rows)
    task = common.build(made)
    assert all(torch.equal(t, made.tensors[n]) for n, t in task.state_dict().items())
    back = centerfusion.original(made.task, made.tensors)
    assert back.keys() == old.keys() and all(torch.equal(back[n], old[n]) for n in old)
    first = "trunk.base.base_layer.0.weight"
    at = kept.index(f"{prefix}base.base_layer.0.weight")
    assert torch.equal(made.moments[first]["exp_avg"], state[at]["exp_avg"].flip(1))
    place, notes = common.keep(made, tmp_path / "imported")
    assert place.is_dir() and not [note for note in notes if "left behind" in note and "project" not in note]


def test_other_files_and_other_recipes_are_refused(tmp_path):
    _, old = _old(True)
    file = tmp_path / "a.pth"
    torch.save({"state_dict": old}, file)
    with pytest.raises(ConfigError, match="compat is"):
        centerfusion.weights([file], compat="some")
    from visloom.recipes.nuscenes import nuscenes

    with pytest.raises(ConfigError, match="holds Fusion3d"):
        centerfusion.weights([file], into=nuscenes())
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, file)
    with pytest.raises(ConfigError, match="is no DLA-34 checkpoint"):
        centerfusion.weights([file])
