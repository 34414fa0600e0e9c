"""What the page is told, as scripts: a page opened from disk may load scripts, and nothing else."""

from __future__ import annotations

import base64
import json
import os
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
from parediff.report.dashboard.chunks import Chunk
from parediff.report.dashboard.collection import Collection
from parediff.report.dashboard.published import published_points
from parediff.report.dashboard.thinning import Selection, selection
from parediff.report.palette import styles
from parediff.results.progress import Study
from parediff.results.record import CALIBRATION_SHEET

ROWS = "rows"
MOST_WARNINGS = 200
LARGEST_TRACE = 20_000  # characters of error.txt


@dataclass(frozen=True)
class View:
    """The collection as one page shows it: named scripts with its rows, and the manifest that lists them."""

    manifest: dict[str, Any]
    scripts: Mapping[str, str]  # file name: script; what a chunk's own file holds already is left out
    places: list[int]  # of the runs that are shown
    kept: list[str]  # names of the scripts that hold all runs, one for each chunk: the page's own where it shows all


def view(
    collection: Collection, *, title: str, mode: str, axes: tuple[str, str] | None, running: Sequence[Study]
) -> View:
    """Everything but details and pictures; equal content has equal names."""
    shown = selection(collection)
    scripts: dict[str, str] = {}
    kept = [_rows(chunk, scripts) for chunk in collection.chunks]
    rows = [_rows(chunk, scripts) for chunk in _chosen(collection, shown)] if shown.statement else kept
    labels = collection.labels()
    text = _call("labels", [labels[place] for place in shown.places])
    scripts[_named("labels", text)] = text
    manifest = {
        "title": title,
        "mode": mode,
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "total": collection.total,
        "thinned": shown.statement,
        "rows": rows,
        "labels": _named("labels", text),
        "columns": [column.to_json() for column in collection.columns.values()],
        "styles": styles(_combinations(collection)),
        "warnings": _warnings(collection),
        "axes": axes,
        "published": published_points(),
        "studies": [_study(study) for study in running],
    }
    return View(manifest, scripts, shown.places, kept)


def detail(name: str, record_file: Path) -> str:
    """The whole record, the traceback beside a failure and what calibrated, as a script that hands it over as text."""
    text = record_file.read_text(encoding="utf-8")
    if "NaN" in text or "Infinity" in text:  # neither is JSON
        text = json.dumps(plain(json.loads(text)), allow_nan=False)
    return _call("detail", name, text, _trace(record_file.parent / "error.txt"), _calibration(record_file.parent))


def picture(name: str, folder: Path) -> str:
    """A sheet of samples inside a script."""
    return _call("picture", name, _inside(pictures.content(folder)))


def _calibration(folder: Path) -> dict[str, str] | None:
    """The sheet of images that calibrated, or why it is not shown; None where there is none."""
    if not os.path.lexists(folder / CALIBRATION_SHEET):
        return None
    try:
        return {"source": _inside(pictures.content(folder, CALIBRATION_SHEET))}
    except pictures.PictureError as error:
        return {"problem": str(error)}


def _inside(png: bytes) -> str:
    """An address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def manifest_script(manifest: Mapping[str, Any]) -> str:
    return _call("manifest", manifest)


def _call(function: str, *arguments: Any) -> str:
    """`parediff.function(...)`; no text inside can end a script element."""
    told = ",".join(json.dumps(own, allow_nan=False, separators=(",", ":")) for own in arguments)
    return f"parediff.{function}({told.replace('<', chr(92) + 'u003c')});\n"


def _named(kind: str, text: str) -> str:
    return f"{kind}-{sha256(text.encode()).hexdigest()[:12]}.js"


def _rows(chunk: Chunk, scripts: dict[str, str]) -> str:
    """The name of the script that holds a chunk; the script itself is added where no file has it yet."""
    if chunk.file:
        return chunk.file
    text = _call(ROWS, {"count": len(chunk), "columns": chunk.columns})
    name = _named(ROWS, text)
    scripts[name] = text
    return name


def rows_of(script: str) -> Any:
    """What a script of rows was told."""
    return json.loads(script.removeprefix(f"parediff.{ROWS}(").rstrip().removesuffix(");"))


def _chosen(collection: Collection, shown: Selection) -> list[Chunk]:
    rows = [row for chunk in collection.chunks for row in chunk.rows()]
    sources = [source for chunk in collection.chunks for source in chunk.sources]
    return packing.packed([sources[place] for place in shown.places], [rows[place] for place in shown.places])


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
