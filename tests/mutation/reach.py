"""Marks in every stretch of the package, which say that it was reached.

They are put into the syntax trees as the package is imported, so nothing on disk changes and no tracer slows torch;
processes that a test starts leave what they reached in a file, under the test that pytest names in their environment.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from mutation.stretches import MODULE, is_text, stretches

MARK = "__reached__"
PACKAGE = "parediff"
ELSEWHERE = "MUTATION_REACHED"
"""The environment variable that names the file in which other processes write."""


def marked(source: str, file: str) -> ast.Module:
    """A module's tree that calls `__reached__("file::stretch")` at the head of every stretch."""
    tree = ast.parse(source)
    for stretch in reversed(stretches(tree)):
        place = stretch.start + (stretch.start == 0 and is_text(stretch.block[0]))
        call = ast.parse(f"{MARK}({f'{file}::{stretch.name}'!r})").body[0]
        at = stretch.block[min(place, stretch.stop - 1)]
        for node in ast.walk(call):
            ast.copy_location(node, at)
        stretch.block.insert(place, call)
    return tree


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = Path(self.path)
        return compile(marked(path.read_text(encoding="utf-8"), _name(path)), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        getattr(builtins, MARK)(f"{_name(Path(self.path))}::{MODULE}")
        super().exec_module(module)


def _name(path: Path) -> str:
    return path.as_posix().rpartition(f"/{PACKAGE}/")[2]


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE or "testing" in fullname:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class Marks:
    """What was reached since the last change of context; of other processes, what they left in the file."""

    def __init__(self, elsewhere: Path) -> None:
        self.current: set[str] = set()
        self.elsewhere, self.process = elsewhere, os.getpid()
        self.left: set[tuple[str, str]] = set()

    def __call__(self, name: str) -> None:
        if os.getpid() == self.process:
            self.current.add(name)
            return
        found = (os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0], name)
        if found not in self.left:
            self.left.add(found)
            with self.elsewhere.open("a") as file:
                file.write(json.dumps(found) + "\n")

    def of_others(self) -> Iterator[tuple[str, str]]:
        """(test, stretch) of other processes."""
        if self.elsewhere.exists():
            for line in self.elsewhere.read_text().splitlines():
                yield tuple(json.loads(line))


def follow(elsewhere: Path, *, here: bool) -> Marks:
    """Mark the package in this process, before it is imported; `here` is False in a process that a test started."""
    marks = Marks(elsewhere)
    if not here:
        marks.process = 0
    setattr(builtins, MARK, marks)
    sys.meta_path.insert(0, _Finder())
    return marks
