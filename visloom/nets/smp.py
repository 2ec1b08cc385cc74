"""Every architecture of segmentation-models-pytorch with every encoder, correct for pictures of any size.

The library's networks take sides that are multiples of their stride only, and vision transformers one fixed size. So
pictures are padded at the bottom and right by repeating their edge and the answer is cut back; where the size is
fixed, picture and answer are resized.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from visloom.errors import ConfigError

_RESERVED = {
    "classes": "task.classes",
    "in_channels": "task.channels",
    "encoder_weights": "task.net.pretrained",
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def expected(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation, in 0-255 units, that the weights of an encoder were trained with.

    Raises:
        ConfigError: there is no such encoder; names the nearest.
    """
    known = check_encoder(encoder)
    if encoder.startswith("tu-"):
        from visloom.nets.backbone import expected as of_timm

        found = of_timm(encoder.removeprefix("tu-"))
        return found.mean, found.std
    settings: Mapping[str, Any] = next(iter(known.get("pretrained_settings", {}).values()), {})
    mean, std = (settings.get(name) or plain for name, plain in zip(("mean", "std"), _IMAGENET, strict=True))
    return tuple(255.0 * v for v in mean), tuple(255.0 * v for v in std)


def check_encoder(encoder: str) -> Mapping[str, Any]:
    """Return what the library knows of an encoder. Raises ConfigError, with the nearest names, if there is none."""
    from segmentation_models_pytorch.encoders import encoders

    if encoder.startswith("tu-"):
        from visloom.nets.backbone import expected as of_timm

        of_timm(encoder.removeprefix("tu-"))  # raises ConfigError with timm's nearest names
        return {}
    if encoder not in encoders:
        near = difflib.get_close_matches(encoder, encoders, n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError(
            f'segmentation-models-pytorch has no encoder {encoder!r}{hint}. Any timm model serves with "tu-" in front.',
            path="task.net.encoder",
        )
    known: Mapping[str, Any] = encoders[encoder]
    return known


def create(
    arch: str,
    encoder: str,
    classes: int,
    channels: int = 3,
    *,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> AnySize:
    """Build a network that maps (B, channels, H, W) of any size to logits (B, classes, H, W).

    Args:
        pretrained: load the encoder's weights, from the hub's cache or over the network.
        options: further arguments of the architecture and, for a timm encoder, of the timm model.

    Raises:
        ConfigError: an unknown architecture or encoder, arguments that do not go together, or weights that cannot be
            had.
    """
    import segmentation_models_pytorch as smp

    kinds = smp.MODEL_ARCHITECTURES_MAPPING
    if arch.lower() not in kinds:
        near = difflib.get_close_matches(arch.lower(), kinds, n=3)
        raise ConfigError(
            f"segmentation-models-pytorch has no architecture {arch!r}; "
            + (f"nearest: {', '.join(near)}" if near else f"it has {', '.join(kinds)}"),
            path="task.net.arch",
        )
    known = check_encoder(encoder)
    given = dict(options or {})
    for name, setting in _RESERVED.items():
        if name in given:
            raise ConfigError(
                f"{name} is set by {setting}: take it out of the options", path="task.net.options"
            )
    if not encoder.startswith("tu-"):  # the library passes further ones on to timm, and drops them elsewhere
        takes = inspect.signature(kinds[arch.lower()].__init__).parameters
        for name in given:
            if name not in takes:
                near = difflib.get_close_matches(name, takes, n=2)
                hint = f"; nearest: {', '.join(near)}" if near else ""
                raise ConfigError(
                    f"{arch} cannot be built: it has no option {name!r}{hint}", path="task.net.options"
                )
    if arch.lower() == "dpt" and "dynamic_img_size" not in given and _takes_any_size(encoder):
        given["dynamic_img_size"] = True
    weights = next(iter(known.get("pretrained_settings", {})), "imagenet") if pretrained else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = kinds[arch.lower()](
                encoder_name=encoder, encoder_weights=weights, in_channels=channels, classes=classes, **given
            )
    except Exception as error:  # the two libraries raise nearly every type there is
        text = " ".join(str(error).split())[:300] or type(error).__name__
        if pretrained and not isinstance(error, TypeError | ValueError):
            raise ConfigError(
                f"no pretrained weights for {encoder}: {text} Without a network, set task.net.pretrained=false and "
                "give a file by init.net=FILE.",
                path="task.net.pretrained",
            ) from error
        raise ConfigError(
            f"{arch} with the encoder {encoder} cannot be built: {text}", path="task.net"
        ) from error
    stride = _stride(made) * (2 if arch.lower() == "dpt" else 1)  # DPT's decoder halves the patches once more
    least = 128 if arch.lower() == "pan" else 1  # its attention pools features of stride 16 three times
    return AnySize(made, stride=stride, fixed=_fixed(made, given), least=least)


def _takes_any_size(encoder: str) -> bool:
    """Whether the timm transformer can interpolate its position embedding."""
    import timm

    name = encoder.removeprefix("tu-").partition(".")[0]
    try:
        entry = timm.models.model_entrypoint(name)
        module = inspect.getmodule(entry)
    except Exception:  # not a model: said elsewhere
        return False
    return module is not None and any(
        "dynamic_img_size" in inspect.signature(kind).parameters
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__
    )


def _stride(net: nn.Module) -> int:
    encoder: Any = net.encoder
    strides = [int(getattr(encoder, "output_stride", 32)), *map(int, getattr(encoder, "output_strides", ()))]
    return math.lcm(*strides)


def _fixed(net: nn.Module, options: Mapping[str, Any]) -> tuple[int, int] | None:
    encoder: Any = net.encoder
    if options.get("dynamic_img_size") or not getattr(encoder, "is_fixed_input_size", False):
        return None
    size = encoder.input_size
    return int(size[-2]), int(size[-1])


class AnySize(nn.Module):
    """A network made fit for any picture size. Its parameters are `model.*`.

    Args:
        stride: sides that the network takes are multiples of this.
        fixed: the one (height, width) that it takes, or None.
        least: the shortest side that it takes.
    """

    def __init__(
        self, model: nn.Module, stride: int, fixed: tuple[int, int] | None = None, least: int = 1
    ) -> None:
        super().__init__()
        self.model, self.stride, self.fixed, self.least = model, stride, fixed, least

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.fixed is not None:
            if (height, width) == self.fixed:
                same: Tensor = self.model(x)
                return same
            small = functional.interpolate(x, self.fixed, mode="bilinear", antialias=True)
            return functional.interpolate(self.model(small), (height, width), mode="bilinear")
        down, across = (-(-max(n, self.least) // self.stride) * self.stride - n for n in (height, width))
        if down or across:
            x = functional.pad(x, (0, across, 0, down), mode="replicate")
        whole: Tensor = self.model(x)
        return whole[:, :, :height, :width]
