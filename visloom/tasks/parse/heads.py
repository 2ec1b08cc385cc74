"""Heads of a parsing network as plain values: what can be asked of a picture, and the names of the answers.

    Pixels(name="object", classes=("wall", "sky", ...))             a class for every pixel
    Parts(name="part", of="object", parts=(PartsOf("person", ("head", "leg")), ...))
                                                                    a part for every pixel of an object that has parts
    Whole(name="scene", classes=("beach", ...))                     one class for the picture
    Texture(name="texture", classes=("dotted", ...))                the texture of a picture, seen at every pixel

A sample carries masks by the names of heads (`Sample.masks`, -1 = ignore) and classes of the picture in
`Sample.extra["labels"]`, -1 = none. `Sample.extra["tasks"]` names all heads that its source labels, whether or not this
sample has such a label: so every process knows which heads a step trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from visloom.palette import Colour, palette

Kind = Literal["pixels", "parts", "whole", "texture"]

BACKGROUND = "-"
"""Name of what of an object is none of its parts, and of the class 0 that means "not labelled"."""


@runtime_checkable
class Head(Protocol):
    """One thing to answer. kind: how it is learnt, measured and drawn; at: the map of the network that it looks at."""

    kind: ClassVar[Kind]

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs."""
        ...


def _check(name: str, weight: float, labels: Sequence[str], least: int = 2) -> None:
    if not name.isidentifier():
        raise ValueError(f"a head's name is a word of letters, digits and _, got {name!r}")
    if weight <= 0:
        raise ValueError(f"head {name!r}: the weight of a loss is positive, got {weight}")
    if len(labels) < least:
        raise ValueError(f"head {name!r}: needs {least} or more classes, got {len(labels)}")


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A class for every pixel.

    weight: of its loss.  at: "fused" looks at all levels of the pyramid, "finest" at the finest (the original's
    materials).  void: class 0 stands for "not labelled", as in the original's tables: it is no target and no answer.
    colours: one RGB colour per class; () chooses.
    """

    kind: ClassVar[Kind] = "pixels"
    name: str
    classes: tuple[str, ...]
    weight: float = 1.0
    at: Literal["fused", "finest"] = "fused"
    void: bool = False
    colours: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        _check(self.name, self.weight, self.classes, 3 if self.void else 2)
        if len(set(self.classes)) < len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise ValueError(f"head {self.name!r}: classes come once, got {', '.join(twice[:5])} again")
        if self.colours and len(self.colours) != len(self.classes):
            raise ValueError(
                f"head {self.name!r}: {len(self.colours)} colours for {len(self.classes)} classes"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes

    @property
    def first(self) -> int:
        """The first class that is one."""
        return int(self.void)

    @property
    def palette(self) -> tuple[Colour, ...]:
        return self.colours or palette(len(self.classes))


@dataclass(frozen=True)
class PartsOf:
    """An object class and the names of its parts, without the background that every object has."""

    object: str
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError(f"{self.object!r} is named without a part")


class Block(NamedTuple):
    """The outputs of one object: background at `start`, then its parts, up to `stop`. label: class of the object."""

    start: int
    stop: int
    label: int
    object: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts inside objects: outputs are blocks, one per object, of its background and its parts.

    A mask's values number the outputs: background or part of the object that the pixel belongs to; -1 where the object
    has no parts, or those of this picture were not labelled. The loss is a sum over objects of means over their pixels.

    of: the head of the objects.  parts: objects with parts, in the order of the outputs.
    """

    kind: ClassVar[Kind] = "parts"
    at: ClassVar[Literal["fused"]] = "fused"
    name: str
    of: str
    parts: tuple[PartsOf, ...]
    weight: float = 0.5

    def __post_init__(self) -> None:
        _check(self.name, self.weight, self.labels)
        names = [each.object for each in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"head {self.name!r}: an object is named once, got {', '.join(names)}")

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"{each.object}: {part}" for each in self.parts for part in (BACKGROUND, *each.parts))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Outputs of each object."""
        return tuple(len(each.parts) + 1 for each in self.parts)

    def blocks(self, objects: Pixels) -> tuple[Block, ...]:
        """Where each object's outputs stand."""
        found, start = [], 0
        for each, size in zip(self.parts, self.sizes, strict=True):
            found.append(Block(start, start + size, objects.classes.index(each.object), each.object))
            start += size
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """One class for the picture."""

    kind: ClassVar[Kind] = "whole"
    at: ClassVar[Literal["coarsest"]] = "coarsest"
    name: str
    classes: tuple[str, ...]
    weight: float = 0.25

    def __post_init__(self) -> None:
        _check(self.name, self.weight, self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes


@dataclass(frozen=True, kw_only=True)
class Texture:
    """The texture of a picture that shows one, predicted at every pixel of the encoder's finest map.

    No gradient flows into the encoder, as in the paper. width, depth: of the head's 3x3 convolutions.
    short: shorter side at which pictures are looked at that are labelled for textures alone; the paper's are 64x64.
    """

    kind: ClassVar[Kind] = "texture"
    at: ClassVar[Literal["texture"]] = "texture"
    name: str
    classes: tuple[str, ...]
    weight: float = 1.0
    width: int = 128
    depth: int = 4
    short: int = 64

    def __post_init__(self) -> None:
        _check(self.name, self.weight, self.classes)
        if min(self.width, self.depth, self.short) < 1:
            raise ValueError(f"head {self.name!r}: width, depth and short are at least 1")

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes


def check_heads(heads: Sequence[Head]) -> None:
    """Raise ValueError unless names are different and every `of` names a head of pixels with the objects."""
    names = [head.name for head in heads]
    if not heads or len(set(names)) < len(names):
        raise ValueError(f"a parsing task needs one or more heads with different names, got {names}")
    by_name = {head.name: head for head in heads}
    for head in heads:
        if head.name == "deep":
            raise ValueError('no head can be called "deep": deep supervision is')
        if not isinstance(head, Parts):
            continue
        objects = by_name.get(head.of)
        if not isinstance(objects, Pixels):
            pixels = [h.name for h in heads if isinstance(h, Pixels)]
            raise ValueError(
                f"head {head.name!r} is of {head.of!r}, which is no head of pixels; there is {pixels}"
            )
        unknown = [each.object for each in head.parts if each.object not in objects.classes]
        if unknown:
            raise ValueError(
                f"head {head.name!r} names parts of {', '.join(unknown[:5])}, no class of {head.of!r}"
            )
