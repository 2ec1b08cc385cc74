"""From a template to one self-contained page: escaped, without a script, with nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from visloom import __version__
from visloom.durable import size_text, write_text
from visloom.words import safe, shorten

LIMIT = 2_000_000  # bytes of a page


def render(template: str, **values: Any) -> str:
    """Return a page. Every value is escaped, and so are characters that no eye can see, unless it is Markup.

    The page's policy allows its own style sheet, by its hash, and pictures inside the page; nothing else.
    """
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    footer = f"Written by Visloom {__version__}. This page needs no network and loads nothing."
    page = _environment().get_template(template)
    return page.render(style=Markup(style), style_hash=digest, footer=footer, **values)


def write(path: Path, page: str) -> Path:
    """Write a page atomically and return its path. Raises OSError."""
    write_text(path, page)
    return path


@cache
def _style() -> str:
    return files("visloom.report").joinpath("style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    folder = files("visloom.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            safe(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
    )
    environment.filters["bytes"] = size_text
    environment.filters["cut"] = lambda value, room: (
        value if hasattr(value, "__html__") else shorten(str(value), room)
    )
    return environment
