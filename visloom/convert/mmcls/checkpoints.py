"""mmclassification's checkpoints: what stands beside the tensors, and what it means here.

`meta` holds the text of the config, class names, epoch and iteration; `optimizer` holds moments by number: those of the
parameters in the order of the state dict. mmpretrain's files name some of it otherwise.

Colour order. Pictures are read as BGR there and `to_rgb` turns them round, so ImageNet weights see RGB. CIFAR lies in
memory as RGB already, and up to version 0.11 its configs turned it round all the same: those weights see BGR, with
the mean and deviation of RGB. Since 0.12 (checkpoints of 2021-05-28 and later) they see RGB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from visloom.convert import pyconfig
from visloom.convert.common import Row, named_classes
from visloom.convert.keys import Keys
from visloom.convert.mmcls import configs, zoo
from visloom.convert.mmcls.pipelines import RGB_ARRAYS, read_pipeline
from visloom.convert.oldfiles import Old
from visloom.convert.pyconfig import Tree
from visloom.data.cifar import Cifar
from visloom.errors import ConfigError, VisloomError
from visloom.run import Run
from visloom.stream import Transform, walk_sources
from visloom.tasks.classify import Classify, Normalise, ResNetCifar

if TYPE_CHECKING:
    from torch import Tensor

Order = Literal["rgb", "bgr"]
_FIXED_VERSION, _FIXED_DATE = (0, 12), "20210528"  # from when on CIFAR is not turned round


def meta_of(old: Old) -> Mapping[str, Any]:
    """The file's `meta`, {} without one."""
    meta = old.extra.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def tree_of(old: Old) -> Tree | None:
    """The config whose text stands in a file; None where there is none that can be read."""
    text = meta_of(old).get("config") or meta_of(old).get("cfg")
    if not isinstance(text, str):
        return None
    try:
        return pyconfig.parse(text, f"the config in {old.path.name}")
    except ConfigError:
        return None


def run_of(keys: Keys, name: str) -> Run | None:
    """The run that a file's config describes; None where it is not one of mmclassification 0.x, or is not whole."""
    try:
        run, _ = configs.to_run(keys, name)
    except VisloomError:
        return None
    return run


@dataclass(frozen=True)
class Stated:
    """What a config says of predictions even where it is no whole run, because its data set is one's own, say.

    normalise: None if it does not say.  transforms: those of its evaluation.  several: labels per picture.
    at: the key of the pipeline that says so.
    """

    normalise: Normalise | None = None
    transforms: tuple[Transform, ...] = ()
    several: bool = False
    at: str = ""


def stated(keys: Keys, channels: int) -> Stated:
    """Read the pipelines and the head of a config, whatever its other parts are."""
    several = str(keys.get("model.head.type")).startswith("MultiLabel")
    for name in ("test", "val", "train"):
        at = _innermost_data(keys, f"data.{name}")
        steps = keys.get(f"{at}.pipeline")
        if not isinstance(steps, list | tuple):
            continue
        memory = keys.get(f"{at}.type") in RGB_ARRAYS or _from_memory(steps)
        try:
            found = read_pipeline(
                keys, f"{at}.pipeline", None if channels == 1 else "rgb" if memory else "bgr"
            )
        except VisloomError:
            continue
        if found.normalise is not None and len(found.normalise.mean) == channels:
            steps_of_use = () if name == "train" else found.transforms
            return Stated(found.normalise, steps_of_use, several, f"{at}.pipeline")
    return Stated(several=several)


def unheeded(keys: Keys, said: Stated | None) -> list[str]:
    """A note on what of a config is not supported and may matter to predictions; [] if there is nothing.

    said: what was read of one that is no whole run, else None.
    """
    below = ("model.", "data.") if said is None else (f"{said.at}.",)
    rows = [row for row in keys.rows() if row.verdict == "not supported" and row.key.startswith(below)]
    if not rows:
        return []
    some = "; ".join(f"{row.key}: {row.note}" for row in rows[:3])
    return [f"{len(rows)} keys of the file's config are not supported, and predictions may miss them: {some}"]


def _innermost_data(keys: Keys, at: str) -> str:
    """The key of a data set inside its wrappers; of several, the first."""
    for inner in (f"{at}.dataset", f"{at}.datasets.0", f"{at}.0"):
        if isinstance(keys.get(inner), Mapping | list | tuple):
            return _innermost_data(keys, inner)
    return at


def class_names(old: Old, count: int, file: str) -> tuple[tuple[str, ...], str]:
    """Class names from a file, from the checkpoint, or numbers; and where they are from."""
    meta = meta_of(old)
    inner = meta.get("dataset_meta")
    names: Sequence[Any] = ()
    source = "numbers, as the file has no names (--option classes=FILE)"
    if file:
        names, source = named_classes(file), file
    elif isinstance(meta.get("CLASSES"), list | tuple):
        names, source = meta["CLASSES"], "meta.CLASSES"
    elif isinstance(inner, Mapping) and isinstance(inner.get("classes"), list | tuple):
        names, source = inner["classes"], "meta.dataset_meta.classes"
    if names and len(names) != count:
        raise ConfigError(f"{source} has {len(names)} class names, the head has {count} classes")
    return tuple(map(str, names)) or tuple(map(str, range(count))), source


def normalisation(
    old: Old, found: zoo.Found, tree: Tree | None, known: Normalise | None, into: Run | None, asked: str
) -> tuple[Normalise, str]:
    """What the network expects of its pictures, and why.

    known: what the file's config says, as far as it is one of mmclassification 0.x.  into: that the user names.
    asked: "rgb" or "bgr" where the user says so, else "".
    """
    usual = found.net.normalisation() or zoo.IMAGENET
    stated = known or _of_preprocessor(tree)
    values = stated or usual.channels(found.channels)
    if asked:
        if asked not in ("rgb", "bgr"):
            raise ConfigError(f"--option colours is rgb or bgr, got {asked!r}")
        return replace(values, order=asked), f"colours: {asked}, as you said"  # type: ignore[arg-type]
    if found.channels != 3:
        return values, "pictures are gray"
    if stated is not None:
        return values, f"colours: {values.order}, from to_rgb of the file's config"
    if into is not None and isinstance(into.task, Classify) and not _has_cifar(into):
        values = into.task.normalisation()
        return values, f"colours: {values.order}, as --into has them"
    if not isinstance(found.net, ResNetCifar):
        return values, "colours: rgb, as all of the zoo's ImageNet weights"
    order, why = _vintage(old)
    return replace(values, order=order), f"colours: {order}, {why}; --option colours=rgb|bgr says otherwise"


def _has_cifar(run: Run) -> bool:
    """Say whether a run trains on CIFAR, which the original turned round."""
    return any(isinstance(inner, Cifar) for source in walk_sources(run.train) for inner in _innermost(source))


def _innermost(source: Any) -> Iterator[Any]:
    """The sources inside wrappers (repeated, joined, balanced ones), or the source itself."""
    inner = getattr(source, "parts", None) or ([source.source] if hasattr(source, "source") else ())
    if not inner:
        yield source
    for one in inner:
        yield from _innermost(one)


def of_run(run: Run | None) -> Normalise | None:
    """The normalisation that a run states."""
    value = getattr(run.task, "normalise", None) if run is not None else None
    return value if isinstance(value, Normalise) else None


def _of_preprocessor(tree: Tree | None) -> Normalise | None:
    """The normalisation that mmpretrain's configs state."""
    keys = Keys(tree) if tree is not None else None
    at = "data_preprocessor"
    if keys is None or not keys.has(f"{at}.mean"):
        return None
    kind = keys.get("train_dataloader.dataset.type", keys.get("dataset_type"))
    turned = bool(keys.get(f"{at}.to_rgb", False))
    memory = kind in RGB_ARRAYS or _from_memory(keys.get("train_dataloader.dataset.pipeline"))
    order: Order = "rgb" if turned != memory else "bgr"
    mean, std = (tuple(map(float, keys.get(f"{at}.{name}"))) for name in ("mean", "std"))
    return Normalise(mean, std, order=order)


def _from_memory(steps: Any) -> bool:
    """Say whether pictures come from arrays, as those of a class of one's own beside CIFAR10: no step reads files."""
    return isinstance(steps, list | tuple) and not any("Load" in str(step) for step in steps)


def _vintage(old: Old) -> tuple[Order, str]:
    """CIFAR's colour order by the version in a file, or the date in its name."""
    version = re.match(r"(\d+)\.(\d+)", str(meta_of(old).get("mmcls_version", "")))
    if version:
        new = (int(version[1]), int(version[2])) >= _FIXED_VERSION
        return ("rgb" if new else "bgr"), f"because mmcls {version[0]} wrote it"
    date = re.search(r"(20\d{6})", old.path.name)
    if date:
        return ("rgb" if date[1] >= _FIXED_DATE else "bgr"), f"because it is of {date[1]}"
    return (
        "bgr",
        "because mmcls turned CIFAR round up to version 0.11, and the file does not tell its version",
    )


# ------------------------------------------------------------------------------------------- how far it had come


def step_of(old: Old, at: str | None) -> int:
    """Updates done. Raises ConfigError for an `at` that says nothing about them."""
    done = meta_of(old).get("iter")
    if isinstance(done, int) and done >= 0 and at is None:
        # an epoch runner that saves inside an epoch counts the update after that: only iter_N.pth tells of it
        return done + (old.path.stem == f"iter_{done + 1}")
    if at is None:
        return 0
    unit, _, number = at.partition(":")
    if unit == "step" and number.isdigit():
        return int(number)
    raise ConfigError(
        f"--at is written step:N for this format (updates done), got {at!r}: an epoch has no length here"
    )


def moments(
    old: Old, names: Mapping[str, str], run: Run | None, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """The optimizer's state by our parameters' names, and what became of it; None unless it is exact.

    names: the file's name -> ours, for all tensors.  run: whose optimizer it must be.
    """
    import torch

    saved = old.extra.get("optimizer")
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        return None, "there are no moments of one optimizer"
    if not saved["state"]:
        return None, "it has none yet"
    if any(name.removeprefix("module.").startswith("ema_") for name in old.tensors):
        return (
            None,
            "the moments are those of the weights without averaging, and the file's own are the average",
        )
    if run is None:
        return None, "moments need the run that they belong to: --into RECIPE"
    order = [key for group in saved.get("param_groups", ()) for key in group["params"]]
    parameters = [name for name in old.tensors if name in names and not _is_buffer(name)]
    if len(order) != len(parameters) or not saved["state"].keys() <= set(order):
        return None, f"it has moments of {len(order)} parameters, the network has {len(parameters)}"
    found: dict[str, dict[str, Any]] = {}
    for key, name in zip(order, parameters, strict=True):
        state = {word: value for word, value in saved["state"].get(key, {}).items() if value is not None}
        for word, value in state.items():
            if word == "step":
                state[word] = torch.as_tensor(float(value))
            elif not isinstance(value, torch.Tensor) or value.shape != tensors[names[name]].shape:
                return None, f"{word} of {name} has another shape than the parameter"
        if state:
            found[names[name]] = state
    words = {word for state in found.values() for word in state}
    if words != _WORDS.get(run.optim.name, set()):
        return (
            None,
            f"it holds {', '.join(sorted(words)) or 'nothing'}, which is not what {run.optim.name} keeps",
        )
    return found, f"moments of {len(found)} parameters"


_WORDS = {
    "SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "RMSprop": {"step", "square_avg"},
}  # fmt: skip


def _is_buffer(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def rows_beside(old: Old, *, config: str, taken: Mapping[str, str]) -> list[Row]:
    """Rows for what stands beside the tensors: `taken` says of some entries where they went, `config` of the config."""
    rows = []
    for name in meta_of(old):
        key = f"meta.{name}"
        if key in taken:
            rows.append(Row(key, "taken", taken[key]))
        elif name in ("config", "cfg") and config:
            rows.append(Row(key, "taken", config))
        else:
            rows.append(Row(key, "not needed", _META_LEFT.get(str(name), "tells of the old program only")))
    for name in old.extra:
        if name == "meta":
            continue
        if name in taken:
            rows.append(Row(name, "taken", taken[name]))
        else:
            why = _BESIDE.get(str(name), "no weights")
            rows.append(Row(name, "not needed", taken.get(f"-{name}", why)))
    return rows


_BESIDE = {"ema_state_dict": "the weights without averaging; the file's own are the average"}
_META_LEFT = {
    "epoch": "the step says it", "env_info": "provenance.json has today's", "seed": "the run's own",
    "hook_msgs": "checkpoints know each other by their step", "time": "the file's own date",
    "config": "it is not whole, or of another version", "cfg": "it is of another version",
}  # fmt: skip
