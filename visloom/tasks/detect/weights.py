"""ImageNet weights of a detector's ResNet body, from torchvision's cache or over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visloom.errors import ConfigError

if TYPE_CHECKING:
    from visloom.tasks.detect.nets import ResNetBody

_NAMES = {
    (50, 1, 64): "ResNet50_Weights.IMAGENET1K_V2",
    (101, 1, 64): "ResNet101_Weights.IMAGENET1K_V2",
    (152, 1, 64): "ResNet152_Weights.IMAGENET1K_V2",
    (101, 32, 8): "ResNeXt101_32X8D_Weights.IMAGENET1K_V2",
}


def load_imagenet(net: Any, body: ResNetBody) -> None:
    """Put torchvision's ImageNet weights into the body of a net, and into its last stage where that is the box head.

    Raises:
        ConfigError: there are none for such a body, or they cannot be had.
    """
    import torchvision

    name = _NAMES.get((body.depth, body.groups, body.group_width))
    if name is None or (body.stem, body.out) != (64, 256):
        raise ConfigError(
            f"torchvision has no ImageNet weights for {body}; set pretrained: false and name a file in "
            "init.net.backbone.body",
            path="task.net.body.pretrained",
        )
    weights = torchvision.models.get_weight(name)
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib raises several types
        raise ConfigError(
            f"no pretrained weights: {error}. Without a network, fetch {weights.url} elsewhere and put it into "
            "torch's cache (~/.cache/torch/hub/checkpoints), or set init.net.backbone.body to its path",
            path="task.net.body.pretrained",
        ) from error
    inside = {k: v for k, v in tensors.items() if not k.startswith("fc.") and "num_batches" not in k}
    head = getattr(getattr(net, "roi", None), "head", None)
    last = getattr(head, "layer4", None)
    if last is not None:
        own = {k.removeprefix("layer4."): v for k, v in inside.items() if k.startswith("layer4.")}
        last.load_state_dict(own)
        inside = {k: v for k, v in inside.items() if not k.startswith("layer4.")}
    net.backbone.body.load_state_dict(inside, strict=False)
