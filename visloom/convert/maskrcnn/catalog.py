"""Weights by the names that old configs use: `catalog://ImageNetPretrained/MSRA/R-50`, and torchvision's.

A file is looked for in the folder that VISLOOM_WEIGHTS names, or ~/.cache/visloom/weights; what is not there is
fetched, and checked where its size or the beginning of its sha256 is known. Without a network the error says which
file belongs where.
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
    """Raise ConfigError if a file is empty or its digest is not the known one."""
    if not place.stat().st_size:
        raise ConfigError(f"{place} is empty: delete it, and fetch {entry.url} again")
    if not entry.sha256:
        return
    digest = hashlib.sha256()
    with place.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(entry.sha256):
        raise ConfigError(
            f"{place} is not {entry.name}: its sha256 begins with {digest.hexdigest()[:8]}, expected {entry.sha256}; "
            f"delete it, and fetch {entry.url} again"
        )


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
