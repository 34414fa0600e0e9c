"""All runs below some paths as rows, read again only where a record is new or has changed."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from parediff.report.columns import CONFIG, Column, Scalar, columns, merged, row
from parediff.report.dashboard import chunks as packing
from parediff.report.dashboard import pictures
from parediff.report.dashboard.chunks import Chunk, Source
from parediff.results.number import number, numbers
from parediff.results.points import label, seedless, told_apart_by_model, with_seeds
from parediff.results.record import Record, RecordError, files, read_with_remarks

FORMAT = 2  # of what is kept between two readings
HIDDEN = "_"
"""Begins columns that carry the page and are never shown: _base is the label before it is told apart, _point what runs
share that differ in seeds only, _folder the one below the given path, _file the name of the run's files, _picture width
× height of its sheet of samples, _left_out.KEY how much a number moves without each seed block (float32, base64)."""


@dataclass
class Collection:
    """The rows of all runs, what could not be read, and what is known about every column."""

    chunks: list[Chunk] = field(default_factory=list)
    columns: dict[str, Column] = field(default_factory=dict)
    troubles: dict[str, tuple[int, int, str]] = field(default_factory=dict)  # path: (changed, size, what is wrong)
    remarks: dict[str, list[str]] = field(default_factory=dict)  # path of a run that is shown: what was odd in it
    search: list[str] = field(default_factory=list)  # what the last search could not look into

    @property
    def total(self) -> int:
        return sum(map(len, self.chunks))

    @property
    def warnings(self) -> list[str]:
        """One line for each file that is not shown or not whole, with its path."""
        odd = [line for lines in self.remarks.values() for line in lines]
        return [*self.search, *(told for *_, told in self.troubles.values()), *odd]

    def update(self, paths: Sequence[str | Path]) -> set[str]:
        """Follow what is on disk now; the paths of the records that were new or have changed."""
        self.search = []
        there = {path: stamp(path) for path in files(paths, self.search)}
        known = {source.path: source for chunk in self.chunks for source in chunk.sources}
        gone = {path for path, source in known.items() if there.get(path) != source}
        if gone:
            self.chunks = packing.without(self.chunks, gone)
            self.troubles = {}  # what was the same run as one that is gone may be shown now
        self.troubles = {path: own for path, own in self.troubles.items() if own[:2] == _when(there.get(path))}
        self.remarks = {path: lines for path, lines in self.remarks.items() if path in known and path not in gone}
        fresh = [
            source
            for path, source in there.items()
            if source and path not in self.troubles and (path not in known or path in gone)
        ]
        return self._add(fresh, [Path(path) for path in paths])

    def _add(self, sources: Iterable[Source], roots: Sequence[Path]) -> set[str]:
        ids = {value: "" for chunk in self.chunks for value in chunk.values("id")}
        added: list[Source] = []
        rows: list[packing.Row] = []
        for source in sources:
            try:
                record, remarks = read_with_remarks(Path(source.path))
                if record.id in ids:
                    raise RecordError(Path(source.path), f"left out, the same run as {ids[record.id] or record.id}")
                own = row(record) | _carried(record, roots, remarks)
            except RecordError as error:
                self.troubles[source.path] = (source.changed_ns, source.size, str(error))
                continue
            ids[record.id] = str(record.folder)
            if any(key not in self.columns and not key.startswith(HIDDEN) for key in own):
                self.columns = merged(self.columns, columns(record))
            self.remarks |= {source.path: remarks} if remarks else {}
            added.append(source)
            rows.append(own)
        self.chunks = packing.extended(self.chunks, added, rows)
        return {source.path for source in added}

    def values(self, key: str) -> list[Scalar]:
        """A column over all runs."""
        return [value for chunk in self.chunks for value in chunk.values(key)]

    def labels(self) -> list[str]:
        """What every run is called, equal names told apart by their settings, then by their seeds."""
        keys = dict.fromkeys(key for chunk in self.chunks for key in chunk.columns)
        settings = [key for key in keys if key.startswith(f"{CONFIG}.") and not key.endswith(SEEDS)]
        varied = {key: self.values(key) for key in settings if self._varies(key)}
        models = [str(model) for model in self.values("model")]
        names = told_apart_by_model([str(name) for name in self.values("_base")], varied, models)
        return with_seeds(names, *([_whole(seed) for seed in self.values(key)] for key in ("first_seed", "seed")))

    def _varies(self, key: str) -> bool:
        """Whether not all runs share one value."""
        found: set[Any] = set()
        for chunk in self.chunks:
            distinct, places = chunk.columns.get(key, ([], [-1]))
            found.update(distinct, [None] * (-1 in places))
            if len(found) > 1:
                return True
        return False

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """All of it, to go on from later; the rows lie in the page's scripts of these names, one for each chunk."""
        sources = [[[own.path, own.changed_ns, own.size] for own in chunk.sources] for chunk in self.chunks]
        return {
            "format": FORMAT,
            "chunks": list(zip(names, sources, strict=True)),
            "columns": [column.to_json() for column in self.columns.values()],
            "troubles": self.troubles,
            "remarks": self.remarks,
        }


def from_json(content: Mapping[str, Any], rows_of: Callable[[str], Mapping[str, Any]]) -> Collection:
    """What `to_json` told, with the rows of a script by its name; empty where another version told it."""
    if content.get("format") != FORMAT:
        return Collection()
    held = [
        Chunk(tuple(Source(*own) for own in sources), rows_of(name)["columns"], name)
        for name, sources in content["chunks"]
    ]
    return Collection(
        held,
        {own["key"]: Column(**own) for own in content["columns"]},
        {path: (changed, size, told) for path, (changed, size, told) in content["troubles"].items()},
        dict(content["remarks"]),
    )


SEEDS = (".seed", ".first_seed")


def stamp(path: str) -> Source | None:
    """The file as it is now; None where it has just gone."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return Source(path, state.st_mtime_ns, state.st_size)


def file_name(run_id: str) -> str:
    """The id where it can be the name of a file anywhere, else a hash of it."""
    safe = run_id.isascii() and run_id.replace("-", "").replace("_", "").isalnum() and len(run_id) <= 64
    return run_id if safe else "run-" + sha256(run_id.encode()).hexdigest()[:16]


def _carried(record: Record, roots: Sequence[Path], remarks: list[str]) -> dict[str, Scalar]:
    """The hidden columns; a sheet of samples that cannot be shown becomes a remark."""
    folder = record.folder or Path()
    below = next((folder.relative_to(root) for root in roots if folder.is_relative_to(root)), folder)
    own: dict[str, Scalar] = {
        "_base": label(record),
        "_point": seedless(record),
        "_folder": str(below),
        "_file": file_name(record.id),
        **{f"_left_out.{name}": text for name, text in _left_out(record)},
    }
    try:
        size = pictures.size(folder)
    except pictures.PictureError as error:
        remarks.append(str(error))
        return own
    return own | ({"_picture": f"{size[0]}×{size[1]}"} if size else {})


def _left_out(record: Record) -> Iterator[tuple[str, str]]:
    """What the errors of differences are made of."""
    for name, value in {**record.quality, **record.fidelity}.items():
        own, without = number(value), numbers(record.left_out.get(name))
        if own is not None and len(without) > 1:
            moved = np.array(without) - own
            yield name, base64.b64encode(moved.astype("<f4").tobytes()).decode()


def _when(source: Source | None) -> tuple[int, int]:
    return (source.changed_ns, source.size) if source else (-1, -1)


def _whole(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) and value.is_integer() else "?" if value is None else value
