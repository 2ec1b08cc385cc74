"""Old files of unified perceptual parsing: pairs of encoder and decoder, their history, and argument lists."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from visloom.convert import common, upp
from visloom.errors import ConfigError
from visloom.tasks.parse import Parse, Uper
from visloom.tasks.parse.broden import heads

NET = Uper("resnet50", base=2, width=8, pooled=4)
EXTRA = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Epochs 1 and 2 as the original saves them, of a narrow network: the original's names, with its spare buffers."""
    folder = tmp_path_factory.mktemp("old")
    made = {}
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        state = Parse(net=NET, heads=heads()).build().state_dict()
        made[epoch] = state
        for part in ("encoder", "decoder"):
            tensors = {n.removeprefix(f"net.{part}."): t for n, t in state.items() if f"net.{part}." in n}
            norms = {n.rpartition(".")[0] for n in tensors if n.endswith("running_mean")}
            tensors |= {f"{norm}.{name}": torch.ones(1) for norm in norms for name in EXTRA}
            if epoch == 2:  # as torch 0.4 saved them
                tensors = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
            torch.save(tensors, folder / f"{part}_epoch_{epoch}.pth")
    history = {"train": {"epoch": [0.0, 0.5, 1.0], "loss": [9.0, 7.5, 6.0], "acc": []}}
    torch.save(history, folder / "history_epoch_2.pth")
    return folder, made


def test_a_folder_gives_the_last_epoch_or_the_one_asked_for(old):
    folder, made = old
    last, first = common.convert(upp, [folder]), common.convert(upp, [folder], at="epoch:1")
    for found, epoch in ((last, 2), (first, 1)):
        assert found.task.net == NET and found.step == epoch * 5000
        assert found.tensors.keys() == made[epoch].keys()
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in made[epoch].items())
        assert not common.uncovered(found.rows)
        spare = [row for row in found.rows if row.verdict == "not needed"]
        assert spare and all(row.key.endswith(EXTRA) for row in spare)
    common.build(last)
    assert last.task.normalisation().order == "bgr" and "BGR" in last.notes[0]
    assert [(row["step"], row["values"]["loss"]) for row in last.history] == [
        (0, 9.0),
        (2500, 7.5),
        (5000, 6.0),
    ]
    assert first.history is None


def test_one_file_finds_the_other_beside_it_and_is_recognised(old):
    folder, made = old
    for name in ("encoder", "decoder"):
        path = folder / f"{name}_epoch_1.pth"
        assert common.recognise(path) is upp
        assert common.convert(upp, [path]).tensors.keys() == made[1].keys()


def test_back_under_the_old_names_is_the_identity(old):
    folder, _ = old
    found = common.convert(upp, [folder], at="epoch:1")
    back = upp.original(found.task, found.tensors)
    files = [torch.load(folder / f"{p}_epoch_1.pth") for p in ("encoder", "decoder")]
    wanted = {n: t for file in files for n, t in file.items() if not n.endswith(EXTRA)}
    assert back.keys() == wanted.keys() and all(torch.equal(back[n], wanted[n]) for n in wanted)
    timm = dataclasses.replace(found.task, net=Uper("timm:resnet18"))
    with pytest.raises(ConfigError, match="deep stem"):
        upp.original(timm, {})


def test_a_run_directory_is_made(old, tmp_path):
    folder, _ = old
    checkpoint, notes = common.keep(common.convert(upp, [folder]), tmp_path / "run")
    assert checkpoint.name == "step-00010000" and notes == []
    assert (tmp_path / "run" / "log.jsonl").read_text().count('"kind": "train"') == 3
    from visloom.report.page import write_report

    assert "loss" in write_report(tmp_path / "run").read_text(encoding="utf-8")  # the old history is drawn


def test_what_is_missing_or_wrong_is_told(old, tmp_path):
    folder, _ = old
    with pytest.raises(ConfigError, match="there are epochs 1, 2"):
        common.convert(upp, [folder], at="epoch:7")
    with pytest.raises(ConfigError, match="epoch:N"):
        common.convert(upp, [folder], at="7")
    alone = tmp_path / "encoder_epoch_1.pth"
    alone.write_bytes((folder / "encoder_epoch_1.pth").read_bytes())
    with pytest.raises(ConfigError, match="half of a network"):
        common.convert(upp, [alone])
    torch.save({"conv_last.1.weight": torch.ones(2)}, tmp_path / "ssp.pth")
    with pytest.raises(ConfigError, match="semantic-segmentation-pytorch"):
        common.convert(upp, [tmp_path / "ssp.pth"])


ARGUMENTS = """
python3 train.py --id mine --arch_encoder resnet101 --arch_decoder upernet_lite --num_gpus 4 \\
  --lr_encoder 1e-2 --lr_decoder 2e-2 --imgSize 300 400 --fix_bn 1 --num_epoch 20 --optim SGD --fc_dim 2048 \\
  --weights_encoder resnet101.pth --colour red
"""


def test_an_argument_list_becomes_a_run(tmp_path):
    file = tmp_path / "args.txt"
    file.write_text(ARGUMENTS)
    found = upp.config(file)
    run = found.run
    assert (run.name, run.task.net.encoder, run.task.net.width) == ("mine", "resnet101", 256)
    assert [part.batch for part in run.train.parts] == [8, 8] and str(run.length) == "steps:100000"
    assert run.task.sides == (300, 400) and run.how.frozen_norms == ".*"
    assert run.optim.lr == 0.01 and run.rules[1].lr == 2.0
    assert run.init == {"net.encoder": "resnet101.pth"}
    verdicts = {row.key: row.verdict for row in found.rows}
    assert verdicts["optim"] == verdicts["fc_dim"] == "not needed"
    assert [row.key for row in common.uncovered(found.rows)] == ["colour"]


ONES = {
    "namespace": "Namespace(id='mine', num_gpus=2, imgSize=[300])",
    "json": '{"id": "mine", "num_gpus": 2, "imgSize": 300}',
}


@pytest.mark.parametrize("text", ONES.values(), ids=ONES)
def test_a_printed_namespace_and_json_are_read_as_well(tmp_path, text):
    file = tmp_path / "args.txt"
    file.write_text(text)
    run = upp.config(file).run
    assert (run.name, run.train.parts[0].batch, run.task.sides) == ("mine", 4, (300,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "no arguments"),
        ("--arch_decoder ppm_bilinear_deepsup", "cannot be built"),
        ("--arch_encoder resnet50_dilated8", "arch_encoder"),
        ("--num_gpus many", "expected int"),
        ("Namespace(id=__import__('os').getcwd())", "no argument list"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(tmp_path, text, said):
    file = tmp_path / "args.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        upp.config(file)
