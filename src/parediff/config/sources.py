"""Where configs lie: what ships, packages that others install, and folders that a request names."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from parediff.errors import RequestError
from parediff.resources import shipped

ENTRY_POINTS = "parediff.plugins"
"""The group under which a package names itself: `my-methods = "my_methods"`, whose configs lie in my_methods/conf."""
OWN = "parediff"


@dataclass(frozen=True)
class Source:
    """A folder of config groups, and who provides it."""

    provider: str
    conf: Path

    def files(self, group: str) -> dict[str, Path]:
        """Every option of one group by name; of experiments those in sub-folders too, as a/b."""
        folder = self.conf / group
        found = sorted(folder.rglob("*.yaml") if group == "experiment" else folder.glob("*.yaml"))
        return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}

    @property
    def groups(self) -> tuple[str, ...]:
        """Hydra's own are no kinds of ours."""
        return tuple(sorted(path.name for path in self.conf.iterdir() if path.is_dir() and path.name != "hydra"))


_NAMED: ContextVar[tuple[Source, ...]] = ContextVar("named", default=())


def sources() -> tuple[Source, ...]:
    """All of them, what ships first. Raises RequestError where two have the same name for something."""
    return (Source(OWN, shipped("conf")), *installed(tuple(sys.path)), *_NAMED.get())


@functools.lru_cache(maxsize=8)
def installed(_: tuple[str, ...]) -> tuple[Source, ...]:
    """The configs of every installed package with an entry point; none of them is imported."""
    entries = importlib.metadata.entry_points(group=ENTRY_POINTS)
    found = {entry.value: Source(entry.name, _package(entry.name, entry.value)) for entry in entries}
    _check_names((Source(OWN, shipped("conf")),), tuple(found.values()))
    return tuple(found.values())


@contextmanager
def searching(paths: Iterable[str]) -> Iterator[None]:
    """Within the block, these folders count too: file://FOLDER, pkg://package/folder or a plain path.

    The classes that their YAMLs name are also looked for beside such a folder or its package, after what is installed.
    """
    already = {source.conf for source in sources()}
    added = tuple(source for source in map(_named, dict.fromkeys(paths)) if source.conf not in already)
    _check_names(sources(), added)
    beside = [path for path in map(_beside, added) if path not in sys.path]
    token = _NAMED.set((*_NAMED.get(), *added))
    sys.path.extend(beside)
    try:
        yield
    finally:
        _NAMED.reset(token)
        for path in beside:
            sys.path.remove(path)


def _beside(source: Source) -> str:
    """Where the classes of a folder are imported from: beside it, or beside the package that it lies in."""
    folder = source.conf.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return str(folder)


def named() -> list[str]:
    """What `searching` would be given to be here again, in another process."""
    return [str(source.conf) for source in _NAMED.get()]


def _named(path: str) -> Source:
    """One folder of a request."""
    if path.startswith("pkg://"):
        package, _, inside = path.removeprefix("pkg://").partition("/")
        return Source(path, _package_folder("hydra.searchpath", path, package) / inside)
    folder = Path(path.removeprefix("file://")).expanduser().absolute()
    if not folder.is_dir():
        raise RequestError(
            "config-dir", path, "an existing folder of config groups, or pkg://package/folder, is accepted"
        )
    return Source(str(folder), folder)


def _package(name: str, package: str) -> Path:
    """Where an installed package keeps its configs."""
    folder = _package_folder(ENTRY_POINTS, f"{name} = {package}", package) / "conf"
    if not folder.is_dir():
        raise RequestError(ENTRY_POINTS, f"{name} = {package}", f"a package with a folder conf; {folder} is none")
    return folder


def _package_folder(key: str, value: str, package: str) -> Path:
    """A package's folder; a top-level one is found without being imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise RequestError(key, value, f"a package that can be imported ({error})") from error
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(key, value, f"a package that can be imported; {package} is none")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _check_names(known: tuple[Source, ...], added: tuple[Source, ...]) -> None:
    """Two options of one name would hide each other."""
    for index, source in enumerate(added):
        for other in (*known, *added[:index]):
            for group in source.groups:
                twice = sorted(source.files(group).keys() & other.files(group).keys())
                if twice:
                    accepted = f"a name of its own is accepted; {other.provider} has a {group} of this name too"
                    raise RequestError(source.provider, f"{group}/{twice[0]}", accepted)
