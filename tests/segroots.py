"""Small data roots in exactly the layout in which segmentation data sets are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (20, 14)  # height, width


def photo(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a smooth random picture; the ending says as what."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return path


def blocks(labels, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of horizontal stripes, one for each label: (H, W) uint8."""
    rows = np.array_split(np.arange(size[0]), len(labels))
    mask = np.zeros(size, np.uint8)
    for label, part in zip(labels, rows, strict=True):
        mask[part] = label
    return mask


def gray(path: Path, mask: np.ndarray) -> Path:
    """Write a mask as a gray PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def paletted(path: Path, mask: np.ndarray, colours) -> Path:
    """Write a mask as a PNG with a palette, as VOC's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask).convert("L")
    picture = Image.frombytes("P", picture.size, mask.tobytes())
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(path)
    return path


def painted(path: Path, mask: np.ndarray, colours) -> Path:
    """Write a mask as an RGB picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(colours, np.uint8)[mask]).save(path)
    return path


def mat(path: Path, **variables) -> Path:
    """Write a MATLAB file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)
    return path


def clothes(root: Path, *, photos: int = 6, masked: int = 4, splits: bool = False) -> Path:
    """Clothing Co-Parsing: `photos` photos, the first `masked` of which have a mask."""
    place = root / "clothing-co-parsing-master"
    for i in range(1, photos + 1):
        photo(place / "photos" / f"{i:04d}.jpg", i)
        if i <= masked:
            mat(place / "annotations" / "pixel-level" / f"{i:04d}.mat", groundtruth=blocks([0, 19, 41, 14]))
        else:
            mat(place / "annotations" / "image-level" / f"{i:04d}.mat", tags=np.array([[1], [2]], np.uint8))
    if splits:
        (place / "splits").mkdir()
        (place / "splits" / "train.txt").write_text("0001\n0003\n")
        (place / "splits" / "val.txt").write_text("0002\n")
    return place


def voc(root: Path, *, aug: bool = True) -> Path:
    """VOC 2012 with three ids, and SBD's masks for one more photo."""
    place = root / "VOCdevkit" / "VOC2012"
    colours = [(index, 0, 0) for index in range(256)]
    for i in range(4):
        photo(place / "JPEGImages" / f"2007_{i:06d}.jpg", i)
        mask = blocks([0, 15, 255, 20])
        if i < 3:
            paletted(place / "SegmentationClass" / f"2007_{i:06d}.png", mask, colours)
        if aug:
            gray(place / "SegmentationClassAug" / f"2007_{i:06d}.png", mask)
    lists = place / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000002\n")
    (lists / "val.txt").write_text("2007_000001\n")
    (lists / "trainval.txt").write_text("2007_000000\n2007_000001\n2007_000002\n")
    if aug:
        lines = [f"/JPEGImages/2007_{i:06d}.jpg /SegmentationClassAug/2007_{i:06d}.png" for i in (0, 2, 3)]
        (lists / "train_aug.txt").write_text("\n".join(lines) + "\n")
    return place


def cityscapes(root: Path, *, archives: bool = False, coarse: bool = False) -> Path:
    """Cityscapes with two cities; `archives`: in the folders that the archives unpack to."""
    images = root / "leftImg8bit_trainvaltest" if archives else root
    extra = root / "leftImg8bit_trainextra" if archives else root
    fine = root / "gtFine_trainvaltest" if archives else root
    rough = root / "gtCoarse" if archives else root
    names = {"train": ("aachen_000000_000019", "zurich_000001_000019"), "val": ("munster_000000_000019",)}
    if coarse:
        names["train_extra"] = ("bad-honnef_000000_000000",)
    for part, stems in names.items():
        for number, stem in enumerate(stems):
            city = stem.split("_")[0]
            outer = extra if part == "train_extra" else images
            photo(outer / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", number)
            mask = blocks([0, 7, 24, 33, 9])
            if part != "train_extra":
                gray(fine / "gtFine" / part / city / f"{stem}_gtFine_labelIds.png", mask)
                gray(fine / "gtFine" / part / city / f"{stem}_gtFine_instanceIds.png", mask)
            if coarse:
                gray(rough / "gtCoarse" / part / city / f"{stem}_gtCoarse_labelIds.png", blocks([0, 7]))
    return root


def ade20k(root: Path) -> Path:
    """ADE20K with two training pictures and one to validate."""
    place = root / "ADEChallengeData2016"
    for part, names in (
        ("training", ("ADE_train_00000001", "ADE_train_00000002")),
        ("validation", ("ADE_val_00000001",)),
    ):
        for number, name in enumerate(names):
            photo(place / "images" / part / f"{name}.jpg", number)
            gray(place / "annotations" / part / f"{name}.png", blocks([0, 1, 150]))
    return place


def cocostuff(root: Path, *, archives: bool = False) -> Path:
    """COCO-Stuff 164k."""
    for part, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        photo((root if archives else root / "images") / part / f"{name}.jpg")
        masks = root / ("stuffthingmaps_trainval2017" if archives else "annotations") / part
        gray(masks / f"{name}.png", blocks([0, 12, 181, 255]))
    return root


def cocostuff10k(root: Path) -> Path:
    """COCO-Stuff 10k, one of its photos gray; its MATLAB files hold cells beside the masks."""
    names = ("COCO_train2014_000000000077", "COCO_train2014_000000000349", "COCO_train2014_000000000431")
    cells = np.empty((2, 1), object)
    cells[:, 0] = ["a man", "a dog"]
    for number, name in enumerate(names):
        image = photo(root / "images" / f"{name}.jpg", number)
        if number == 1:
            Image.open(image).convert("L").save(image)
        mat(root / "annotations" / f"{name}.mat", S=blocks([0, 1, 182]), captions=cells)
    (root / "imageLists").mkdir()
    (root / "imageLists" / "all.txt").write_text("\n".join(names) + "\n")
    (root / "imageLists" / "train.txt").write_text("\n".join(names[:2]) + "\n")
    (root / "imageLists" / "test.txt").write_text(names[2] + "\n")
    return root


def deepscene(root: Path, *, index: bool = False) -> Path:
    """Freiburg Forest; numbers in names are not padded, so that sorting by letters and by numbers differ."""
    colours = [(255, 255, 255), (170, 170, 170), (0, 255, 0), (102, 102, 51), (0, 120, 255), (0, 0, 0)]
    for part, names in (("train", ("b1-2", "b1-10")), ("test", ("b9-1",))):
        for number, name in enumerate(names):
            photo(root / part / "rgb" / f"{name}_Clipped.jpg", number)
            mask = np.roll(blocks([0, 1, 2, 3, 4, 5]), number, axis=0)
            if index:
                gray(root / part / "GT_index" / f"{name}_mask.png", mask)
            else:
                painted(root / part / "GT_color" / f"{name}_mask.png", mask, colours)
    return root
