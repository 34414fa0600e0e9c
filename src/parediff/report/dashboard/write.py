"""The page on disk: a folder whose files load when they are looked at, or one file up to a stated size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from parediff.atomic import WriteError, write_atomically
from parediff.errors import RequestError
from parediff.report import page
from parediff.report.dashboard import collection as collecting
from parediff.report.dashboard import content, pictures
from parediff.report.dashboard.collection import Collection
from parediff.report.dashboard.content import View
from parediff.results.progress import studies

INDEX = "index.json"  # what was read, kept for the next time
MANIFEST = "manifest.js"
MOST_STUDIES = 4  # named in the title
LARGEST_FILE = 25_000_000  # bytes of a page that is one file
Axes = tuple[str, str] | None


class PageTooLargeError(RequestError):
    """The records are more than one file may hold."""


def write_page(paths: Sequence[str | Path], target: Path, axes: Axes = None) -> Path:
    """A page of its own over the records below the paths: data and pictures are inside, up to LARGEST_FILE."""
    gathered = Collection()
    gathered.update(paths)
    _require_any(gathered, paths)
    view = content.view(gathered, title=title_of(gathered), mode="file", axes=axes, running=())
    scripts, length = [content.manifest_script(view.manifest), *view.scripts.values()], 0
    for name, path, pictured in _runs(gathered, view.places):
        own = [content.detail(name, Path(path)), *([content.picture(name, Path(path).parent)] if pictured else [])]
        length += sum(map(len, own))
        scripts += own
        if length > LARGEST_FILE:
            told = f"more than {LARGEST_FILE:,} bytes as one file; as a folder the page takes any number of runs"
            raise PageTooLargeError("output", target, told)
    return write_atomically(target, page.single(title_of(gathered), scripts))


def write_folder(paths: Sequence[str | Path], folder: Path, axes: Axes = None) -> Path:
    """The page as a folder, index.html in it; where one lies there already, only what is new or has changed is made."""
    gathered = _kept(folder / "data" / INDEX)
    changed = gathered.update(paths)
    _require_any(gathered, paths)
    view = content.view(gathered, title=title_of(gathered), mode="folder", axes=axes, running=studies(paths))
    try:
        for name in ("data/runs", "pictures"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        _copy_runs(folder, gathered, view.places, changed)
        _put_scripts(folder / "data", view)
        page.put(folder, title_of(gathered))
    except OSError as cause:
        raise WriteError(folder, cause) from cause
    write_atomically(folder / "data" / INDEX, json.dumps(gathered.to_json(view.kept), separators=(",", ":")))
    return folder / "index.html"


def write_either(paths: Sequence[str | Path], target: Path, axes: Axes = None) -> Path:
    """One file where it holds all runs, else a folder of the same name without its ending."""
    try:
        return write_page(paths, target, axes)
    except PageTooLargeError:
        return write_folder(paths, target.with_suffix(""), axes)


def title_of(gathered: Collection) -> str:
    """The studies' names, as far as a title holds them."""
    names = sorted({str(name) for name in gathered.values("study")})
    return ", ".join(names[:MOST_STUDIES]) + (f" and {len(names) - MOST_STUDIES} more" * (len(names) > MOST_STUDIES))


def _require_any(gathered: Collection, paths: Sequence[str | Path]) -> None:
    """A page may be all warnings; of nothing at all there is none."""
    if not gathered.total and not gathered.warnings:
        raise RequestError("PATH", ", ".join(map(str, paths)), "a folder with records below it is accepted")


def _runs(gathered: Collection, places: Sequence[int]) -> Iterator[tuple[str, str, bool]]:
    """(name of its files, its record, whether it has a picture) of every run that is shown."""
    names, sizes = gathered.values("_file"), gathered.values("_picture")
    sources = [source for chunk in gathered.chunks for source in chunk.sources]
    for place in places:
        yield str(names[place]), sources[place].path, sizes[place] is not None


def _copy_runs(folder: Path, gathered: Collection, places: Sequence[int], changed: set[str]) -> None:
    """Details and pictures of the runs that are shown, and of no other; what is there and did not change stays."""
    details, sheets = folder / "data" / "runs", folder / "pictures"
    there = {path: set(os.listdir(path)) for path in (details, sheets)}
    wanted: dict[Path, set[str]] = {details: set(), sheets: set()}
    for name, path, pictured in _runs(gathered, places):
        wanted[details].add(f"{name}.js")
        if path in changed or f"{name}.js" not in there[details]:
            (details / f"{name}.js").write_text(content.detail(name, Path(path)), encoding="utf-8")
        if pictured:
            wanted[sheets].add(f"{name}.png")
        if pictured and (path in changed or f"{name}.png" not in there[sheets]):
            (sheets / f"{name}.png").write_bytes(pictures.content(Path(path).parent))
    for at, names in there.items():
        for name in names - wanted[at]:
            (at / name).unlink()


def _put_scripts(folder: Path, view: View) -> None:
    """New names first, the manifest that lists them then, what it no longer lists last."""
    for name, text in view.scripts.items():
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
    (folder / MANIFEST).write_text(content.manifest_script(view.manifest), encoding="utf-8")
    listed = {*view.scripts, *view.kept, *view.manifest["rows"]}
    for path in folder.glob("*-*.js"):
        if path.name not in listed:
            path.unlink()


def _kept(index: Path) -> Collection:
    """What was read the last time; nothing where there is none or it is not whole."""
    try:
        told = json.loads(index.read_text(encoding="utf-8"))
        return collecting.from_json(
            told, lambda name: content.rows_of((index.parent / name).read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Collection()
