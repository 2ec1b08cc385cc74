"""XML from strangers: a document type or an entity is refused by name before anything in it is expanded or fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from visloom.data.images import missing
from visloom.errors import DataError

MAX_BYTES = 1 << 22
"""Of one annotation; published ones have a few kilobytes."""


class _Refused(Exception):
    """What a document declares that no annotation needs."""


def read_xml(path: Path, *, max_bytes: int = MAX_BYTES) -> Element:
    """Read an XML file and return its root.

    Raises:
        DataError: the file is missing, too big, no XML, cut off, or it has a document type (DTD) or an entity.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{path}: has {size:,} bytes, far more than an annotation")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {missing(path) if not path.exists() else error}") from error
    try:
        return _parsed(data)
    except _Refused as error:
        raise DataError(
            f"{path}: {error}; annotations need none, and such files can read others or fill the memory: remove it"
        ) from None
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{path}: is no XML, it is damaged or cut off ({error})") from error


def _parsed(data: bytes) -> Element:
    parser, tree = expat.ParserCreate(), TreeBuilder()

    def doctype(name: str, *_: Any) -> None:
        raise _Refused(f"declares a document type (DTD) {name!r}")

    def entity(name: str, *_: Any) -> None:
        raise _Refused(f"declares an entity {name!r}")

    parser.StartDoctypeDeclHandler = doctype
    parser.EntityDeclHandler = entity
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    parser.buffer_text = True
    parser.Parse(data, True)
    return tree.close()
