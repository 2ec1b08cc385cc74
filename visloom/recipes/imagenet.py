"""ImageNet-1k (Russakovsky et al. 2015), or any data set in its layout: DIR/train/CLASS/*, DIR/val/CLASS/*.

    visloom train imagenet --data DIR --nproc 8       ResNet-50, 100 epochs: published 76.55 % top-1 (mmclassification)
    visloom train imagenet:modern --data DIR          300 epochs with mixup, cutmix, RandAugment and an average
    visloom train imagenet:vit --data DIR             ViT-S/16

All configs of mmclassification 0.8 are here (`visloom recipes` lists them): networks as resnet18, vgg16_bn,
mobilenet_v2, ...; schedules as coslr, e140, label_smooth, bs2048, bs2048_coslr, bs2048_label_smooth, and further ones
inside mobilenet_v2 (a step per epoch) and the ShuffleNets (linear, warm-up, no decay of norms). "Published" is what
mmclassification says: top-1 / top-5 in percent; (converted) marks weights that it took over from elsewhere.

No number was reached here yet: the data set is not free to pass on.
"""

from __future__ import annotations

from visloom.config import change
from visloom.data.folder import Folder
from visloom.data.photometric import RandomErasing
from visloom.data.randaug import RandAugment
from visloom.data.transforms import CenterCrop, RandomFlip, RandomResizedCrop, Resize
from visloom.run import Call, Clip, Ema, Eval, How, Optim, Rule, Run
from visloom.schedule import Cosine, Multistep, Poly, Step, Warmup
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Classify, Custom, NetSpec, Normalise, Timm
from visloom.units import Epochs, Monitor, Steps

NORMALISE = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def imagenet() -> Run:
    """ResNet-50 as in mmclassification: SGD 0.1, a tenth after 30, 60 and 90 of 100 epochs, batch 256."""
    return Run(
        name="imagenet",
        task=Classify(net=Timm("resnet50"), topk=(1, 5)),
        train=Shuffled(
            source=Folder(root="train"),
            batch=256,
            transform=(RandomResizedCrop(size=224), RandomFlip()),
        ),
        evals={
            "val": Eval(
                stream=Ordered(
                    source=Folder(root="val"),
                    batch=256,
                    transform=(Resize(short=256), CenterCrop(size=224)),
                ),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(100),
        optim=Optim(name="SGD", lr=0.1, weight_decay=1e-4, options={"momentum": 0.9}),
        schedule=Multistep((Epochs(30), Epochs(60), Epochs(90)), gamma=0.1),
    )


def modern() -> Run:
    """The same network by today's means (Wightman et al. 2021, "ResNet strikes back", in outline)."""
    return change(
        imagenet(),
        {
            "name": "imagenet-modern",
            "task.smoothing": 0.1,
            "task.mixup": 0.2,
            "task.cutmix": 1.0,
            "train.batch": 1024,
            "train.transform": (
                RandomResizedCrop(size=224),
                RandomFlip(),
                RandAugment(n=2, magnitude=7),
                RandomErasing(p=0.1),
            ),
            "length": Epochs(300),
            "optim": Optim(
                name="SGD", lr=1.0, weight_decay=2e-5, options={"momentum": 0.9, "nesterov": True}
            ),
            "rules": (Rule(kind="bias", weight_decay=0.0), Rule(kind="norm", weight_decay=0.0)),
            "schedule": Warmup(Cosine(), Epochs(5), start=0.01),
            "how": How(ema=Ema(decay=0.9999)),
        },
    )


def vit() -> Run:
    """A small vision transformer with the same augmentation and AdamW (Touvron et al. 2021, DeiT, in outline)."""
    return change(
        modern(),
        {
            "name": "imagenet-vit",
            "task.net": Timm("vit_small_patch16_224", options={"drop_path_rate": 0.1}),
            "optim": Optim(name="AdamW", lr=1e-3, weight_decay=0.05),
            "how.clip": Clip(norm=1.0),
        },
    )


# ------------------------------------------------------------------------- mmclassification 0.8: schedules, ResNet-50


def e140() -> Run:
    """ResNet-50 for 140 epochs: a tenth after 40, 80 and 120. (SE-ResNet's schedule.)"""
    steps = Multistep((Epochs(40), Epochs(80), Epochs(120)), gamma=0.1)
    return change(imagenet(), {"name": "imagenet-e140", "length": Epochs(140), "schedule": steps})


def coslr() -> Run:
    """ResNet-50 with a cosine, which changes from epoch to epoch."""
    return change(imagenet(), {"name": "imagenet-coslr", "schedule": Cosine(by="epoch")})


def label_smooth() -> Run:
    """ResNet-50 with label smoothing 0.1. (The base that v0.8 names for it does not exist; this is what it means.)"""
    return change(imagenet(), {"name": "imagenet-label_smooth", "task.smoothing": 0.1})


def bs2048() -> Run:
    """ResNet-50 with batch 2048: SGD 0.8 with Nesterov, 2,500 steps of warm-up from a quarter."""
    run = imagenet()
    return change(
        run,
        {
            "name": "imagenet-bs2048",
            "train.batch": 2048,
            "optim": Optim(
                name="SGD", lr=0.8, weight_decay=1e-4, options={"momentum": 0.9, "nesterov": True}
            ),
            "schedule": Warmup(run.schedule, Steps(2500), start=0.25),
        },
    )


def bs2048_coslr() -> Run:
    """The same with a cosine."""
    schedule = Warmup(Cosine(by="epoch"), Steps(2500), start=0.25)
    return change(bs2048(), {"name": "imagenet-bs2048_coslr", "schedule": schedule})


def bs2048_label_smooth() -> Run:
    """Batch 2048 with label smoothing 0.1. (b64x32_warmup_label_smooth, whose base does not exist in v0.8 either.)"""
    return change(bs2048(), {"name": "imagenet-bs2048_label_smooth", "task.smoothing": 0.1})


# ------------------------------------------------------------------------------------ mmclassification 0.8: networks


def _with(run: Run, name: str, net: NetSpec) -> Run:
    return change(run, {"name": f"imagenet-{name}", "task.net": net})


def _torchvision(name: str, **options: float) -> NetSpec:
    return Custom(Call(f"torchvision.models:{name}", options), channels_as="", normalise=NORMALISE)


def resnet18() -> Run:
    """Published: 70.07 / 89.44."""
    return _with(imagenet(), "resnet18", Timm("resnet18"))


def resnet34() -> Run:
    """Published: 73.85 / 91.53."""
    return _with(imagenet(), "resnet34", Timm("resnet34"))


def resnet101() -> Run:
    """Published: 78.18 / 94.03."""
    return _with(imagenet(), "resnet101", Timm("resnet101"))


def resnet152() -> Run:
    """Published: 78.63 / 94.16."""
    return _with(imagenet(), "resnet152", Timm("resnet152"))


def resnetv1d50() -> Run:
    """ResNet-50 with a deep stem and averaging shortcuts (He et al. 2019). Published: 77.4 / 93.66."""
    return _with(imagenet(), "resnetv1d50", Timm("resnet50d"))


def resnetv1d101() -> Run:
    """ResNet-101 with a deep stem and averaging shortcuts (He et al. 2019). Published: 78.85 / 94.38."""
    return _with(imagenet(), "resnetv1d101", Timm("resnet101d"))


def resnetv1d152() -> Run:
    """ResNet-152 with a deep stem and averaging shortcuts (He et al. 2019). Published: 79.35 / 94.61."""
    return _with(imagenet(), "resnetv1d152", Timm("resnet152d"))


def resnext50_32x4d() -> Run:
    """Published: 77.92 / 93.74."""
    return _with(imagenet(), "resnext50_32x4d", Timm("resnext50_32x4d"))


def resnext101_32x4d() -> Run:
    """Published: 78.7 / 94.34."""
    return _with(imagenet(), "resnext101_32x4d", Timm("resnext101_32x4d"))


def resnext101_32x8d() -> Run:
    """Published: 79.22 / 94.52."""
    return _with(imagenet(), "resnext101_32x8d", Timm("resnext101_32x8d"))


def resnext152_32x4d() -> Run:
    """Published: 79.06 / 94.47."""
    return _with(
        imagenet(), "resnext152_32x4d", Timm("resnet152", options={"cardinality": 32, "base_width": 4})
    )


def seresnet50() -> Run:
    """Published: 77.74 / 93.84, in 140 epochs."""
    return _with(e140(), "seresnet50", Timm("seresnet50"))


def seresnet101() -> Run:
    """Published: 78.26 / 94.07."""
    return _with(imagenet(), "seresnet101", Timm("seresnet101"))


def seresnext50_32x4d() -> Run:
    """A config without a published number."""
    return _with(imagenet(), "seresnext50_32x4d", Timm("seresnext50_32x4d"))


def seresnext101_32x4d() -> Run:
    """A config without a published number."""
    return _with(imagenet(), "seresnext101_32x4d", Timm("seresnext101_32x4d"))


def _vgg(depth: int, norm: bool) -> Run:
    """The configs of v0.8 have no schedule; this is the usual one, from 0.01 as in the paper (Simonyan 2015)."""
    name = f"vgg{depth}_bn" if norm else f"vgg{depth}"
    return change(_with(imagenet(), name, _torchvision(name)), {"optim.lr": 0.01})


def vgg11() -> Run:
    """Published: 69.03 / 88.63 (converted)."""
    return _vgg(11, norm=False)


def vgg13() -> Run:
    """Published: 69.93 / 89.26 (converted)."""
    return _vgg(13, norm=False)


def vgg16() -> Run:
    """Published: 71.59 / 90.39 (converted)."""
    return _vgg(16, norm=False)


def vgg19() -> Run:
    """Published: 72.38 / 90.88 (converted)."""
    return _vgg(19, norm=False)


def vgg11_bn() -> Run:
    """Published: 70.37 / 89.81 (converted)."""
    return _vgg(11, norm=True)


def vgg13_bn() -> Run:
    """Published: 71.55 / 90.37 (converted)."""
    return _vgg(13, norm=True)


def vgg16_bn() -> Run:
    """Published: 73.36 / 91.5 (converted)."""
    return _vgg(16, norm=True)


def vgg19_bn() -> Run:
    """Published: 74.24 / 91.84 (converted)."""
    return _vgg(19, norm=True)


def mobilenet_v2() -> Run:
    """SGD 0.045 times 0.98 every epoch, 300 epochs. Published: 71.86 / 90.42."""
    return change(
        _with(imagenet(), "mobilenet_v2", _torchvision("mobilenet_v2", dropout=0.0)),
        {
            "length": Epochs(300),
            "optim.lr": 0.045,
            "optim.weight_decay": 4e-5,
            "schedule": Step(Epochs(1), gamma=0.98),
        },
    )


def _shuffle(name: str, net: NetSpec) -> Run:
    """Batch 1024: SGD 0.5, linear to zero after 5,000 steps at a tenth, no decay of norms, 300 epochs."""
    return change(
        _with(imagenet(), name, net),
        {
            "train.batch": 1024,
            "length": Epochs(300),
            "optim.lr": 0.5,
            "optim.weight_decay": 4e-5,
            "rules": (Rule(kind="norm", weight_decay=0.0),),
            "schedule": Warmup(Poly(power=1.0), Steps(5000), start=0.1, shape="constant"),
        },
    )


def shufflenet_v1() -> Run:
    """ShuffleNetV1 1x with 3 groups, batch 1024, linear, norms without decay. Published: 68.13 / 87.81."""
    net = Call("visloom.nets.shufflenet_v1:ShuffleNetV1", {"groups": 3})
    return _shuffle("shufflenet_v1", Custom(net, normalise=NORMALISE))


def shufflenet_v2() -> Run:
    """ShuffleNetV2 1x, batch 1024, linear, norms without decay. Published: 69.55 / 88.92."""
    return _shuffle("shufflenet_v2", _torchvision("shufflenet_v2_x1_0"))
