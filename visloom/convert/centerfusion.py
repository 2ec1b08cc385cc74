"""CenterFusion, CenterNet and CenterTrack: their checkpoints with DLA-34, and their flags and shell scripts.

A checkpoint is {"epoch", "state_dict", "optimizer"}, at times with "module." before every name. Its network
sees BGR: the
first convolution is turned round, so that pictures stay RGB here. A script is split into words and never run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.convert.common import ConvertedConfig, ConvertedWeights, Row, only_file
from visloom.convert.oldfiles import read_old
from visloom.data.nuscenes.names import ATTRIBUTES, CLASSES
from visloom.data.photometric import ColorJitter
from visloom.data.scene3d import FlipScene, Frame
from visloom.errors import ConfigError
from visloom.recipes.nuscenes import nuscenes
from visloom.recipes.nuscenes import original as original_recipe
from visloom.run import Eval, Optim, Rule, Run, Save
from visloom.schedule import Constant, Multistep
from visloom.stream import Ordered, Shuffled
from visloom.task import TaskSpec
from visloom.tasks.fusion3d import Compat, DlaNet, Fusion3d
from visloom.units import Epochs

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("centerfusion", "centernet")
TASKS = ("Fusion3d",)

PRIMARY = {
    "hm": "heat", "reg": "offset", "wh": "size", "dep": "depth", "rot": "rotation", "dim": "dims",
    "amodel_offset": "center",
}  # fmt: skip
SECONDARY = {"dep_sec": "depth", "rot_sec": "rotation", "nuscenes_att": "attribute", "velocity": "velocity"}
_TRUNK = ("base", "dla_up", "ida_up")
_FIRST = "base.base_layer.0.weight"

LEARNED = Compat(
    window=True,
    window_units=True,
    order=True,
    thin_pillars=True,
    clipped_alpha=True,
    pixels=True,
    flip_velocity=True,
)
"""What old weights were trained with; the other defects are of the original's decoding, and are left out."""


# ------------------------------------------------------------------------------------------------------- weights


def recognises(keys: Collection[str], extra: Mapping[str, Any]) -> bool:
    """Say whether a file with these tensors is a DLA network with CenterNet's heads."""
    names = {key.removeprefix("module.") for key in keys}
    return {_FIRST, "hm.0.weight", "dep.0.weight", "dim.0.weight"} <= names


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of our module; what it does not have (the classifier of ImageNet) is left out."""
    radar = "dep_sec.0.weight" in {name.removeprefix("module.") for name in tensors}
    found = {}
    for name, tensor in tensors.items():
        new = _ours(name.removeprefix("module."), radar=radar)
        if new is not None:
            found[new] = tensor.flip(1) if new == f"trunk.{_FIRST}" else tensor
    return found


def _ours(name: str, *, radar: bool) -> str | None:
    head, _, rest = name.partition(".")
    if name.startswith("base.fc."):
        return None
    if head in _TRUNK:
        return f"trunk.{name}"
    if head in PRIMARY:
        return f"primary.{PRIMARY[head]}.{rest}"
    if head in SECONDARY:
        return f"{'secondary' if radar else 'primary'}.{SECONDARY[head]}.{rest}"
    return None


def original(task: TaskSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the original's names, the first convolution for BGR again."""
    found = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "trunk":
            found[rest] = tensor.flip(1) if rest == _FIRST else tensor
            continue
        head, _, rest = rest.partition(".")
        old = next(
            o
            for names in ((PRIMARY, SECONDARY) if part == "primary" else (SECONDARY,))
            for o, n in names.items()
            if n == head
        )
        found[f"{old}.{rest}"] = tensor
    return found


def weights(
    files: Sequence[Path], *, into: Run | None = None, at: str | None = None, compat: str = "learned"
) -> ConvertedWeights:
    """Convert one checkpoint.

    Args:
        into: the run it belongs to; its network must be the file's.
        at: not needed: Adam's moments say how many updates were done.
        compat: "learned" keeps what the weights were trained with, "all" every defect, "none" none.
    Raises:
        ConfigError: the file is of another network, or an unknown `compat`.
    """
    switches = {"learned": LEARNED, "all": Compat.original(), "none": Compat()}
    if compat not in switches:
        raise ConfigError(f"compat is {', '.join(switches)}, got {compat!r}")
    old = read_old(only_file(files))
    names = {name.removeprefix("module."): tuple(tensor.shape) for name, tensor in old.tensors.items()}
    if not recognises(names, old.extra):
        raise ConfigError(
            f"{old.path} is no DLA-34 checkpoint of CenterFusion, CenterNet or CenterTrack with 3D heads"
        )
    task = replace(_task(names), compat=switches[compat])
    if into is not None:
        if (
            not isinstance(into.task, Fusion3d)
            or into.task.outputs() != task.outputs()
            or into.task.net != task.net
        ):
            raise ConfigError(
                f"{old.path} holds {_shape(task)}, and the recipe's task {_shape(into.task)}", path="task"
            )
        task = replace(into.task, compat=switches[compat])
    rows = [_row(name, radar=task.radar) for name in old.tensors]
    notes = ["the network sees RGB here: its first convolution was turned from BGR"]
    moments, step = _moments(old.tensors, old.extra.get("optimizer"), radar=task.radar)
    if "epoch" in old.extra:
        notes.append(f"the file was saved after epoch {old.extra['epoch']}")
    original_frame = switches[compat].pixels
    run = replace(into, task=task) if into is not None else replace(_absent(original_frame), task=task)
    return ConvertedWeights(
        task, renamed(old.tensors), tuple(rows), tuple(notes), step=step, moments=moments, run=run
    )


def _absent(pixels: bool) -> Run:
    """The published recipe, for data that nobody named yet: `--data` and `predict` find them."""
    return original_recipe() if pixels else nuscenes()


def _shape(task: Any) -> str:
    return f"{type(task).__name__} {task.outputs() if isinstance(task, Fusion3d) else ''} on {getattr(task, 'net', '')}"


def _task(names: Mapping[str, tuple[int, ...]]) -> Fusion3d:
    """The task of a file, from the shapes of its tensors."""
    count = names["hm.2.weight"][0]
    attributes = names.get("nuscenes_att.2.weight", names.get("nuscenes_att.6.weight", (0,)))[0]
    deform = any("conv_offset_mask" in name for name in names)
    channels = [names[_FIRST][0], names["base.level1.0.weight"][0]]
    channels += [
        names[f"base.level{i}.{'' if i in (2, 5) else 'tree2.'}root.conv.weight"][0] for i in range(2, 6)
    ]
    return Fusion3d(
        net=DlaNet(channels=tuple(channels), up="deform" if deform else "conv1"),
        hidden=names["hm.0.weight"][0],
        classes=CLASSES if count == len(CLASSES) else tuple(f"class {i}" for i in range(count)),
        attributes=ATTRIBUTES if attributes else (),
        radar="dep_sec.0.weight" in names,
        velocity="velocity.0.weight" in names,
    )


def _row(name: str, *, radar: bool) -> Row:
    bare = name.removeprefix("module.")
    new = _ours(bare, radar=radar)
    if bare.startswith("base.fc."):
        return Row(name, "not needed", "the classifier of ImageNet")
    if new is None:
        return Row(name, "not supported", "a head that 3D detection here does not have")
    unused = re.match(r"base\.level[34]\.project\.", bare)
    return Row(name, "taken", f"{new} (never used by either program)" if unused else new)


def _moments(
    tensors: Mapping[str, Any], optimizer: Any, *, radar: bool
) -> tuple[dict[str, dict[str, Any]] | None, int]:
    """Adam's moments by our names, and the updates done; None where the file has none that fit."""
    if not isinstance(optimizer, Mapping) or not optimizer.get("state"):
        return None, 0
    kept = [n for n in tensors if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    found: dict[str, dict[str, Any]] = {}
    step = 0
    for number, values in optimizer["state"].items():
        if not isinstance(number, int) or number >= len(kept) or "exp_avg" not in values:
            return None, 0
        old = kept[number]
        new = _ours(old.removeprefix("module."), radar=radar)
        if values["exp_avg"].shape != tensors[old].shape:
            return None, 0
        if new is None:
            continue
        turn = new == f"trunk.{_FIRST}"
        found[new] = {n: values[n].flip(1) if turn else values[n] for n in ("exp_avg", "exp_avg_sq")}
        import torch

        found[new]["step"] = torch.as_tensor(float(values["step"]))
        step = max(step, int(values["step"]))
    return found, step


# -------------------------------------------------------------------------------------------------------- configs

_ELSEWHERE = """
gpus|--gpus 0,1 and --nproc 2
not_set_cuda_env|gone: devices are never set by environment
master_batch_size|gone: every process takes its share of train.batch
shuffle_train|train is shuffled
run_dataset_eval|every evaluation reports NDS
nuscenes_att|task.attributes
velocity|task.velocity
eval|visloom evaluate RUN
resume|visloom resume RUN
load_model|init.model=RUN, after import-checkpoint
not_cuda_benchmark|how.deterministic
eval_n_plots|log.images
eval_render_curves|the table of classes in the report
not_rand_crop|Frame moves pictures and never crops them at random
rotate|without effect in the original too
aug_rot|without effect in the original too
pillar_dims|task.pillar; the original overwrites it by 1.5,0.2,0.2
save_all|save.keep
max_pc|gone: lists of radar returns are as long as they are
debug|visloom inspect-data and the report
print_iter|log.every
hide_data_time|log.jsonl and speed.jsonl
vis_thresh|task.shown
warm_start_weights|init, by the names that fit
reuse_hm|init, by the names that fit
K|task.detections
out_thresh|detections below 0 have no meaning
iou_thresh|task.merge
dataset|train.source
dataset_version|version of the source
arch|task.net
dla_node|task.net.up
task|task
pc_z_offset|shift radar by a transform of your own
trainval|train.source.scenes
down_ratio|4, as in every network here
num_head_conv|1 in primary, 3 in secondary heads
pc_feat_lvl|depth and both velocities
sort_det_by_dist|the nearest box wins
"""
"""Flags that need nothing here, and why."""

_TAKEN = """
batch_size|int|train.batch
num_epochs|int|length
lr|float|optim.lr
lr_step|str|schedule
save_point|str|save.milestones
val_intervals|int|evals.val.every
radar_sweeps|int|train.source.sweeps
max_pc_dist|float|task.max_depth
flip|float|FlipScene.p
shift|float|Frame.shift
scale|float|Frame.zoom
num_workers|int|host.workers
seed|int|seed
train_split|str|train.source.scenes
val_split|str|evals.val.stream.source.scenes
exp_id|str|name
optim|str|optim.name
input_h|int|Frame.size
input_w|int|Frame.size
head_conv|int|task.hidden
prior_bias|float|task.prior
hm_weight|float|task.weights
wh_weight|float|task.weights
off_weight|float|task.weights
dep_weight|float|task.weights
dim_weight|float|task.weights
rot_weight|float|task.weights
amodel_offset_weight|float|task.weights
nuscenes_att_weight|float|task.weights
velocity_weight|float|task.weights
pointcloud||task.radar
flip_test||task.flip_test
freeze_backbone||rules
no_color_aug||train.transform
"""
"""Flags that are taken: their type ("" for a switch), and where they go."""

_HEAD_OF = {
    "hm": "heat", "wh": "size", "off": "offset", "dep": "depth", "dim": "dims", "rot": "rotation",
    "amodel_offset": "center", "nuscenes_att": "attribute", "velocity": "velocity",
}  # fmt: skip
_TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str}
_REASONS = dict(line.split("|", 1) for line in _ELSEWHERE.split("\n") if line)
_KNOWN = {
    name: (kind, place) for name, kind, place in (line.split("|") for line in _TAKEN.split("\n") if line)
}


def config(file: Path) -> ConvertedConfig:
    """Turn flags, or the shell script that passes them to main.py or test.py, into a run.

    Raises:
        ConfigError: the file cannot be read, passes no flags, or a flag's value is none.
    """
    flags = _flags(file)
    rows: list[Row] = []
    given: dict[str, Any] = {}
    for name, word in flags:
        if name in _KNOWN:
            kind, place = _KNOWN[name]
            given[name] = _value(file, name, word, _TYPES[kind]) if kind else True
            rows.append(Row(f"--{name}", "taken", place, word))
        elif name in _REASONS:
            rows.append(Row(f"--{name}", "not needed", _REASONS[name], word))
        else:
            rows.append(Row(f"--{name}", "not supported", "this flag has no meaning here", word))
    notes = []
    if given.get("scale"):
        notes.append(
            "--scale: Frame(zoom=...) scales pictures; depths stay what they are, as calibrations follow"
        )
    if "radar_sweeps" in given and given["radar_sweeps"] != 6:
        notes.append(
            "sweeps are read from their files: no annotations have to be converted for another number"
        )
    return ConvertedConfig(_run(given), tuple(rows), tuple(notes))


def _flags(file: Path) -> list[tuple[str, str]]:
    """Flags and their values, in order; continued lines are joined, comments and the rest of a script left out."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    lines = [
        line
        for line in re.sub(r"\\\s*\n", " ", text).splitlines()
        if "--" in line and not line.lstrip().startswith("#")
    ]
    found: list[tuple[str, str]] = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(
                f"{file}: the line {line.strip()[:60]!r} cannot be split into words: {error}"
            ) from error
        for at, word in enumerate(words):
            if word.startswith("--"):
                name, has, value = word[2:].partition("=")
                after = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("--") else ""
                found.append((name, value if has else after))
    if not found:
        raise ConfigError(
            f"{file} passes no flags: expected lines like `python main.py ddd --exp_id ... --batch_size 32`"
        )
    return found


def _value(file: Path, name: str, word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError as error:
        raise ConfigError(f"{file}: --{name} is {word!r}, expected {kind.__name__}") from error


def _epochs(given: Mapping[str, Any], name: str, default: str) -> list[int]:
    text = str(given.get(name, default))
    try:
        return [int(word) for word in text.split(",") if word]
    except ValueError as error:
        raise ConfigError(f"--{name} is epochs with commas, got {text!r}") from error


def _run(given: Mapping[str, Any]) -> Run:
    """The run that flags mean, with the original's defaults for those that are not given."""
    base = nuscenes()
    size = (given.get("input_h", -1), given.get("input_w", -1))
    size = (size[0] if size[0] > 0 else 448, size[1] if size[1] > 0 else 800)
    weights_of = {"size": 0.1}
    weights_of |= {head: given[f"{old}_weight"] for old, head in _HEAD_OF.items() if f"{old}_weight" in given}
    hidden = given.get("head_conv", -1)
    task = Fusion3d(
        radar=bool(given.get("pointcloud")),
        max_depth=given.get("max_pc_dist", 100.0),
        flip_test=bool(given.get("flip_test")),
        hidden=hidden if hidden > 0 else 256,
        prior=given.get("prior_bias", -4.6),
        weights=weights_of,
        compat=LEARNED,
    )
    jitter = () if given.get("no_color_aug") else (ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),)
    source = replace(
        base.train.leaves()[0].source,
        scenes=given.get("train_split", "train"),
        sweeps=min(12, given.get("radar_sweeps", 1)),
    )
    frame = Frame(
        size=size, shift=given.get("shift", 0.0), zoom=min(0.9, given.get("scale", 0.0)), original=True
    )
    train = Shuffled(
        source=source,
        batch=given.get("batch_size", 32),
        transform=(FlipScene(p=given.get("flip", 0.5), original=True), frame, *jitter),
    )
    val = replace(source, scenes=given.get("val_split", "val"))
    every = given.get("val_intervals", 10)
    evaluation = Eval(
        stream=Ordered(source=val, batch=train.batch, transform=(Frame(size=size, original=True),)),
        every=Epochs(every) if every > 0 else None,
        monitor=base.evals["val"].monitor,
    )
    steps = _epochs(given, "lr_step", "60")
    points = _epochs(given, "save_point", "90")
    sgd = given.get("optim", "adam") == "sgd"
    options = {"momentum": 0.9} if sgd else {}
    return replace(
        base,
        name=given.get("exp_id", "default"),
        task=task,
        train=train,
        evals={"val": evaluation},
        length=Epochs(given.get("num_epochs", 70)),
        optim=Optim(
            name="SGD" if sgd else "Adam",
            lr=given.get("lr", 1.25e-4),
            weight_decay=1e-4 if sgd else 0.0,
            options=options,
        ),
        schedule=Multistep(tuple(Epochs(e) for e in steps), gamma=0.1) if steps else Constant(),
        rules=(Rule(name=r"trunk\..*", frozen=True),) if given.get("freeze_backbone") else (),
        save=Save(every=Epochs(1), milestones=tuple(Epochs(e) for e in points) or None),
        host=replace(base.host, workers=given.get("num_workers", 4)),
        seed=given.get("seed", 317),
    )
