"""Functions cut into stretches of statements that run together: the unit in which tests and mutants meet."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import NamedTuple

MODULE = ""
"""The stretch of everything outside functions: it runs at the import."""
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)


class Stretch(NamedTuple):
    """`block[start:stop]`, up to and with the next statement that branches; `Class.function#0` names the first one."""

    name: str
    block: list[ast.stmt]
    start: int
    stop: int


def stretches(tree: ast.Module) -> list[Stretch]:
    """Every stretch of a module's functions; a name stays when another function of the file changes."""
    return list(_scope(tree.body, ()))


def _scope(body: list[ast.stmt], path: tuple[str, ...]) -> Iterator[Stretch]:
    """The stretches of the functions and classes that stand in a body, at any depth of ifs."""
    for entry in body:
        if isinstance(entry, FUNCTION):
            inner = (*path, entry.name)
            yield from _block(entry.body, ".".join(inner), itertools.count())
            yield from _scope(entry.body, inner)
        elif isinstance(entry, ast.ClassDef):
            yield from _scope(entry.body, (*path, entry.name))
        else:
            for block in blocks(entry):
                yield from _scope(block, path)


def _block(body: list[ast.stmt], name: str, numbers: Iterator[int]) -> Iterator[Stretch]:
    start = 0
    for place, entry in enumerate(body):
        if isinstance(entry, COMPOUND):
            yield Stretch(f"{name}#{next(numbers)}", body, start, place + 1)
            start = place + 1
            for block in blocks(entry):
                yield from _block(block, name, numbers)
    if start < len(body):
        yield Stretch(f"{name}#{next(numbers)}", body, start, len(body))


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The statement lists inside a compound statement."""
    if not isinstance(statement, COMPOUND):
        return []
    parts = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody")]
    parts += [handler.body for handler in getattr(statement, "handlers", [])]
    parts += [case.body for case in getattr(statement, "cases", [])]
    return [part for part in parts if part]


def is_text(statement: ast.stmt) -> bool:
    """A docstring, or text that stands alone."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and (isinstance(statement.value.value, str))
    )
