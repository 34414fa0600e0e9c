"""Digests of code: equal where two sources compute the same, whatever their comments and layout."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard


def source_digest(modules: Iterable[str]) -> str:
    """16 hex digits of SHA-256 over the syntax trees of modules and of all that they import from their own packages.

    Comments, docstrings and formatting do not count; any other change does, wherever below the modules it lies.
    """
    content = hashlib.sha256()
    for name, tree in sorted(_closure(modules).items()):
        content.update(f"{name}\n{tree}\n".encode())
    return content.hexdigest()[:16]


def _closure(modules: Iterable[str]) -> dict[str, str]:
    """Module -> its tree, of the modules and of everything below them in their packages."""
    waiting, found = list(modules), {}
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if name in found or path is None:
            continue
        found[name], imported = _parsed(path)
        own = name.partition(".")[0]
        waiting += [other for other in imported if other.partition(".")[0] == own]
    return found


@functools.lru_cache(maxsize=4096)
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """A file's tree without what does not compute, and the names it may import.

    Looked at once: a file that is edited while a process runs is not the code that the process has loaded.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = tuple(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [entry for entry in node.body if not _is_text(entry)]
    return ast.dump(tree), imported


def _imports(tree: ast.AST) -> Iterator[str]:
    """Names that may be imported; what is imported for the checker of types alone computes nothing."""
    typed = {
        id(inner) for node in ast.walk(tree) if _is_for_types(node) for own in node.body for inner in ast.walk(own)
    }
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether it is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_text(node: ast.stmt) -> bool:
    """A docstring, or text that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@functools.cache
def _path_of(module: str) -> Path | None:
    """The file of a module; None for what is none, such as a function's name, or has no source."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin and origin.endswith(".py") else None
