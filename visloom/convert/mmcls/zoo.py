"""The networks of mmclassification 0.x: which of them a checkpoint holds, and what its tensors are called here.

`find` reads the architecture off names and shapes alone. `old_name` turns the name of one of our tensors into the
original's; it is the only table there is, so that reading and writing old names cannot disagree.

    there                                    here
    ResNet_CIFAR                             visloom/nets/resnet_cifar.py
    ResNet, ResNetV1c, ResNetV1d, ResNeXt    timm resnet*, resnet*d, resnext*: the same sums in the same order
    SEResNet, SEResNeXt                      timm seresnet*, seresnext*
    VGG                                      torchvision vgg*, vgg*_bn
    MobileNetV2, ShuffleNetV2                torchvision mobilenet_v2, shufflenet_v2_*
    ShuffleNetV1                             visloom/nets/shufflenet_v1.py
    LeNet5                                   visloom/nets/lenet.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from visloom.errors import ConfigError
from visloom.run import Call
from visloom.tasks.classify import Custom, NetSpec, Normalise, ResNetCifar, Timm

Shape = tuple[int, ...]
MNIST = Normalise((33.46,), (78.87,))
IMAGENET = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_BLOCKS: dict[Shape, int] = {
    (2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152,
}  # fmt: skip
_DEPTHS = (18, 34, 50, 101, 152)
_DEEP = {"stem_width": 32, "stem_type": "deep"}
_SHUFFLE_V1 = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # groups -> channels of the first stage
_SHUFFLE_V2 = {48: 0.5, 116: 1.0, 176: 1.5, 244: 2.0}  # channels of the first stage -> widen_factor
_VGG = {8: 11, 10: 13, 13: 16, 16: 19}  # convolutions -> layers with weights
_MOBILE = (1, 2, 3, 4, 3, 3, 1)  # blocks of MobileNetV2's seven layers


@dataclass(frozen=True)
class Found:
    """A network that was recognised: ours, its classes, the channels of its pictures, and the original's name."""

    net: NetSpec
    classes: int
    channels: int
    name: str


def recognises(keys: Iterable[str]) -> bool:
    """Say whether tensors have names of mmclassification: `backbone.*`, and a head that classifies."""
    names = set(keys)
    if not any(name.startswith("backbone.") for name in names):
        return False
    return bool(names & {"head.fc.weight", "backbone.classifier.6.weight", "backbone.classifier.2.weight"})


def find(shapes: Mapping[str, Shape]) -> Found:
    """Return the network that tensors of these names and shapes belong to. Raises ConfigError."""
    names = shapes.keys()
    if "backbone.features.0.weight" in names and "backbone.classifier.2.weight" in names:
        return Found(
            _lenet(),
            shapes["backbone.classifier.2.weight"][0],
            shapes["backbone.features.0.weight"][1],
            "LeNet5",
        )
    if "backbone.features.0.weight" in names:
        raise ConfigError("AlexNet is not of the zoo that is known here")
    if "backbone.classifier.6.weight" in names:
        return _vgg(shapes)
    if "head.fc.weight" not in names:
        raise ConfigError(
            "it has no head.fc.weight: a backbone alone classifies nothing. Use it as init.net=FILE"
        )
    classes = shapes["head.fc.weight"][0]
    if "backbone.layers.0.0.g_conv_1x1_compress.conv.weight" in names:
        return _shuffle_v1(shapes, classes)
    if "backbone.layers.0.0.branch2.0.conv.weight" in names:
        return _shuffle_v2(shapes, classes)
    if "backbone.layer1.0.conv.0.conv.weight" in names:
        return _mobile_v2(shapes, classes)
    if "backbone.layer1.0.conv1.weight" in names:
        return _resnet(shapes, classes)
    raise ConfigError(
        "its backbone is none of VGG, ResNet (V1c, V1d, CIFAR), ResNeXt, SE-ResNet, SE-ResNeXt, ShuffleNet V1 or V2, "
        "MobileNetV2, LeNet"
    )


def _resnet(shapes: Mapping[str, Shape], classes: int) -> Found:
    counts = tuple(_count(shapes, f"backbone.layer{stage}.") for stage in (1, 2, 3, 4))
    bottleneck = "backbone.layer1.0.conv3.weight" in shapes
    depth = _BLOCKS.get(counts, 0)
    depth = 34 if depth == 50 and not bottleneck else depth
    if not depth:
        raise ConfigError(f"a ResNet or RegNet with {counts} blocks is not of the zoo")
    if "backbone.layer1.0.conv2.weight" not in shapes:
        raise ConfigError(
            "its blocks are none of ResNet's: split attention, as ResNeSt has, is not known here"
        )
    if "backbone.stem.0.conv.weight" in shapes:
        width = shapes["backbone.stem.0.conv.weight"][0]
        down = "d" if "backbone.layer2.0.downsample.1.weight" in shapes and _is_conv(
            shapes, "backbone.layer2.0.downsample.1.weight") else "c"  # fmt: skip
        if width != 32:
            raise ConfigError(f"a deep stem of {width} channels is not of the zoo, which has 32")
        channels = shapes["backbone.stem.0.conv.weight"][1]
        net = Timm(f"resnet{depth}d") if down == "d" else Timm(f"resnet{depth}", options=_DEEP)
        return Found(net, classes, channels, f"ResNetV1{down}-{depth}")
    stem = shapes["backbone.conv1.weight"]
    if len(shapes.get("backbone.layer2.0.downsample.1.weight", ())) == 4:
        raise ConfigError("a ResNet with pooled shortcuts behind a plain stem (avg_down) is not of the zoo")
    if stem[2:] == (3, 3):
        return Found(ResNetCifar(depth), classes, stem[1], f"ResNet_CIFAR-{depth}")
    squeeze = "backbone.layer1.0.se_layer.conv1.conv.weight" in shapes
    se, title = ("se", "SE") if squeeze else ("", "")
    grouped = shapes["backbone.layer1.0.conv2.weight"]
    groups = grouped[0] // grouped[1]
    if groups == 1 or not bottleneck:
        return Found(Timm(f"{se}resnet{depth}"), classes, stem[1], f"{title}ResNet-{depth}")
    width = grouped[1]
    return Found(
        _resnext(se, depth, groups, width), classes, stem[1], f"{title}ResNeXt-{depth} ({groups}x{width}d)"
    )


def _resnext(se: str, depth: int, groups: int, width: int) -> Timm:
    name = f"{se}resnext{depth}_{groups}x{width}d"
    if name in _TIMM_RESNEXT:
        return Timm(name)
    return Timm(f"{se}resnet{depth}", options={"cardinality": groups, "base_width": width})


_TIMM_RESNEXT = (
    "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "seresnext50_32x4d", "seresnext101_32x4d",
)  # fmt: skip


def _is_conv(shapes: Mapping[str, Shape], name: str) -> bool:
    return len(shapes[name]) == 4


def _count(shapes: Mapping[str, Shape], prefix: str) -> int:
    """Modules numbered under a prefix."""
    rest = {name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)}
    return len({number for number in rest if number.isdigit()})


def _vgg(shapes: Mapping[str, Shape]) -> Found:
    convolutions = [name for name in shapes if re.fullmatch(r"backbone\.features\.\d+\.conv\.weight", name)]
    layers = _VGG.get(len(convolutions), 0)
    if not layers:
        raise ConfigError(f"a VGG with {len(convolutions)} convolutions is not of the zoo")
    norm = "_bn" if "backbone.features.0.bn.weight" in shapes else ""
    classes = shapes["backbone.classifier.6.weight"][0]
    return Found(_vgg_net(layers, norm), classes, 3, f"VGG-{layers}{'-BN' if norm else ''}")


def _vgg_net(layers: int, norm: str) -> Custom:
    return Custom(Call(f"torchvision.models:vgg{layers}{norm}"), channels_as="", normalise=IMAGENET)


def _mobile_v2(shapes: Mapping[str, Shape], classes: int) -> Found:
    counts = tuple(_count(shapes, f"backbone.layer{layer}.") for layer in range(1, 8))
    last = shapes["backbone.conv2.conv.weight"][0]
    if counts != _MOBILE or shapes["backbone.conv1.conv.weight"][0] != 32 or last != 1280:
        raise ConfigError("this MobileNetV2 is narrower or wider than the zoo's (widen_factor 1)")
    return Found(_mobile_net(), classes, 3, "MobileNetV2")


def _mobile_net() -> Custom:
    """torchvision's drops a fifth of the features before the head; the original drops none."""
    call = Call("torchvision.models:mobilenet_v2", {"dropout": 0.0})
    return Custom(call, channels_as="", normalise=IMAGENET)


def _shuffle_v2(shapes: Mapping[str, Shape], classes: int) -> Found:
    width = shapes["backbone.layers.0.0.branch2.2.conv.weight"][0] * 2
    if width not in _SHUFFLE_V2:
        raise ConfigError(f"a ShuffleNetV2 of {width} channels is not of the zoo")
    return Found(_shuffle_v2_net(width), classes, 3, f"ShuffleNetV2 {_SHUFFLE_V2[width]}x")


def _shuffle_v2_net(width: int) -> Custom:
    name = f"shufflenet_v2_x{str(_SHUFFLE_V2[width]).replace('.', '_')}"
    return Custom(Call(f"torchvision.models:{name}"), channels_as="", normalise=IMAGENET)


def _shuffle_v1(shapes: Mapping[str, Shape], classes: int) -> Found:
    first = shapes["backbone.layers.0.1.g_conv_1x1_compress.conv.weight"]
    groups = shapes["backbone.layers.0.1.g_conv_1x1_expand.conv.weight"][0] // first[1]
    groups = groups if groups in (1, 2, 3, 4, 8) else 0
    width = shapes["backbone.layers.0.1.g_conv_1x1_expand.conv.weight"][0]
    if not groups or _SHUFFLE_V1[groups] != width:
        raise ConfigError(f"a ShuffleNetV1 of {width} channels is not of the zoo")
    channels = shapes["backbone.conv1.conv.weight"][1]
    return Found(_shuffle_v1_net(groups), classes, channels, f"ShuffleNetV1 1x (g={groups})")


def _shuffle_v1_net(groups: int) -> Custom:
    return Custom(Call("visloom.nets.shufflenet_v1:ShuffleNetV1", {"groups": groups}), normalise=IMAGENET)


def _lenet() -> Custom:
    return Custom(Call("visloom.nets.lenet:LeNet5"), normalise=MNIST)


# ------------------------------------------------------------------------------------------------------- configs


_STEMS = {"ResNet": ((False, False), (True, False), (True, True)), "ResNetV1d": ((True, True),)}
"""deep_stem and avg_down of the zoo's networks; the others have neither."""


def _check_stem(kind: Any, backbone: Mapping[str, Any]) -> None:
    usual = kind == "ResNetV1d"
    given = bool(backbone.get("deep_stem", usual)), bool(backbone.get("avg_down", usual))
    if given not in _STEMS.get(str(kind), ((False, False),)):
        raise ConfigError(f"a {kind} with deep_stem={given[0]} and avg_down={given[1]} is not of the zoo")


def of_config(backbone: Mapping[str, Any]) -> NetSpec:
    """Return the network that the backbone of a config describes; options that do not shape it are not looked at.

    Raises ConfigError if it is not of the zoo.
    """
    kind, depth = backbone.get("type"), backbone.get("depth", 0)
    known = {"ResNet": depth in _DEPTHS, "ResNetV1d": depth in _DEPTHS, "ResNet_CIFAR": depth in _DEPTHS,
             "SEResNet": depth in _DEPTHS, "ResNeXt": depth in _DEPTHS[2:], "SEResNeXt": depth in _DEPTHS[2:],
             "VGG": depth in _VGG.values()}  # fmt: skip
    if known.get(str(kind)) is False:
        raise ConfigError(f"a {kind} of depth {depth} is not of the zoo")
    _check_stem(kind, backbone)
    match kind:
        case "ResNet_CIFAR":
            return ResNetCifar(depth)
        case "ResNet" if backbone.get("deep_stem"):
            down = bool(backbone.get("avg_down"))
            return Timm(f"resnet{depth}d") if down else Timm(f"resnet{depth}", options=_DEEP)
        case "ResNet" | "SEResNet":
            return Timm(f"{'se' if kind == 'SEResNet' else ''}resnet{depth}")
        case "ResNetV1d":
            return Timm(f"resnet{depth}d")
        case "ResNeXt" | "SEResNeXt":
            groups, width = backbone.get("groups", 32), backbone.get("width_per_group", 4)
            return _resnext("se" if kind == "SEResNeXt" else "", depth, groups, width)
        case "VGG":
            return _vgg_net(depth, "_bn" if backbone.get("norm_cfg") else "")
        case "MobileNetV2" if backbone.get("widen_factor", 1.0) == 1.0:
            return _mobile_net()
        case "ShuffleNetV2" if backbone.get("widen_factor", 1.0) in _SHUFFLE_V2.values():
            factor = backbone.get("widen_factor", 1.0)
            return _shuffle_v2_net(next(width for width, each in _SHUFFLE_V2.items() if each == factor))
        case "ShuffleNetV1" if backbone.get("widen_factor", 1.0) == 1.0:
            return _shuffle_v1_net(backbone.get("groups", 3))
        case "LeNet5":
            return _lenet()
    raise ConfigError(f"the backbone {kind} (of this width) is none that is known here")


# --------------------------------------------------------------------------------------------------------- names


def old_name(net: NetSpec, name: str) -> str:
    """Return what mmclassification calls a tensor of one of our networks, named as in the network itself.

    Raises ConfigError if the network is none of mmclassification's.
    """
    if isinstance(net, ResNetCifar):
        return _resnet_name(name)
    if isinstance(net, Timm) and re.fullmatch(
        r"(se)?resnet(18|34|50|101|152)d?|(se)?resnext\d+_\d+x\d+d", net.name
    ):
        deep = net.name.endswith("d") and net.name[-2].isdigit() and "resnext" not in net.name
        return _resnet_name(name, deep=deep or "stem_type" in net.options, avg=deep)
    target = net.call.target if isinstance(net, Custom) else ""
    if target.startswith("torchvision.models:vgg"):
        return _vgg_name(name, int(re.findall(r"\d+", target)[0]), target.endswith("_bn"))
    if target == "torchvision.models:mobilenet_v2":
        return _mobile_name(name)
    if target.startswith("torchvision.models:shufflenet_v2_"):
        return _shuffle_v2_name(name)
    if target in ("visloom.nets.shufflenet_v1:ShuffleNetV1", "visloom.nets.lenet:LeNet5"):
        return _headed(name)
    raise ConfigError("this network has no counterpart in mmclassification: export it with --keys visloom")


def _headed(name: str) -> str:
    return f"head.{name}" if name.startswith("fc.") else f"backbone.{name}"


def _resnet_name(name: str, *, deep: bool = False, avg: bool = False) -> str:
    """timm counts a stem's layers in one row, and gives every shortcut a pool; the original only where it strides."""
    name = re.sub(r"\.se\.fc([12])\.", r".se_layer.conv\1.conv.", name)
    if deep:
        stem = {
            "conv1.0": "stem.0.conv",
            "conv1.1": "stem.0.bn",
            "conv1.3": "stem.1.conv",
            "conv1.4": "stem.1.bn",
        }
        stem |= {"conv1.6": "stem.2.conv"}
        head = re.match(r"conv1\.\d|bn1(?=\.)", name)
        if head is not None:
            name = ("stem.2.bn" if head[0] == "bn1" else stem[head[0]]) + name[head.end() :]
    if avg:
        name = re.sub(
            r"^layer1\.0\.downsample\.([12])", lambda m: f"layer1.0.downsample.{int(m[1]) - 1}", name
        )
    return _headed(name)


_VGG_POOLS = {11: (1, 2, 4, 6, 8), 13: (2, 4, 6, 8, 10), 16: (2, 4, 7, 10, 13), 19: (2, 4, 8, 12, 16)}


def _vgg_name(name: str, layers: int, norm: bool) -> str:
    """torchvision counts convolution, norm, ReLU and pool; the original counts convolutions and pools."""
    part, number, rest = name.split(".", 2)
    if part == "classifier":
        return f"backbone.{name}"
    at = place = done = 0
    for convolution in range(1, _VGG_POOLS[layers][-1] + 1):
        if int(number) in (at, at + norm):
            return f"backbone.features.{place}.{'conv' if int(number) == at else 'bn'}.{rest}"
        at, place, done = at + 2 + norm, place + 1, convolution
        if done in _VGG_POOLS[layers]:
            at, place = at + 1, place + 1
    raise ConfigError(f"VGG-{layers} has no tensor {name}")


def _mobile_name(name: str) -> str:
    """torchvision numbers all blocks in one row and ends a block with a bare convolution and norm."""
    if name.startswith("classifier."):
        return f"head.fc.{name.rpartition('.')[2]}"
    kinds = {"0": "conv", "1": "bn"}
    _, number, rest = name.split(".", 2)
    block = int(number)
    if block in (0, 18):
        index, _, leaf = rest.partition(".")
        return f"backbone.conv{1 if block == 0 else 2}.{kinds[index]}.{leaf}"
    layer = 0
    while block > sum(_MOBILE[: layer + 1]):
        layer += 1
    inside = block - 1 - sum(_MOBILE[:layer])
    parts = rest.split(".")[1:]  # after "conv"
    last = 2 if block == 1 else 3  # convolutions of a block
    if len(parts) == 3:
        place, kind, leaf = int(parts[0]), kinds[parts[1]], parts[2]
    else:
        place, kind, leaf = last - 1, "conv" if int(parts[0]) == last - 1 else "bn", parts[1]
    return f"backbone.layer{layer + 1}.{inside}.conv.{place}.{kind}.{leaf}"


_SHUFFLE_PARTS = {
    "branch1": {0: "0.conv", 1: "0.bn", 2: "1.conv", 3: "1.bn"},
    "branch2": {0: "0.conv", 1: "0.bn", 3: "1.conv", 4: "1.bn", 5: "2.conv", 6: "2.bn"},
}


def _shuffle_v2_name(name: str) -> str:
    """torchvision counts activations, too, and has stages 2 to 4 and a conv5."""
    first, number, rest = name.split(".", 2) if name.count(".") > 1 else (*name.split("."), "")
    if first == "fc":
        return f"head.{name}"
    if first in ("conv1", "conv5"):
        kind = "conv" if number == "0" else "bn"
        return f"backbone.{'conv1' if first == 'conv1' else 'layers.3'}.{kind}.{rest}"
    branch, inside, leaf = rest.split(".")
    return (
        f"backbone.layers.{int(first[-1]) - 2}.{number}.{branch}.{_SHUFFLE_PARTS[branch][int(inside)]}.{leaf}"
    )
