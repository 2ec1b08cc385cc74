"""What no code of Visloom does: calls by which a stranger's file could run code or write outside its folder.

Read from the source, so that a new reader is met by it the day it is written.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "visloom"
FORBIDDEN = {
    "eval": "runs text",
    "exec": "runs text",
    "compile": "makes code of text",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "pickle.load": "unpickling runs code",
    "pickle.loads": "unpickling runs code",
    "yaml.load": "may make objects of tags",
    "yaml.unsafe_load": "makes objects of tags",
    "yaml.full_load": "makes objects of tags",
    "dcp.load": "its metadata are a pickle",
    "torch.hub.load": "runs a stranger's code",
    "shutil.unpack_archive": "may write outside its folder",
    "tarfile.open": "may write outside its folder",
    "zipfile.ZipFile": "may write outside its folder",
    "torchvision.io.decode_image": "has no limit of size",
    "marshal.loads": "makes code",
    "importlib.util.spec_from_file_location": "runs a file that is not on the path",
}
NEEDED = {  # call -> keyword and value without which it is not safe
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name with attributes, or ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def complaints(source: str) -> list[str]:
    """What is wrong with the calls of a source text, by line."""
    found, names = [], {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, dot, rest = dotted(node.func).partition(".")
        name = names.get(head, head) + dot + rest
        if name in FORBIDDEN:
            found.append(f"{node.lineno}: {name} {FORBIDDEN[name]}")
        if name in NEEDED:
            keyword, value = NEEDED[name]
            given = {k.arg: k.value for k in node.keywords}
            if not (isinstance(at := given.get(keyword), ast.Constant) and at.value is value):
                found.append(f"{node.lineno}: {name} without {keyword}={value}")
        shell = next((k.value for k in node.keywords if k.arg == "shell"), None)
        if isinstance(shell, ast.Constant) and shell.value:
            found.append(f"{node.lineno}: {name} through a shell")
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("extractall", "extract"):
            found.append(f"{node.lineno}: {name} may write outside its folder")
    return found


def test_no_file_of_the_package_does():
    found = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for line in complaints(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import os\nos.system('ls')",
        "from os import system as go\ngo('ls')",
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path)",
        "from numpy import load\nload(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import tarfile\ntarfile.open(path).extractall('.')",
        "archive.extractall(place)",
        "import subprocess\nsubprocess.run(text, shell=True)",
    ],
)
def test_each_of_them_would_be_found(source):
    assert complaints(source)


def test_what_is_safe_passes():
    assert not complaints(
        "import torch, numpy as np\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)"
    )
