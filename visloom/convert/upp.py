"""Unified perceptual parsing: encoder_epoch_N.pth with decoder_epoch_N.pth, its history, and its argument list.

Both files are bare state dicts. Their batch norms hold three more buffers, of the multi-GPU statistics; those are not
needed. Names here have `net.encoder.` and `net.decoder.` in front. Pictures are turned to BGR, as weights expect, by
the task's normalisation.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom.convert.common import ConvertedConfig, ConvertedWeights, Row, Verdict
from visloom.convert.oldfiles import read, read_old
from visloom.errors import ConfigError
from visloom.run import Host, Log, Optim, Rule, Run
from visloom.schedule import Poly
from visloom.stream import Mixture, Stream
from visloom.task import TaskSpec
from visloom.tasks.parse import Parse, Uper
from visloom.tasks.parse.broden import heads
from visloom.units import Steps

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("upp", "unifiedparsing")
TASKS = ("Parse",)

_ENCODER = {"conv3.weight", "bn3.running_mean", "layer4.0.conv1.weight"}
_DECODER = {"ppm_conv.0.0.weight", "ppm_last_conv.0.weight", "conv_fusion.0.weight"}
_UNUSED = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")
_FILE = re.compile(r"(encoder|decoder|history)_epoch_(\d+)\.pth")

_DERIVED = ("batch_size", "max_iters", "running_lr_encoder", "running_lr_decoder", "nr_classes")

EPOCH = 5000
"""Steps that the original calls an epoch, unless told otherwise."""


def recognises(keys: Collection[str], extra: Mapping[str, Any]) -> bool:
    """Say whether a file with these tensors is an encoder or a decoder of the original."""
    names = {key.removeprefix("module.") for key in keys}
    return names >= _DECODER or (names >= _ENCODER and "fc.weight" not in names)


def weights(
    files: Sequence[Path], *, into: Run | None = None, at: str | None = None, epoch_iters: str = str(EPOCH)
) -> ConvertedWeights:
    """Convert an encoder and its decoder.

    Args:
        files: the two files in any order, with the history or without; one of the two, where the other lies beside it;
            or the folder that they lie in.
        into: the run they belong to; its task must have the same network.
        at: "epoch:N", which of the files in a folder; the last one if it does not say.
        epoch_iters: steps of one epoch, for the position.
    Raises:
        ConfigError: a file is missing, or none of the original's.
    """
    found = _files(files, at)
    steps = _whole(epoch_iters)
    tensors: dict[str, Tensor] = {}
    rows: list[Row] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("encoder", "decoder"):
        for name, tensor in read_old(found[part]).tensors.items():
            plain = name.removeprefix("module.")
            if plain.endswith(_UNUSED):
                rows.append(Row(f"{part}.{name}", "not needed", "statistics of several GPUs, on their way"))
                continue
            tensors[f"net.{part}.{plain}"] = tensor
            shapes[f"{part}.{plain}"] = tuple(tensor.shape)
    net = _net(shapes, found["encoder"], found["decoder"])
    task = _task(net, shapes, into, found["decoder"])
    wanted = _our_tensors(task)
    notes = [
        "these weights see BGR pictures minus a mean: task.normalise does so, pictures are read as RGB as always"
    ]
    for name in list(tensors):
        old = name.removeprefix("net.")
        if name in wanted:
            rows.append(Row(old, "taken", name))
        else:
            rows.append(Row(old, "not supported", "UPerNet has no such tensor"))
            del tensors[name]
    counters = {n: v for n, v in wanted.items() if n.endswith("num_batches_tracked") and n not in tensors}
    tensors |= counters  # files of torch 0.4 do not have them, and nothing depends on them
    epoch = _epoch(found["encoder"])
    history = None
    if "history" in found:
        history = _history(found["history"], steps)
        rows.append(Row("history", "taken", "log.jsonl"))
    run = None if into is None else replace(into, task=task)
    return ConvertedWeights(
        task, tensors, tuple(rows), tuple(notes), step=epoch * steps if epoch else 0, history=history, run=run
    )


def original(task: TaskSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of encoder and decoder under the original's names, which do not meet.

    Raises ConfigError for an encoder that the original does not have.
    """
    net = getattr(task, "net", None)
    if not isinstance(net, Uper) or net.encoder.startswith("timm:"):
        what = net.encoder if isinstance(net, Uper) else type(task).__name__
        raise ConfigError(
            f"the original has no {what}: its encoders are ResNets with a deep stem", path="task.net"
        )
    found: dict[str, Tensor] = {}
    for part in ("net.encoder.", "net.decoder."):
        found |= {n.removeprefix(part): tensor for n, tensor in tensors.items() if n.startswith(part)}
    return found


def _files(files: Sequence[Path], at: str | None) -> dict[str, Path]:
    """The files by their part."""
    wanted = None
    if at is not None:
        match = re.fullmatch(r"epoch:(\d+)", at)
        if match is None:
            raise ConfigError(f"--at is written epoch:N here, got {at!r}")
        wanted = int(match[1])
    found: dict[str, Path] = {}
    for path in files:
        if path.is_dir():
            found |= _in_folder(path, wanted)
        else:
            found[_part(path)] = path
    for part, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if part in found and other not in found:
            beside = found[part].with_name(found[part].name.replace(part, other))
            if beside == found[part] or not beside.is_file():
                raise ConfigError(
                    f"{found[part]} is half of a network: give its {other} as well ({beside.name})"
                )
            found[other] = beside
    if "encoder" not in found:
        raise ConfigError(f"no encoder and decoder among {', '.join(map(str, files))}")
    if wanted is not None and _epoch(found["encoder"]) not in (None, wanted):
        raise ConfigError(f"{found['encoder']} is not of epoch {wanted}; name the folder to choose")
    beside = found["encoder"].with_name(found["encoder"].name.replace("encoder", "history"))
    if "history" not in found and beside != found["encoder"] and beside.is_file():
        found["history"] = beside
    return found


def _in_folder(folder: Path, wanted: int | None) -> dict[str, Path]:
    epochs: dict[int, dict[str, Path]] = {}
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match is not None:
            epochs.setdefault(int(match[2]), {})[match[1]] = path
    whole = sorted(epoch for epoch, parts in epochs.items() if {"encoder", "decoder"} <= parts.keys())
    if not whole or (wanted is not None and wanted not in whole):
        there = f"there are epochs {', '.join(map(str, whole))}" if whole else "there is no pair of files"
        raise ConfigError(
            f"{folder}: no encoder_epoch_N.pth with decoder_epoch_N.pth of the wanted epoch; {there}"
        )
    return epochs[whole[-1] if wanted is None else wanted]


def _part(path: Path) -> str:
    if path.name.startswith("history"):
        return "history"
    names = {name.removeprefix("module.") for name in read_old(path).tensors}
    if names >= _DECODER:
        return "decoder"
    if names >= _ENCODER:
        return "encoder"
    if "conv_last.1.weight" in names:
        raise ConfigError(
            f"{path} is a decoder with one head, of another system (semantic-segmentation-pytorch)"
        )
    raise ConfigError(f"{path} is neither an encoder nor a decoder of unified perceptual parsing")


def _epoch(path: Path) -> int | None:
    match = re.search(r"epoch_(\d+)", path.name)
    return int(match[1]) if match else None


def _net(shapes: Mapping[str, tuple[int, ...]], encoder: Path, decoder: Path) -> Uper:
    """The network that tensors belong to, with the original's pooling. Raises ConfigError for an unknown one."""
    blocks = tuple(
        len({n.split(".")[2] for n in shapes if n.startswith(f"encoder.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    grouped = shapes.get("encoder.layer1.0.conv2.weight", (0, 0))
    many = grouped[0] != grouped[1]
    names = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnext101" if many else "resnet101"}
    if blocks not in names or (many and names[blocks] == "resnet50"):
        raise ConfigError(f"{encoder}: stages of {blocks} blocks are no ResNet-50 or 101 of the original")
    if "decoder.ppm_last_conv.0.weight" not in shapes:
        raise ConfigError(f"{decoder} is no decoder of unified perceptual parsing")
    return Uper(
        names[blocks],
        width=shapes["decoder.ppm_last_conv.0.weight"][0],
        pooled=shapes["decoder.ppm_conv.0.0.weight"][0],
        pooling="precise",
        order="upsample",
        base=shapes["encoder.conv1.weight"][0],
    )


def _task(net: Uper, shapes: Mapping[str, tuple[int, ...]], into: Run | None, path: Path) -> Parse:
    ends = {"object": "1", "part": "1", "scene": "2", "material": "1"}
    counts = {
        name: shapes[f"decoder.{name}_head.{end}.weight"][0]
        for name, end in ends.items()
        if f"decoder.{name}_head.{end}.weight" in shapes
    }
    task = into.task if into is not None else Parse(net=net, heads=heads(*counts), antialias=False)
    if not isinstance(task, Parse):
        raise ConfigError(f"{path} is for a task Parse, --into has {type(task).__name__}", path="task")
    theirs = {head.name: len(head.labels) for head in task.heads}
    if theirs != counts:
        raise ConfigError(f"{path} has heads {counts}, and the task {theirs}", path="task.heads")
    kept = replace(net, norm_momentum=task.net.norm_momentum)
    if into is not None and task.net != kept:
        raise ConfigError(f"{path} holds {kept!r}, --into has {task.net!r}", path="task.net")
    return task


def _our_tensors(task: Parse) -> dict[str, Tensor]:
    """Names of the module's tensors; counters of batches as zeros, the others without memory."""
    import torch

    with torch.device("meta"):
        names = {f"net.{n}": t for n, t in task.net.build(task.heads, task.channels).state_dict().items()}
    return {
        n: torch.zeros((), dtype=t.dtype) if n.endswith("num_batches_tracked") else t
        for n, t in names.items()
    }


def _history(path: Path, steps: int) -> list[dict[str, Any]]:
    """Rows of log.jsonl: the loss at each point that was logged, by fractional epoch there, by step here."""
    value = read(path)
    train = value.get("train") if isinstance(value, Mapping) else None
    if not isinstance(train, Mapping) or len(train.get("epoch", ())) != len(train.get("loss", ())):
        raise ConfigError(
            f"{path} is no history of the original: expected train with epoch and loss of one length"
        )
    return [
        {"kind": "train", "split": "train", "step": round(float(epoch) * steps), "epoch": float(epoch),
         "values": {"loss": float(loss)}}
        for epoch, loss in zip(train.get("epoch", ()), train.get("loss", ()), strict=True)
    ]  # fmt: skip


def _whole(text: str) -> int:
    if not str(text).isdecimal() or int(text) < 1:
        raise ConfigError(f"epoch_iters is a number of steps, got {text!r}")
    return int(text)


# ------------------------------------------------------------------------------------------------------- arguments


class _Arguments:
    """The original's arguments by name, and what became of each."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.left = given
        self.rows: list[Row] = []

    def take(self, name: str, default: Any, note: str, verdict: Verdict = "taken") -> Any:
        """Return a value (of the default's type) and say where it went; the default where it is not given."""
        if name not in self.left:
            return default
        value = self.left.pop(name)
        self.rows.append(Row(name, verdict, note))
        try:
            return value if default is None else type(default)(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{name}: expected {type(default).__name__}, got {value!r}", path=name
            ) from error


_WHY = {
    "fc_dim": "the encoder's maps tell their width",
    "optim": "the original ignores it and takes SGD",
    "start_epoch": "visloom resume goes on from a run; imported weights begin a new one",
}


def config(file: Path) -> ConvertedConfig:
    """Turn an argument list into a run on Broden+: a command line, a printed Namespace, or a JSON object."""
    from visloom.recipes.broden import broden

    args, base = _Arguments(_read_arguments(file)), broden()
    take = args.take
    epochs, steps = take("num_epoch", 40, "length"), take("epoch_iters", EPOCH, "length and train.epoch")
    rate, other = (
        take("lr_encoder", 0.02, "optim.lr"),
        take("lr_decoder", 0.02, "rules: the decoder's factor"),
    )
    decay, beta = (
        take("weight_decay", 1e-4, "optim.weight_decay"),
        take("beta1", 0.9, "optim.options.momentum"),
    )
    run = replace(
        base,
        name=re.sub(r"[^\w-]", "-", str(take("id", "broden", "name"))) or "broden",
        task=_task_of(args, base.task),
        train=_train_of(args, base.train, steps),
        length=Steps(epochs * steps),
        optim=Optim(name="SGD", lr=rate, weight_decay=decay, options={"momentum": beta}),
        rules=(
            Rule(name=r"net\.encoder\.", lr=1.0),
            Rule(name=r"net\.decoder\.", lr=other / rate),
            *base.rules[2:],
        ),
        schedule=Poly(take("lr_pow", 0.9, "schedule.power; the original's rate lags a step: schedule.lag=1")),
        how=replace(base.how, frozen_norms=".*" if take("fix_bn", 0, "how.frozen_norms") else None),
        host=Host(
            workers=take("workers", 16, "host.workers; the original starts so many for each source"),
            out=take("ckpt", "runs", "host.out"),
        ),
        log=Log(every=Steps(take("disp_iter", 20, "log.every"))),
        seed=take("seed", 304, "seed; the original leaves numpy unseeded, so its order was never the same"),
        init={
            f"net.{part}": path
            for part in ("encoder", "decoder")
            if (path := take(f"weights_{part}", "", f"init.net.{part}"))
        },
    )
    for name in list(args.left):
        known = name in _WHY or name in _DERIVED
        note = _WHY.get(name, "derived from the others" if known else "the original has no such argument")
        take(name, None, note, "not needed" if known else "not supported")
    return ConvertedConfig(run, tuple(args.rows))


def _task_of(args: _Arguments, base: TaskSpec) -> Parse:
    """The task that arguments describe. Raises ConfigError for a network that cannot be built."""
    assert isinstance(base, Parse)
    decoder = args.take("arch_decoder", "upernet", "task.net.width")
    if decoder not in ("upernet", "upernet_lite"):
        raise ConfigError(f"arch_decoder {decoder!r} cannot be built in the original either; it has upernet and "
                          "upernet_lite")  # fmt: skip
    encoder = args.take("arch_encoder", "resnet50", "task.net.encoder")
    try:
        net = Uper(encoder, width=512 if decoder == "upernet" else 256)
    except ValueError as error:
        raise ConfigError(f"arch_encoder: {error}", path="arch_encoder") from error
    sides = args.take("imgSize", None, "task.sides")
    return replace(
        base,
        net=net,
        sides=tuple(int(side) for side in _list(sides)) if sides is not None else base.sides,
        longest=args.take("imgMaxSize", 1000, "task.longest"),
        stride=args.take("padding_constant", 32, "task.stride"),
        rate=args.take("segm_downsampling_rate", 4, "task.rate"),
    )


def _train_of(args: _Arguments, base: Stream, steps: int) -> Mixture:
    """The training stream: pictures of all GPUs in one batch."""
    assert isinstance(base, Mixture)
    where = "train.parts.*.batch"
    batch = args.take("num_gpus", 8, where) * args.take("batch_size_per_gpu", 2, where)
    flip = str(
        args.take("random_flip", "True", "train.parts.*.transform: any text but an empty one meant yes")
    )
    parts = tuple(replace(part, batch=batch, transform=part.transform if flip else ()) for part in base.parts)
    return replace(base, parts=parts, epoch=steps)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _read_arguments(file: Path) -> dict[str, Any]:
    """Arguments by name from a text; nothing in it is run."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    try:
        if text.lstrip().startswith("{"):
            return dict(json.loads(text))
        if "Namespace(" in text:
            inside = text[text.index("Namespace(") :].strip()
            call = ast.parse(inside, mode="eval").body
            assert isinstance(call, ast.Call)
            return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except (ValueError, SyntaxError, AssertionError) as error:
        raise ConfigError(f"{file} is no argument list: {error}") from error
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = [value] if value else []
        elif name:
            found[name].append(word)
    if not found:
        raise ConfigError(f"{file} holds no arguments; expected --id NAME ..., a Namespace or JSON")
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}
