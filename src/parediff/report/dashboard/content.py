"""What the page is told, as scripts: a page opened from disk may load scripts, and nothing else."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from parediff import __version__
from parediff.provenance import plain
from parediff.report.dashboard import chunks as packing
from parediff.report.dashboard import pictures
from parediff.report.dashboard.collection import Collection
from parediff.report.dashboard.published import published_points
from parediff.report.dashboard.thinning import Selection, selection
from parediff.report.palette import styles
from parediff.results.progress import Study

MOST_WARNINGS = 200
LARGEST_TRACE = 20_000  # characters of error.txt


@dataclass(frozen=True)
class View:
    """The collection as one page shows it: named scripts with its rows, and the manifest that lists them."""

    manifest: dict[str, Any]
    scripts: Mapping[str, str]  # file name: script
    places: list[int]  # of the runs that are shown


def view(
    collection: Collection, *, title: str, mode: str, axes: tuple[str, str] | None, running: Sequence[Study]
) -> View:
    """Everything but details and pictures; equal content has equal names."""
    shown = selection(collection)
    packs = _packs(collection, shown)
    rows = {_named("rows", text): text for text in (_call("rows", chunk) for chunk in packs)}
    labels = collection.labels()
    text = _call("labels", [labels[place] for place in shown.places])
    scripts = {**rows, _named("labels", text): text}
    manifest = {
        "title": title,
        "mode": mode,
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "total": collection.total,
        "thinned": shown.statement,
        "rows": list(rows),
        "labels": _named("labels", text),
        "columns": [column.to_json() for column in collection.columns.values()],
        "styles": styles(_combinations(collection)),
        "warnings": _warnings(collection),
        "axes": axes,
        "published": published_points(),
        "studies": [_study(study) for study in running],
    }
    return View(manifest, scripts, shown.places)


def detail(name: str, record_file: Path) -> str:
    """The whole record, and the traceback beside a failure, as a script that hands it over as text."""
    text = record_file.read_text(encoding="utf-8")
    content = json.loads(text)
    trace = _trace(record_file.parent / "error.txt")
    return _call("detail", name, json.dumps(plain(content), allow_nan=False), trace)


def picture(name: str, folder: Path) -> str:
    """A sheet of samples inside a script."""
    return _call("picture", name, "data:image/png;base64," + base64.b64encode(pictures.content(folder)).decode())


def manifest_script(manifest: Mapping[str, Any]) -> str:
    return _call("manifest", manifest)


def _call(function: str, *arguments: Any) -> str:
    """`parediff.function(...)`; no text inside can end a script element."""
    told = ",".join(json.dumps(own, allow_nan=False, separators=(",", ":")) for own in arguments)
    return f"parediff.{function}({told.replace('<', chr(92) + 'u003c')});\n"


def _named(kind: str, text: str) -> str:
    return f"{kind}-{sha256(text.encode()).hexdigest()[:12]}.js"


def _packs(collection: Collection, shown: Selection) -> list[dict[str, Any]]:
    """The chunks as they are where all is shown, so that what did not change keeps its name; else chosen rows."""
    held = collection.chunks
    if shown.statement:
        rows = [row for chunk in held for row in chunk.rows()]
        sources = [source for chunk in held for source in chunk.sources]
        held = packing.packed([sources[p] for p in shown.places], [rows[p] for p in shown.places])
    return [{"count": len(chunk), "columns": chunk.columns} for chunk in held]


def _combinations(collection: Collection) -> list[list[str]]:
    return [str(name).split(" + ") for name in {*collection.values("methods")} if name]


def _warnings(collection: Collection) -> list[str]:
    found = collection.warnings
    more = len(found) - MOST_WARNINGS
    return found[:MOST_WARNINGS] + ([f"and {more:,} more"] if more > 0 else [])


def _study(study: Study) -> dict[str, Any]:
    """Counts, rate and the runs that are on their way."""
    own = {key: getattr(study, key) for key in ("total", "finished", "failed", "waiting", "rate_s", "left_s")}
    return own | {"name": study.folder.name, "running": [asdict(run) for run in study.running if not run.is_stale]}


def _trace(path: Path) -> str | None:
    """error.txt where it is a file of its own."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(LARGEST_TRACE)
