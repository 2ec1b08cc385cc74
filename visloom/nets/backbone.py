"""Any timm classification model by name, with the normalisation and input size that its weights expect.

timm knows some 1,400 architectures; this file turns its many ways of failing into sentences. Weights come
from a local file (loaded strictly: a file that belongs to another network is an error, not a warning) or from
the hub.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from visloom.errors import ConfigError


class Expected(NamedTuple):
    """What the weights of a timm model were trained on.

    mean, std: per channel, in 0-255 units.  size: (H, W).  crop: share of the resized image that is kept.
    fixed: the network takes `size` only, unless it is built with another `img_size`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    interpolation: str
    crop: float
    fixed: bool


def expected(name: str) -> Expected:
    """Return what the weights of a timm model expect, without building it.

    name: `resnet18` or, with the tag of certain weights, `resnet18.a1_in1k`.

    Raises:
        ConfigError: timm has no such model; names the nearest.
    """
    config = _config(name)
    return Expected(
        mean=tuple(255.0 * value for value in config.mean),
        std=tuple(255.0 * value for value in config.std),
        size=tuple(config.input_size[1:]),
        interpolation=config.interpolation,
        crop=config.crop_pct,
        fixed=config.fixed_input_size,
    )


def create(
    name: str,
    classes: int,
    channels: int = 3,
    *,
    pretrained: bool = False,
    weights: str = "",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a timm model that maps (B, channels, H, W) to logits (B, classes).

    Args:
        pretrained: load timm's weights, from the hub's cache or over the network; the head is new unless
            `classes` is the number the weights were trained for.
        weights: a .safetensors or .pth file with weights of this architecture instead; the head is new unless
            its class count is `classes`. A .pth file is read without running code from it.
        options: further arguments of the model, `drop_rate`, `drop_path_rate` or `img_size` for instance.

    Raises:
        ConfigError: an unknown model, an argument that it does not take, or weights that cannot be had.
    """
    if pretrained and weights:
        raise ConfigError("set pretrained or weights, not both", path="task.net")
    import timm

    _config(name)
    given = dict(options or {})
    for taken, field in (("num_classes", "task.classes"), ("in_chans", "task.channels")):
        if taken in given:
            raise ConfigError(
                f"{taken} is set by {field}: take it out of the options", path="task.net.options"
            )
    if weights:
        return _from_file(name, classes, channels, Path(weights), given)
    try:
        with _one_message():
            return timm.create_model(
                name, pretrained=pretrained, num_classes=classes, in_chans=channels, **given
            )
    except Exception as error:  # timm raises nearly every type there is
        if pretrained and not isinstance(error, TypeError):
            raise ConfigError(_no_weights(name, error), path="task.net.pretrained") from error
        raise _refused(name, given, error) from error


@contextmanager
def _one_message() -> Iterator[None]:
    """Keep the hub's line per retry from the screen: without a network a dozen of them hide our one error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _config(name: str) -> Any:
    """timm's record of a model and its weights; raises ConfigError with the nearest names."""
    import timm
    from timm.models import get_pretrained_cfg, is_model

    base, _, tag = name.partition(".")
    if not is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError(
            f"timm {timm.__version__} has no model named {base!r}{hint}. "
            "`python -c \"import timm; print(timm.list_models('*vit*'))\"` searches them.",
            path="task.net.name",
        )
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None and tag:
        tags = [full.partition(".")[2] for full in timm.list_models(f"{base}.*", pretrained=True)]
        near = difflib.get_close_matches(tag, tags, n=3) or tags
        raise ConfigError(
            f"timm's {base} has no weights tagged {tag!r}; it has {', '.join(near) or 'none'}",
            path="task.net.name",
        )
    return config if config is not None else get_pretrained_cfg(base)


def _from_file(name: str, classes: int, channels: int, path: Path, options: dict[str, Any]) -> nn.Module:
    """Build with the class count of the file, load strictly, then give it a head of its own where counts
    differ.

    timm itself turns to non-strict loading as soon as the class counts differ, and then takes any file
    silently.
    """
    import timm

    if not path.is_file():
        raise ConfigError(f"there is no weights file {path}", path="task.net.weights")
    first: Exception | None = None
    for found in _head_sizes(name, path):
        overlay = {"file": str(path), "hf_hub_id": None, "url": "", "num_classes": found}
        try:
            net = timm.create_model(
                name,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                num_classes=found,
                in_chans=channels,
                **options,
            )
            if found != classes:
                net.reset_classifier(classes)  # type: ignore[operator]
            return net
        except TypeError as error:
            raise _refused(name, options, error) from error
        except Exception as error:
            first = first or error
    raise ConfigError(
        f"{path} does not fit timm's {name}: {_first_lines(first)}", path="task.net.weights"
    ) from first


def _head_sizes(name: str, path: Path) -> list[int]:
    """Class counts that a weights file may have been saved with, the likeliest first."""
    import timm

    config = _config(name)
    try:
        state = timm.models.load_state_dict(str(path))
    except Exception as error:
        raise ConfigError(
            f"cannot read the weights file {path}: {_first_lines(error)}", path="task.net.weights"
        ) from error
    heads = config.classifier if isinstance(config.classifier, tuple | list) else (config.classifier,)
    for head in heads:
        weight = state.get(f"{head}.weight")
        if weight is not None:
            return [int(weight.shape[0])]
    return [config.num_classes, 0]


def _refused(name: str, options: dict[str, Any], error: Exception) -> ConfigError:
    stated = f" with {', '.join(f'{k}={v!r}' for k, v in options.items())}" if options else ""
    return ConfigError(f"timm cannot build {name}{stated}: {_first_lines(error)}", path="task.net.options")


def _no_weights(name: str, error: Exception) -> str:
    return (
        f"no pretrained weights for {name}: {_first_lines(error)} "
        "Without a network, fetch the file elsewhere and set task.net.weights to its path."
    )


def _first_lines(error: Exception | None, most: int = 300) -> str:
    """The beginning of an error's text: a strict load lists every key of a network."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[:most] + " ..."


def feature_maps(
    name: str, channels: int = 3, *, pretrained: bool = False, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, list[tuple[int, int]], bool]:
    """Build a timm model that returns its feature maps, for detection and segmentation.

    Args:
        pretrained: load timm's weights, from the hub's cache or over the network.
        options: further arguments of the model.
    Returns:
        The module (a list of maps from (B, channels, H, W)), the (stride, channels) of each map, and whether maps
        have their channels last.
    Raises:
        ConfigError: an unknown model, one without feature maps, or weights that cannot be had.
    """
    import timm

    _config(name)
    given = dict(options or {})
    try:
        with _one_message():
            net = timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=channels, **given
            )
    except Exception as error:  # timm raises nearly every type there is
        if pretrained and not isinstance(error, TypeError):
            raise ConfigError(_no_weights(name, error), path="task.net.body.pretrained") from error
        raise _refused(name, given, error) from error
    info: Any = net.feature_info
    maps = list(zip(info.reduction(), info.channels(), strict=True))
    return net, maps, getattr(net, "output_fmt", None) is not None and "NHWC" in str(net.output_fmt)
