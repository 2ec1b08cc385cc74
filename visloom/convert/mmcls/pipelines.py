"""mmclassification's pipelines and data sets as transforms and sources.

there                                  here
LoadImageFromFile                      the source reads
RandomCrop, RandomResizedCrop, ...     transforms of the same name (`visloom/data/transforms.py`)
Normalize                              the task's normalisation, on the device
ImageToTensor, ToTensor, Collect       nothing: samples keep their stored type, a batch is collated
CIFAR10, ImageNet, MNIST, VOC, ...     `visloom/data/`
RepeatDataset, ClassBalancedDataset    `visloom/data/wrappers.py`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from visloom.convert.keys import Keys
from visloom.data.cifar import Cifar
from visloom.data.folder import Folder
from visloom.data.photometric import Grayscale
from visloom.data.transforms import CenterCrop, RandomCrop, RandomFlip, RandomResizedCrop, Resize
from visloom.place import one_of
from visloom.stream import Transform
from visloom.tasks.classify import Normalise

RGB_ARRAYS = ("CIFAR10", "CIFAR100")
"""Data sets whose pictures lie in memory as RGB, where the others' are read as BGR: `to_rgb` turns these round."""

_PACKING = {
    "LoadImageFromFile": "the source reads pictures",
    "ImageToTensor": "images go to the device as they are stored",
    "ToTensor": "labels are tensors in a batch",
    "Collect": "a batch has image, label and id",
    "Transpose": "images stay channels-last in memory",
    "ToPIL": "one picture type everywhere",
    "ToNumpy": "one picture type everywhere",
}
_RESAMPLED = "one way of resampling for all: bilinear, areas averaged where it shrinks"


@dataclass(frozen=True)
class Pipeline:
    """Transforms, and the normalisation that the pipeline asks for, if any."""

    transforms: tuple[Transform, ...]
    normalise: Normalise | None


def read_pipeline(keys: Keys, at: str, order: str | None) -> Pipeline:
    """Read the pipeline below a key.

    order: "rgb" or "bgr", how the pictures of this data set come before normalisation; None for gray ones.
    Raises ConfigError for values that cannot be.
    """
    transforms: list[Transform] = []
    normalise: Normalise | None = None
    for step in keys.children(at):
        kind = str(keys.get(f"{step}.type"))
        if kind in _PACKING:
            keys.leave(step, _PACKING[kind])
            if keys.get(f"{step}.color_type", "color") != "color":
                keys.refuse(f"{step}.color_type", "pictures in files are read as RGB")
        elif kind == "Normalize":
            if normalise is None:
                normalise = _normalise(keys, step, order)
            else:
                keys.refuse(step, "pictures are normalised once")
        elif normalise is not None and _minds_values(keys, step, kind):
            keys.refuse(step, "pictures are normalised after all transforms, where this does something else")
        elif kind in _TRANSFORMS:
            keys.take(f"{step}.type", kind)
            with keys.making(step):
                transforms.append(_TRANSFORMS[kind](keys, step))
        else:
            keys.refuse(step, f"no transform here does what {kind} does")
    return Pipeline(tuple(transforms), normalise)


def _minds_values(keys: Keys, at: str, kind: str) -> bool:
    """Whether a transform gives something else behind the normalisation: it pads with values, or weighs channels."""
    pads = bool(keys.get(f"{at}.padding")) or bool(keys.get(f"{at}.pad_if_needed", False))
    return kind == "RandomGrayscale" or (kind == "RandomCrop" and pads)


def _normalise(keys: Keys, at: str, order: str | None) -> Normalise:
    turned = bool(keys.take(f"{at}.to_rgb", "task.normalise.order", True))
    keys.take(at, "task.normalise")
    mean, std = (_floats(keys, f"{at}.{name}") for name in ("mean", "std"))
    seen = "rgb" if order is None else {"rgb": "bgr", "bgr": "rgb"}[order] if turned else order
    with keys.making(at):
        return Normalise(mean, std, order=seen)  # type: ignore[arg-type]


def _floats(keys: Keys, key: str) -> tuple[float, ...]:
    value = keys.get(key)
    if not isinstance(value, list | tuple) or not all(isinstance(v, int | float) for v in value):
        raise keys.error(key, f"is a list of numbers, got {value!r}")
    return tuple(map(float, value))


# ---- one function per transform


def _random_crop(keys: Keys, at: str) -> Transform:
    padding = keys.take(f"{at}.padding", "RandomCrop.padding", 0) or 0
    if not isinstance(padding, int):
        keys.refuse(f"{at}.padding", "only the same padding on every side")
        padding = 0
    keys.leave(f"{at}.pad_if_needed", "a window that does not fit is always padded")
    fill = keys.take(f"{at}.pad_val", "RandomCrop.fill", 0)
    mode = keys.get(f"{at}.padding_mode", "constant")
    if mode == "constant" or not padding:
        keys.take(f"{at}.padding_mode", "RandomCrop.pad_mode")
    else:  # the original pads with constant values whatever it is told
        keys.leave(
            f"{at}.padding_mode", "the original ignores it where there is padding, and pads with a constant"
        )
    return RandomCrop(size=_size(keys, at), padding=padding, fill=fill)


def _size(keys: Keys, at: str, name: str = "size") -> int | tuple[int, int]:
    value = keys.take(f"{at}.{name}", "size")
    if isinstance(value, int):
        return value
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int) and v > 0 for v in value)
    ):
        return value[0] if value[0] == value[1] else (value[0], value[1])
    raise keys.error(f"{at}.{name}", f"is a size, got {value!r}")


def _resized_crop(keys: Keys, at: str) -> Transform:
    _resampling(keys, at)
    more = {
        name: tuple(keys.take(f"{at}.{name}", f"RandomResizedCrop.{name}"))
        for name in ("scale", "ratio")
        if keys.has(f"{at}.{name}")
    }
    return RandomResizedCrop(size=_size(keys, at), **more)


def _resampling(keys: Keys, at: str) -> None:
    keys.leave(f"{at}.backend", _RESAMPLED)
    if keys.get(f"{at}.interpolation", "bilinear") in ("bilinear", "area"):
        keys.leave(f"{at}.interpolation", _RESAMPLED)
    else:
        keys.refuse(f"{at}.interpolation", _RESAMPLED)


def _resize(keys: Keys, at: str) -> Transform:
    _resampling(keys, at)
    value = keys.get(f"{at}.size")
    if isinstance(value, list | tuple) and len(value) == 2 and value[1] == -1:
        keys.take(f"{at}.size", "Resize.short")
        return Resize(short=value[0])
    return Resize(size=_size(keys, at))


def _center_crop(keys: Keys, at: str) -> Transform:
    return CenterCrop(size=_size(keys, at, "crop_size"))


def _flip(keys: Keys, at: str) -> Transform:
    return RandomFlip(
        p=keys.take(f"{at}.flip_prob", "RandomFlip.p", 0.5),
        direction=keys.take(f"{at}.direction", "RandomFlip.direction", "horizontal"),
    )


def _gray(keys: Keys, at: str) -> Transform:
    return Grayscale(p=keys.take(f"{at}.gray_prob", "Grayscale.p", 0.1))


_TRANSFORMS: dict[str, Callable[[Keys, str], Transform]] = {
    "RandomCrop": _random_crop, "RandomResizedCrop": _resized_crop, "Resize": _resize,
    "CenterCrop": _center_crop, "RandomFlip": _flip, "RandomGrayscale": _gray,
}  # fmt: skip


# ---- data sets


@dataclass(frozen=True)
class Part:
    """A data set of a config: its source, and the pipeline that its pictures go through."""

    source: Any
    pipeline: Pipeline
    kind: str
    classes: tuple[str, ...] = ()


def prefixes(keys: Keys, at: str) -> list[str]:
    """Every data_prefix below a key."""
    value = keys.get(at)
    found = (
        [value["data_prefix"]]
        if isinstance(value, dict) and isinstance(value.get("data_prefix"), str)
        else []
    )
    inner = [child for child in keys.children(at) if isinstance(keys.get(child), dict | list)]
    return found + [prefix for child in inner for prefix in prefixes(keys, child)]


def read_part(keys: Keys, at: str, *, train: bool, folder: str) -> Part | None:
    """Read a data set's config; None where it is not supported, which its row says.

    folder: that `host.data` will be; roots become relative to it.
    """
    if isinstance(keys.get(at), list | tuple):
        return _joined(keys, at, train=train, folder=folder)
    kind = str(keys.get(f"{at}.type"))
    if kind == "ConcatDataset":
        keys.take(f"{at}.type", "source")
        return _joined(keys, f"{at}.datasets", train=train, folder=folder)
    if kind in ("RepeatDataset", "ClassBalancedDataset"):
        return _wrapped(keys, at, kind, train=train, folder=folder)
    if kind not in _SOURCES:
        keys.refuse(at, f"there is no data set {kind}; there is {one_of(_SOURCES, 'and')}")
        return None
    keys.take(f"{at}.type", "source")
    root = _relative(str(keys.take(f"{at}.data_prefix", "host.data and source.root", folder)), folder)
    keys.leave(f"{at}.test_mode", "decided by train or evals")
    order = None if "MNIST" in kind else "rgb" if kind in RGB_ARRAYS else "bgr"
    pipeline = read_pipeline(keys, f"{at}.pipeline", order)
    classes = _classes(keys, at)
    return Part(_SOURCES[kind](keys, at, kind, train, root, classes), pipeline, kind, classes)


def _relative(path: str, folder: str) -> str:
    found = os.path.relpath(path.replace("\\", "/"), folder.replace("\\", "/"))
    return "" if found == "." else found.replace("\\", "/")


def _classes(keys: Keys, at: str) -> tuple[str, ...]:
    value = keys.get(f"{at}.classes")
    if isinstance(value, str):
        keys.refuse(f"{at}.classes", "write the names themselves into task.classes")
        return ()
    keys.take(f"{at}.classes", "task.classes")
    return tuple(map(str, value or ()))


def _joined(keys: Keys, at: str, *, train: bool, folder: str) -> Part | None:
    from visloom.data.wrappers import Concat

    parts = [
        part for child in keys.children(at) if (part := read_part(keys, child, train=train, folder=folder))
    ]
    if not parts or any(part.pipeline != parts[0].pipeline for part in parts):
        keys.refuse(at, "its data sets go through different pipelines: use a Mixture")
        return None
    return Part(
        Concat(parts=tuple(p.source for p in parts)), parts[0].pipeline, parts[0].kind, parts[0].classes
    )


def _wrapped(keys: Keys, at: str, kind: str, *, train: bool, folder: str) -> Part | None:
    from visloom.data.wrappers import ClassBalanced, Repeat

    inner = read_part(keys, f"{at}.dataset", train=train, folder=folder)
    keys.take(f"{at}.type", "source")
    times = keys.take(f"{at}.times", "source.times")
    threshold = keys.take(f"{at}.oversample_thr", "source.threshold")
    if inner is None:
        return None
    with keys.making(at):
        source: Any = (
            Repeat(source=inner.source, times=times)
            if kind == "RepeatDataset"
            else ClassBalanced(source=inner.source, threshold=threshold)
        )
    return Part(source, inner.pipeline, inner.kind, inner.classes)


def _cifar(keys: Keys, at: str, kind: str, train: bool, root: str, classes: Sequence[str]) -> Any:
    return Cifar(root=root, name="cifar100" if kind == "CIFAR100" else "cifar10", train=train)


def _mnist(keys: Keys, at: str, kind: str, train: bool, root: str, classes: Sequence[str]) -> Any:
    from visloom.data.mnist import Mnist

    return Mnist(root=root, name="mnist" if kind == "MNIST" else "fashion_mnist", train=train)


def _imagenet(keys: Keys, at: str, kind: str, train: bool, root: str, classes: Sequence[str]) -> Any:
    listed = keys.take(f"{at}.ann_file", "source.files")
    prefix = str(keys.get(f"{at}.data_prefix", ""))
    if not listed:  # there as here the folders in their order are the classes, whatever their names are
        return Folder(root=root)
    return Folder(root=root, files=_relative(str(listed), prefix), names=tuple(classes))


def _voc(keys: Keys, at: str, kind: str, train: bool, root: str, classes: Sequence[str]) -> Any:
    from visloom.data.voc_labels import VocLabels

    listed = str(keys.take(f"{at}.ann_file", "source.part", ""))
    part = os.path.splitext(os.path.basename(listed.replace("\\", "/")))[0]
    more = {"part": part} if part else {}
    return VocLabels(root=root, **more, **({"names": tuple(classes)} if classes else {}))  # type: ignore[arg-type]


_SOURCES: dict[str, Callable[[Keys, str, str, bool, str, Sequence[str]], Any]] = {
    "CIFAR10": _cifar, "CIFAR100": _cifar, "MNIST": _mnist, "FashionMNIST": _mnist, "ImageNet": _imagenet, "VOC": _voc,
}  # fmt: skip
