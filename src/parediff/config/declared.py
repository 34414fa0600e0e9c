"""What the package's classes declare of their constructors, read from their source: importing them would take seconds.

A request has to be refused at once, and what a class accepts stands in its annotations. Only names that annotations are
made of are looked up; a class stands for itself by its name.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from parediff import validation
from parediff.resources import PACKAGE

LIGHT = {"typing": typing, "collections.abc": collections.abc, "parediff.validation": validation}
"""Modules whose names are taken as they are."""


class Argument(NamedTuple):
    """One argument of a constructor."""

    hint: Any
    needed: bool


class Named(type):
    """The stand-in of a class that an annotation names: a value of it is described by a node of its own."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Mapping) and "_target_" in instance

    def __getitem__(cls, _: Any) -> Named:
        return cls

    def __getattr__(cls, name: str) -> Named:
        if name.startswith("_"):
            raise AttributeError(name)
        return Named(name, (), {})


@functools.cache
def arguments_of(target: str) -> dict[str, Argument]:
    """The arguments of a class of the package by name; those of its bases that it passes on are among them."""
    found: dict[str, Argument] = {}
    for module, node in _lineage(target):
        made = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        if made is not None:
            kept = found if made.args.kwarg is not None else {}
            found = {**kept, **_parameters(module, made)}
        else:
            found |= _fields(module, node)
    return found


@functools.cache
def fact(target: str, name: str) -> Any:
    """What a class, or the nearest of its bases, gives to a class variable; a class there is told by its name."""
    for _, node in reversed(list(_lineage(target))):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == name and item.value is not None:
                return item.value.id if isinstance(item.value, ast.Name) else ast.literal_eval(item.value)
    return None


def exists(target: str) -> bool:
    """Whether the package has a class of this path."""
    module, _, name = target.rpartition(".")
    return _file(module) is not None and isinstance(_found(module, name)[1], ast.ClassDef)


def descends(target: str, base: str) -> bool:
    """Whether a class is, or comes from, the class `base`."""
    return base.rpartition(".")[2] in {node.name for _, node in _lineage(target)}


def _lineage(target: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """The class and its bases of the package, the farthest first."""
    module, _, name = target.rpartition(".")
    home, node = _found(module, name)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"{target} is no class")
    for base in reversed(node.bases):
        named = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(named, ast.Name) and isinstance(_found(home, named.id)[1], ast.ClassDef):
            yield from _lineage(f"{home}.{named.id}")
    yield home, node


def _fields(module: str, node: ast.ClassDef) -> dict[str, Argument]:
    """Of a dataclass."""
    found = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if "ClassVar" not in ast.unparse(item.annotation) and not _is_left_out(item.value):
            found[item.target.id] = Argument(_evaluated(module, item.annotation), item.value is None)
    return found if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list) else {}


def _is_left_out(value: ast.expr | None) -> bool:
    """Whether a dataclass's field is no argument."""
    return isinstance(value, ast.Call) and any(
        word.arg == "init" and ast.literal_eval(word.value) is False for word in value.keywords
    )


def _parameters(module: str, made: ast.FunctionDef) -> dict[str, Argument]:
    """Of a constructor that is written out."""
    positional, named = made.args.args[1:], made.args.kwonlyargs
    defaults = [None] * (len(positional) - len(made.args.defaults)) + list(made.args.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(named, made.args.kw_defaults, strict=True)]
    return {
        item.arg: Argument(_evaluated(module, item.annotation) if item.annotation else Any, default is None)
        for item, default in pairs
    }


def _evaluated(module: str, annotation: ast.expr) -> Any:
    return eval(compile(ast.Expression(annotation), module, "eval"), {"__builtins__": {}}, _Names(module))


class _Names(dict[str, Any]):
    """The names of a module, as far as annotations need them."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        home, node = _found(self.module, name)
        if home in LIGHT:
            return getattr(LIGHT[home], name)
        if isinstance(node, ast.Assign):
            return _evaluated(home, node.value)
        if node is None and hasattr(builtins, name):
            return getattr(builtins, name)
        return typing.Any if _is_protocol(node) else Named(name, (), {})


def _is_protocol(node: Any) -> bool:
    return isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)


def _found(module: str, name: str) -> tuple[str, Any]:
    """The module that defines a name which `module` knows, and the definition; none outside the package."""
    if module in LIGHT:
        return module, None
    for node in _statements(module):
        if isinstance(node, ast.ImportFrom) and node.module:
            meant = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
            if meant is not None:
                return _found(node.module, meant)
        if name in _defines(node):
            return module, node
    return "", None


def _defines(node: ast.stmt) -> list[str]:
    """The names of classes and values that a statement of a module makes."""
    if isinstance(node, ast.ClassDef):
        return [node.name]
    return [ast.unparse(to) for to in node.targets] if isinstance(node, ast.Assign) else []


@functools.cache
def _statements(module: str) -> tuple[ast.stmt, ...]:
    """Of a module, those behind `if TYPE_CHECKING` too."""
    path = _file(module)
    if path is None:
        return ()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return tuple(inner for node in body for inner in ([node, *node.body] if isinstance(node, ast.If) else [node]))


def _file(module: str) -> Path | None:
    first, *parts = module.split(".")
    if first != PACKAGE.name or not all(part.isidentifier() for part in parts):
        return None
    place = PACKAGE.joinpath(*parts)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
