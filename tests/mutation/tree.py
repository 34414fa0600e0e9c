"""A copy of the repository in which mutants live, so that nothing that is edited or imported meanwhile is touched."""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from types import TracebackType

ROOT = Path(__file__).parents[2]
SCRATCH = ROOT / ".mutants"
"""Everything that is kept between calls: the copy, what tests reach, what became of mutants. Not in git."""
FOLDERS = ("src", "conf", "experiments", "tests", "notebooks", "docs", "examples")
START = """import os, sys
from pathlib import Path
sys.path.append({tests!r})
from mutation.reach import ELSEWHERE, follow
follow(Path(os.environ[ELSEWHERE]), here=False)
"""


class Tree:
    """The copy, brought up to date on entering; one process at a time has it."""

    def __init__(self, scratch: Path = SCRATCH, root: Path = ROOT) -> None:
        self.scratch, self.root, self.path = scratch, root, scratch / "tree"
        scratch.mkdir(exist_ok=True)
        self.lock = (scratch / "lock").open("w")

    def __enter__(self) -> Tree:
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        for name in FOLDERS:
            _same(self.root / name, self.path / name)
        for file in self.root.iterdir():
            if file.is_file() and file.name != ".git":
                _write(self.path / file.name, file.read_bytes())
        compileall.compile_dir(self.path / "src", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        _write(self.scratch / "start" / "sitecustomize.py", START.format(tests=str(self.root / "tests")).encode())
        shared = self.root.parent / "shared"  # data beside the checkout, where there is any
        if shared.is_dir() and not (self.scratch / "shared").is_symlink():
            (self.scratch / "shared").symlink_to(shared)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock.close()

    @property
    def package(self) -> Path:
        return self.path / "src" / "parediff"

    def source(self, file: str) -> str:
        """A file of the package as it was in the checkout when this was entered."""
        return (self.package / file).read_text(encoding="utf-8")

    @contextlib.contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """Within it, a file of the package in the copy has another text."""
        path = self.package / file
        before = path.read_bytes()
        _write(path, text.encode())
        try:
            yield
        finally:
            _write(path, before)


def digest(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _same(source: Path, copy: Path) -> None:
    """Files that differ are written, files that are gone are removed."""
    wanted = {
        path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    for name in wanted:
        _write(copy / name, (source / name).read_bytes())
    for path in list(copy.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.relative_to(copy) not in wanted:
            path.unlink()
    for folder in [path for path in copy.rglob("*") if path.is_dir() and not any(path.iterdir())]:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """Where it differs, so that times of modification stay; and into a new file, so that no link is followed."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
