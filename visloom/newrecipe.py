"""New recipe: look at a folder of data, say what it is, and write a short recipe that trains on it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from visloom.config import load
from visloom.durable import refuse_existing
from visloom.errors import ConfigError, DataError, UsageError
from visloom.place import join, one_of
from visloom.refs import recipes
from visloom.run import Run
from visloom.rundir import safe_name
from visloom.stream import Shuffled, rooted
from visloom.words import safe

if TYPE_CHECKING:
    from visloom.data.layout import Layout

_RECIPE_OF = {
    "Cifar": "{name}",
    "Mnist": "{name}",
    "VocLabels": "voc_labels",
    "Clothes": "clothes",
    "NuScenes": "nuscenes",
    "Converted": "nuscenes",
    "Scenes": "scenes",
    **dict.fromkeys(
        ("Masks", "Voc", "Cityscapes", "Ade20k", "CocoStuff", "CocoStuff10k", "DeepScene"), "masks"
    ),
    **dict.fromkeys(("Coco", "VocXml", "Yolo", "BoxTable"), "boxes"),
}  # class of a source -> recipe that knows it; `folder` takes every other one


@dataclass(frozen=True)
class Made:
    """A recipe that was written. said: what was seen, one fact per line."""

    file: Path
    said: tuple[str, ...]


def write_new(file: Path, data: Path) -> Made:
    """Look at `data` and write a settings file for it.

    Raises:
        UsageError: the name is not that of a YAML file, or the file exists.
        DataError: no reader knows what the folder holds; the file cannot be written.
    """
    from visloom.data.layout import recognise

    if file.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"a recipe file ends in .yaml, got {file}; for example {file.stem or 'mine'}.yaml")
    refuse_existing(file, "another name")
    if data.is_file() and data.suffix.lower() in (".yaml", ".yml"):
        from visloom.data.annotated import layout as of_sources

        layout: Layout | None = of_sources(data)
        data = data.parent
    elif not data.is_dir():
        raise DataError(f"--data {data}: there is no such folder")
    else:
        layout = recognise(data)
    if layout is None:
        raise DataError(_unknown(data))
    text = "".join(f"{line}\n" for line in recipe_lines(file, data.absolute(), layout))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror or error}") from error
    return Made(file, (layout.kind, *layout.said))


def _unknown(data: Path) -> str:
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in data.iterdir())[:8]
    return (
        f"{data}: no reader knows what this folder holds. It has {one_of(inside, 'and')}\n"
        "  understood are: class folders (cats/1.jpg, or train/cats/1.jpg and val/cats/9.jpg); a list file or "
        "CSV with paths and labels;\n  images.npy with labels.npy; CIFAR in its python version; MNIST's idx files; "
        "pictures with masks (images/1.jpg and masks/1.png,\n  also in train/ and val/); boxes in COCO's JSON, VOC's "
        "XML, YOLO's text files (with data.yaml or classes.txt) or a CSV table;\n  cameras and radar with scenes.json "
        "(docs/scenes.md); a data root of nuScenes; PASCAL VOC, Cityscapes,\n  ADE20K, COCO-Stuff, DeepScene, "
        "Clothing Co-Parsing, Broden+ as they are published; several sources that a sources.yaml\n  names "
        "(docs/own_sources.md)"
    )


def recipe_lines(file: Path, data: Path, layout: Layout) -> Iterator[str]:
    """Yield the lines of a recipe: what it extends, where the data are, and what one changes first."""
    if layout.recipe:
        yield from _several(file, data, layout)
        return
    train, val = layout.parts["train"], layout.parts.get("val", layout.parts["train"])
    base = _RECIPE_OF.get(type(train).__name__, "folder").format(name=getattr(train, "name", ""))
    if base not in recipes():
        raise ConfigError(f"the recipe {base!r} is not part of this installation")
    run = load(base)
    evaluation = next(iter(run.evals))
    count = len(rooted(train, data))
    yield f"# {safe(layout.kind)}: {count:,} samples to train on, {len(rooted(val, data)):,} to validate on."
    yield from _head(file, data, base)
    bases = run.train.leaves()[0].source, run.evals[evaluation].stream.leaves()[0].source
    yield f"train.source: {_word(_brief(train, bases[0]))}"
    yield f"{join('evals', evaluation)}.stream.source: {_word(_brief(val, bases[1]))}"
    classes = _names(train, data, layout)
    if classes:
        yield f"task.classes: {_word(list(classes))}"
    for path, value in layout.settings.items():
        yield f"{path}: {_word(value)}"
    batch = _batch(run, count)
    if batch is not None:
        yield f"train.batch: {batch}  # smaller than usual: there are few samples"
    yield from _first_changes(run)


def _several(file: Path, data: Path, layout: Layout) -> Iterator[str]:
    """The lines for a layout that says itself what its recipe sets."""
    for fact in (layout.kind, *layout.said):
        yield f"# {safe(fact)}"
    yield from _head(file, data, layout.recipe)
    run = load(layout.recipe)
    for name in run.evals:
        if join("evals", name) not in layout.settings:
            yield f"{join('evals', name)}: null"
    for path, value in layout.settings.items():
        plain = _brief(value)
        if isinstance(plain, list) and plain and isinstance(plain[0], dict):
            yield f"{path}:"
            yield from (f"  - {_word(item)}" for item in plain)
        else:
            yield f"{path}: {_word(plain)}"
    yield from _first_changes(run)


def _head(file: Path, data: Path, base: str) -> Iterator[str]:
    yield f"# Look at the data: visloom inspect-data {file.name}   Then: visloom train {file.name}"
    yield f"extends: {base}"
    yield f"name: {_word(safe_name(file.stem))}"
    yield f"host.data: {_word(str(data))}"


def _first_changes(run: Run) -> Iterator[str]:
    """What one changes first."""
    yield f"length: {run.length}  # how long; steps:N counts updates"
    yield f"optim.lr: {run.optim.lr:g}  # learning rate"


def _word(value: Any) -> str:
    """Write a value in one line of YAML."""
    return yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    ).strip().removesuffix("...").strip()  # fmt: skip


def _brief(value: Any, base: Any = None) -> Any:
    """Return a value as settings: of an object its kind, and the fields that are not its defaults or the base's."""
    if is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "parse"):
        found: dict[str, Any] = {"kind": type(value).__name__}
        for field in fields(value):
            each = getattr(value, field.name)
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if each != default or getattr(base, field.name, each) != each:
                found[field.name] = _brief(each)
        return found
    if isinstance(value, Mapping):
        return {name: _brief(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_brief(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _names(source: Any, data: Path, layout: Layout) -> tuple[str, ...]:
    """Class names for data that have none: their numbers."""
    if layout.classes:
        return ()
    labels = rooted(replace(source, split=None, limit=None), data).labels()
    return tuple(str(i) for i in range(max(2, int(labels.max()) + 1))) if labels is not None else ()


def _batch(run: Run, count: int) -> int | None:
    """A batch that the samples fill a few times, where the recipe's is too big for that."""
    stream = run.train
    if not isinstance(stream, Shuffled) or stream.batch * 4 <= count:
        return None
    return max(1, min(stream.batch, 1 << max(1, count // 4).bit_length() - 1))
