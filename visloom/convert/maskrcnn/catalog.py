"""Weights by the names that old configs use: `catalog://ImageNetPretrained/MSRA/R-50`, and torchvision's.

A file is looked for in the folder that VISLOOM_WEIGHTS names, or ~/.cache/visloom/weights; what is not there is
fetched. Its size and sha256 are checked at every use: against what torchvision publishes (the beginning of the
digest), and against what the file was when it was first used here, which stands beside it in NAME.sha256 (Detectron
publishes no digests). Without a network the error says which file belongs where.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from visloom.errors import ConfigError
from visloom.place import did_you_mean, nearest

_ROOT = "https://dl.fbaipublicfiles.com/detectron"
_IMAGENET = {
    "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "MSRA/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
    "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "MSRA/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
    "FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
}
_COCO = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
}
"""Detectron's models of COCO by number and name, with what their addresses have besides."""

_TORCHVISION = {
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "keypointrcnn_resnet50_fpn": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn_coco-99b0c9b7.pth",
}


@dataclass(frozen=True)
class Entry:
    """A file of weights. sha256: what its digest begins with, where that is known."""

    name: str
    url: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """The file's name in the folder of weights, unique among entries."""
        return self.name.removeprefix("catalog://").replace("/", "_") + Path(self.url).suffix


def entries() -> dict[str, Entry]:
    """All names that are known."""
    found = {}
    for short, path in _IMAGENET.items():
        name = f"catalog://ImageNetPretrained/{short}"
        found[name] = Entry(name, f"{_ROOT}/{path}")
    for short, signature in _COCO.items():
        number, model = short.split("/")
        kind = "keypoints_" if "keypoint" in model else ""
        name = f"catalog://Caffe2Detectron/COCO/{short}"
        path = f"{number}/12_2017_baselines/{model}.yaml.{signature}/output/train"
        data = f"{kind}coco_2014_train%3A{kind}coco_2014_valminusminival"
        found[name] = Entry(name, f"{_ROOT}/{path}/{data}/generalized_rcnn/model_final.pkl")
    for short, file in _TORCHVISION.items():
        digest = file.rpartition("-")[2].removesuffix(".pth")
        name = f"torchvision://{short}"
        found[name] = Entry(name, f"https://download.pytorch.org/models/{file}", digest)
    return found


def folder() -> Path:
    """Where files of weights lie."""
    named = os.environ.get("VISLOOM_WEIGHTS")
    return Path(named) if named else Path.home() / ".cache" / "visloom" / "weights"


def resolve(text: str) -> Path:
    """The file of a catalog name; any other text is a path already.

    Raises:
        ConfigError: an unknown name; a file that cannot be had, with where to put it; one that is not what it should
            be.
    """
    text = text.replace(":/", "://").replace(":///", "://")  # a Path swallows a slash
    if not text.startswith(("catalog://", "torchvision://")):
        return Path(text)
    known = entries()
    if text not in known:
        near = did_you_mean(nearest(text, known))
        raise ConfigError(f"no weights are known by the name {text}\n  {near}".rstrip())
    entry = known[text]
    place = folder() / entry.file
    if not place.is_file():
        _fetch(entry, place)
    check(entry, place)
    return place


def check(entry: Entry, place: Path) -> None:
    """Compare a file's size and sha256 with what is known of it; what is not known yet is remembered beside it.

    Raises:
        ConfigError: the file is empty, or not what was published or used before.
    """
    size, digest = place.stat().st_size, _digest(place)
    again = f"delete it, and fetch {entry.url} again"
    if not size:
        raise ConfigError(f"{place} is empty: {again}")
    if not digest.startswith(entry.sha256):
        raise ConfigError(
            f"{place} is not {entry.name}: its sha256 begins with {digest[:8]}, expected {entry.sha256}; {again}"
        )
    beside = place.with_name(f"{place.name}.sha256")
    said = f"{digest} {size}"
    try:
        before = beside.read_text(encoding="ascii").strip() if beside.is_file() else ""
        if not before:
            beside.write_text(f"{said}\n", encoding="ascii")
    except (OSError, UnicodeDecodeError):  # a folder that others fill may be read-only
        before = ""
    if before not in ("", said):
        was, _, bytes_ = before.partition(" ")
        raise ConfigError(
            f"{place} has changed since it was first used here: it had {bytes_} bytes and a sha256 of {was[:8]}..., "
            f"now {size} and {digest[:8]}...; {again}, or delete {beside.name} if the new file is right"
        )


def _digest(place: Path) -> str:
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(entry: Entry, place: Path) -> None:
    from torch.hub import download_url_to_file

    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    try:
        download_url_to_file(entry.url, str(part), progress=False)
        os.replace(part, place)
    except Exception as error:  # urllib raises several types
        part.unlink(missing_ok=True)
        raise ConfigError(
            f"{entry.name} is not on this machine and cannot be fetched ({error}). On a machine with a network fetch\n"
            f"  {entry.url}\nand put it here as\n  {place}\nor set VISLOOM_WEIGHTS to the folder that holds it"
        ) from error
