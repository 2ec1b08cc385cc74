"""Show: a run as a readable tree, and its network as a table of layers.

rows(run)              one line per setting; those that differ from their class's default are marked
layers(run)            every layer: output shape, parameters, operations, for the size that the recipe feeds
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visloom import slots
from visloom.config import dump
from visloom.errors import DataError, VisloomError
from visloom.kinds import short
from visloom.paths import is_object
from visloom.run import Run
from visloom.stream import rooted, subkey
from visloom.words import safe

if TYPE_CHECKING:
    from torch import nn

    from visloom.task import Batch, TaskSpec


@dataclass(frozen=True)
class Row:
    """One line of the tree. level: depth.  changed: it differs from the default of its class."""

    level: int
    name: str
    value: str
    changed: bool = False
    default: str = ""


def rows(run: Run) -> Iterator[Row]:
    """Yield the tree of a run, one row per setting."""
    yield from _fields(run, dump(run), 0)


def _fields(value: Any, plain: Mapping[str, Any], level: int) -> Iterator[Row]:
    for field in slots.settable(type(value)):
        inner, default = getattr(value, field.name), slots.default(field)
        changed = default is not MISSING and inner != default
        usual = _word(default, None) if changed and not is_object(default) else ""
        yield from _one(field.name, inner, plain[field.name], level, changed=changed, default=usual)


def _one(
    name: str, value: Any, plain: Any, level: int, *, changed: bool = False, default: str = ""
) -> Iterator[Row]:
    if is_object(value):
        yield Row(level, name, short(type(value)), changed, default)
        yield from _fields(value, plain, level + 1)
    elif isinstance(value, list | tuple) and any(map(is_object, value)):
        yield Row(level, name, "", changed, default)
        for number, item in enumerate(value):
            yield from _one(f"- {number}", item, plain[number], level + 1)
    elif isinstance(value, Mapping) and value:
        yield Row(level, name, "", changed, default)
        for key, item in value.items():
            yield from _one(str(key), item, plain[key], level + 1)
    else:
        yield Row(level, name, _word(value, plain), changed, default)


def _word(value: Any, plain: Any) -> str:
    """Write a leaf as it is written in files."""
    shown = value if plain is None else plain
    if shown is None:
        return "null"
    if isinstance(shown, bool):
        return str(shown).lower()
    if isinstance(shown, list | tuple):
        return f"[{', '.join(_word(item, None) for item in shown)}]"
    if isinstance(shown, Mapping):
        return "{" + ", ".join(f"{k}: {_word(v, None)}" for k, v in shown.items()) + "}"
    return safe(f"{shown:g}" if isinstance(shown, float) else '""' if shown == "" else shown)


def header(ref: str) -> str:
    """The first lines of a settings file that `show --write` writes."""
    return f"# Every setting of {safe(ref)}. To train it: visloom train THIS_FILE\n"


# ------------------------------------------------------------------------------------------------- the network


@dataclass(frozen=True)
class Layer:
    """One module. shape: of its output for a batch of one.  own: parameters that it owns itself.

    flops: of the answer to one sample, with all of its views: multiplications and additions, counted apart, of
        convolutions, matrix products and attention.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    own: int
    flops: int


@dataclass(frozen=True)
class Network:
    """The table of a network. size: what it was fed.  notes: what had to be assumed."""

    layers: list[Layer]
    parameters: int
    frozen: int
    flops: int
    size: tuple[int, ...]
    notes: list[str]


def layers(run: Run) -> Network:
    """Build a run's task on the CPU and describe its network, for one sample as the recipe feeds it.

    Works without the data set: a made-up picture goes through the training transforms.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from visloom.loader import collated

    spec, sample, notes = _with_sample(run)
    bare = getattr(spec, "bare", None)  # pretrained weights change no shape
    task = (bare() if callable(bare) else spec).build().eval()
    batch = collated(spec, [sample], None)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in task.named_modules():
        module.register_forward_hook(_noting(shapes, name))
    calls: Counter[str] = Counter()
    for name, child in task.named_children():
        child.register_forward_hook(_counting(calls, name))
    counter = FlopCounterMode(display=False)
    asked = _asking(task)  # the counter names layers by the module that is called
    with torch.no_grad(), counter:
        asked(batch)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    found = []
    for name, module in task.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if name and (own or not any(True for _ in module.children())):
            flops = counts.get(f"{type(asked).__name__}.task.{name}", 0)
            found.append(Layer(name, type(module).__name__, shapes.get(name), own, flops))
    passes = max(calls.values(), default=1)
    if passes > 1:
        notes.append(
            f"an answer takes {passes} passes of the network (its views, say): MFLOP are those of all"
        )
    every = list(task.parameters())
    frozen = sum(p.numel() for p in every if not p.requires_grad)
    return Network(
        found, sum(p.numel() for p in every), frozen, counter.get_total_flops(), _shape_of(batch), notes
    )


def _asking(task: Any) -> nn.Module:
    """Return a module whose forward is the task's `predict`."""
    from torch import nn

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task = task

        def forward(self, batch: Any) -> Any:
            return self.task.predict(batch)

    return Asking()


def _noting(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def note(module: Any, given: Any, made: Any) -> None:
        first = made[0] if isinstance(made, list | tuple) and made else made
        if hasattr(first, "shape"):
            shapes.setdefault(name, tuple(first.shape))

    return note


def _counting(calls: Counter[str], name: str) -> Any:
    def count(module: Any, given: Any, made: Any) -> None:
        calls[name] += 1

    return count


def _shape_of(batch: Batch) -> tuple[int, ...]:
    image: Any = getattr(batch, "image", None)
    return tuple(image.shape) if hasattr(image, "shape") else ()


def _with_sample(run: Run) -> tuple[TaskSpec, Any, list[str]]:
    """Return the task with its class names, one transformed training sample, and what had to be assumed."""
    from visloom.assemble import classes_of

    leaf = rooted(run.train, Path(run.host.data)).leaves()[0]
    spec: Any = run.task
    notes = []
    try:
        classes = classes_of(leaf.source)
        sample = leaf.source.read(0)
    except (VisloomError, OSError):
        classes = ()
        sample = _made_up(getattr(spec, "channels", 3))
        notes.append(f"the data are not in {run.host.data}: a made-up picture stands in for them")
    if not spec.classes:
        if not classes:
            classes = tuple(f"class {i}" for i in range(10))
            notes.append("the data name the classes and are not here: 10 of them are assumed")
        spec = replace(spec, classes=tuple(classes))
    for position, transform in enumerate(leaf.transform):
        sample = transform(sample, subkey(0, position))
    return spec, sample.resolve(), notes


def _made_up(channels: int) -> Any:
    import numpy as np

    from visloom.sample import Sample

    return Sample("made-up", np.zeros((256, 256, channels), np.uint8), 0)


def table(network: Network) -> list[Sequence[str]]:
    """Return the layers as rows of text, the first one a header."""
    lines: list[Sequence[str]] = [("layer", "kind", "output", "parameters", "MFLOP")]
    for layer in network.layers:
        shape = "x".join(map(str, layer.shape[1:])) if layer.shape and len(layer.shape) > 1 else ""
        lines.append(
            (
                layer.name, layer.kind, shape, f"{layer.own:,}" if layer.own else "",
                f"{layer.flops / 1e6:,.2f}" if layer.flops else "",
            )
        )  # fmt: skip
    return lines


def write(run: Run, ref: str, file: Path) -> None:
    """Write a run as a settings file; refuses to overwrite.

    Raises UsageError where there is a file already, DataError where none can be written.
    """
    from visloom.config import to_yaml
    from visloom.durable import refuse_existing

    refuse_existing(file, "another name")
    text = header(ref) + to_yaml(run)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror or error}") from error
