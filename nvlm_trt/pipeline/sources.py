"""Digests of our own source: of a module and of everything it imports, so that no list of modules can go stale.

What cannot change an artefact's bytes is left out: how errors are worded, where data lies, and the pipeline itself,
which affects the outcome only through the recipe's values, and those are in the key.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["source_digest", "sources_of"]

_PACKAGE = Path(__file__).parents[1]
_NAME = _PACKAGE.name
_WITHOUT_EFFECT = ("errors", "pipeline", "plan", "resources", "cli", "__init__")


@functools.cache
def source_digest(name: str) -> str:
    """Of the package or module ``nvlm_trt.NAME``: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sources_of(name):
        digest.update(f"{file.relative_to(_PACKAGE).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources_of(name: str) -> list[Path]:
    """Files of the package or module, and of all that they import of ours, also inside functions; sorted."""
    base = _PACKAGE.joinpath(*name.split("."))
    waiting = list(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting.extend(_imported(file))
    return sorted(found)


@functools.cache
def _imported(file: Path) -> tuple[Path, ...]:
    tree = ast.parse(file.read_bytes())
    return tuple(place for module in _modules(tree) for place in _places(module))


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _places(module: str) -> Iterator[Path]:
    """The file of a module of ours; none for other packages, names that are not modules, and what is left out."""
    first, _, rest = module.partition(".")
    if first != _NAME or not rest or rest.split(".")[0] in _WITHOUT_EFFECT:
        return
    base = _PACKAGE.joinpath(*rest.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            yield file
