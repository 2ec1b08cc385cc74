"""Net specs: which network classifies, as plain values in a recipe. Nothing here imports torch until `build`.

Timm("resnet18", pretrained=True)        any of timm's models, with its own normalisation
ResNetCifar(18)                          the CIFAR ResNets of mmclassification
FastCifar()                              learns 32x32 images in minutes on a CPU
Custom(Call("my_file:make_net", {...}))  a callable of one's own
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from visloom.errors import ConfigError, ContractError
from visloom.run import Call

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Normalise:
    """(pixel - mean) / std per channel, in the units of the stored pixels: 0-255 for 8-bit pictures.

    order: of the channels as the network sees them; mean and std are in that order. Pictures are read as RGB, and
    "bgr" turns them round for weights that were trained so.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std need one number per channel each, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order is rgb or bgr, got {self.order!r}")

    def channels(self, count: int) -> Normalise:
        """Return the values for another number of channels: the averages of the known ones."""
        if count == len(self.mean):
            return self
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return Normalise((mean,) * count, (std,) * count)


@runtime_checkable
class NetSpec(Protocol):
    """A network as a value. `needs_samples`: training samples that `fit` wants to see before step 1; 0 for
    none."""

    @property
    def needs_samples(self) -> int: ...

    def build(self, classes: int, channels: int) -> nn.Module:
        """Make the network: (B, channels, H, W) normalised float images -> (B, classes) logits."""
        ...

    def normalisation(self) -> Normalise | None:
        """What the network's weights expect, or None if nothing is known."""
        ...

    def fit(self, net: nn.Module, images: Tensor) -> None:
        """Set weights from normalised training images (N, channels, H, W), if `needs_samples` asks for
        them."""
        ...


class _Plain:
    """A network that starts from random or stored weights."""

    @property
    def needs_samples(self) -> int:
        return 0

    def fit(self, net: nn.Module, images: Tensor) -> None:
        raise TypeError(f"{type(self).__name__} needs no samples")


@dataclass(frozen=True)
class Timm(_Plain):
    """A timm model by name, with the normalisation of its weights.

    name: `resnet18`, or `resnet18.a1_in1k` for certain weights.
    pretrained: load them, over the network or from the hub's cache. weights: a .safetensors or .pth file
    instead.
    options: further arguments of the model: `drop_rate`, `drop_path_rate`, `img_size`, ...
    """

    name: str
    pretrained: bool = False
    weights: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.backbone import create

        return create(
            self.name,
            classes,
            channels,
            pretrained=self.pretrained,
            weights=self.weights,
            options=self.options,
        )

    def normalisation(self) -> Normalise | None:
        from visloom.nets.backbone import expected

        found = expected(self.name)
        return Normalise(found.mean, found.std)


@dataclass(frozen=True)
class ResNetCifar(_Plain):
    """ResNet for 32x32 images, of depth 18, 34, 50, 101 or 152, with CIFAR-10's normalisation of
    mmclassification."""

    depth: int = 18

    def __post_init__(self) -> None:
        if self.depth not in (18, 34, 50, 101, 152):
            raise ValueError(f"depth must be 18, 34, 50, 101 or 152, got {self.depth}")

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.resnet_cifar import ResNetCifar as Net

        return Net(self.depth, classes, channels)

    def normalisation(self) -> Normalise | None:
        return Normalise((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255))


@dataclass(frozen=True)
class FastCifar:
    """A small network whose first layer is set from training images (`visloom/nets/fast_cifar.py`).

    widths: channels of its blocks, each of which halves the image.  patch: side of the whitened patches.
    norm_momentum: weight of the newest batch in the norms' running statistics. samples: images that it looks
    at.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    patch: int = 2
    norm_momentum: float = 0.4
    samples: int = 5000

    @property
    def needs_samples(self) -> int:
        return self.samples

    def build(self, classes: int, channels: int) -> nn.Module:
        from visloom.nets.fast_cifar import FastCifar as Net

        return Net(classes, self.widths, channels, self.patch, self.norm_momentum)

    def normalisation(self) -> Normalise | None:
        return Normalise((125.31, 122.95, 113.87), (62.99, 62.09, 66.70))  # of CIFAR-10's training images

    def fit(self, net: nn.Module, images: Tensor) -> None:
        net.whiten(images)  # type: ignore[operator]


@dataclass(frozen=True)
class Custom(_Plain):
    """A network of one's own: `call` is given the class and channel counts and returns an nn.Module.

    classes_as, channels_as: the names of those two arguments; "" leaves one out.
    normalise: what the weights expect, for a task that says `normalise: net`.
    """

    call: Call
    classes_as: str = "num_classes"
    channels_as: str = "in_chans"
    normalise: Normalise | None = None

    def build(self, classes: int, channels: int) -> nn.Module:
        from torch import nn

        counts = {name: n for name, n in ((self.classes_as, classes), (self.channels_as, channels)) if name}
        try:
            net = self.call.make(**counts)
        except TypeError as error:
            raise ConfigError(
                f"{self.call.target} cannot be called: {error}. It is given "
                f"{', '.join([*counts, *self.call.kwargs]) or 'no arguments'}; "
                'rename the counts with classes_as and channels_as, or leave one out with "".',
                path="task.net.call",
            ) from error
        if not isinstance(net, nn.Module):
            raise ContractError(
                f"{self.call.target} returned {type(net).__name__}, expected a torch.nn.Module",
                path="task.net.call",
            )
        return net

    def normalisation(self) -> Normalise | None:
        return self.normalise
