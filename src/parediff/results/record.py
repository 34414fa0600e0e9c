"""One file per run: what was asked, what it cost and what it was worth."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from parediff.atomic import WriteError, write_atomically
from parediff.errors import RequestError
from parediff.provenance import code, environment, fingerprint, plain, run_id

__all__ = [
    "Found",
    "Record",
    "RecordError",
    "WriteError",
    "code",
    "environment",
    "find",
    "fingerprint",
    "plain",
    "read",
    "run_id",
    "write",
]

SCHEMA = 1
NAME = "record.json"
CALIBRATION_SHEET = "calibration.png"
"""Beside the record of a run whose calibration data was images."""
REQUIRED = ("schema", "id", "study", "status", "protocol", "model", "methods", "sampler")


class RecordError(RuntimeError):
    """A file that is not a record: one line, naming the file and what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: not a readable record: {reason}")


@dataclass(frozen=True)
class Record:
    """Everything known about one run, in the order in which it is written."""

    id: str
    study: str
    status: str  # finished | failed
    error: str | None = None
    protocol: str = ""  # fingerprint of protocol_details: only equal ones can be compared
    model: str = ""
    methods: list[str] = field(default_factory=list)
    sampler: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, float | None] = field(default_factory=dict)
    fidelity: dict[str, float | None] = field(default_factory=dict)
    stderr: dict[str, float | None] = field(default_factory=dict)  # flat, over both quality and fidelity
    cost: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    fired: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(
        default_factory=dict
    )  # source, protocol (calibrate | finetune), samples, seconds
    config: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)  # metric or cost: lower | higher
    units: dict[str, list[str]] = field(default_factory=dict)  # metric or cost: [symbol, meaning]
    protocol_details: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)  # where it was read from; never written

    def to_json(self) -> dict[str, Any]:
        """The content of record.json, ready for a strict JSON writer."""
        own = {item.name: plain(getattr(self, item.name)) for item in fields(self) if item.name != "folder"}
        return {"schema": SCHEMA, **own}


class Found(NamedTuple):
    """What lies below some paths: the records, and one line for each file that could not be read."""

    records: list[Record]
    warnings: list[str]


def write(record: Record, folder: Path) -> Path:
    """The path of record.json, now whole on disk; raises WriteError and leaves what was there otherwise."""
    text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomically(Path(folder) / NAME, text + "\n")


def read(path: Path) -> Record:
    """The record in a file, or in a run's folder."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise RecordError(path, cause.strerror or str(cause)) from cause
    except (ValueError, RecursionError) as cause:
        raise RecordError(path, " ".join(str(cause).split())) from cause
    _check(path, content)
    known = {item.name for item in fields(Record)} - {"folder"}
    return replace(Record(**{key: content[key] for key in known if key in content}), folder=path.parent)


def find(paths: Iterable[str | Path]) -> Found:
    """All records below the paths, each once, in order of their paths; a missing path is a wrong request."""
    records: dict[str, Record] = {}
    warnings: list[str] = []
    for path in _files(paths, warnings):
        try:
            record = read(path)
        except RecordError as error:
            warnings.append(str(error))
            continue
        if record.id in records:
            warnings.append(f"{path}: left out, the same run as {records[record.id].folder}")
        else:
            records[record.id] = record
    return Found(list(records.values()), warnings)


def _files(paths: Iterable[str | Path], warnings: list[str]) -> Iterator[Path]:
    seen: set[Path] = set()
    for start in map(Path, paths):
        if not start.exists():
            raise RequestError("PATH", start, "an existing folder, or a record.json")
        for path in _below(start, warnings) if start.is_dir() else [start]:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _below(folder: Path, warnings: list[str]) -> Sequence[Path]:
    unreadable: list[OSError] = []
    found, visited = [], set()
    for at, folders, names in os.walk(folder, onerror=unreadable.append, followlinks=True):
        real = os.path.realpath(at)
        if real in visited:  # a link back up would never end
            folders.clear()
            continue
        visited.add(real)
        found += [Path(at) / NAME] if NAME in names else []
    warnings.extend(f"{error.filename}: not searched: {error.strerror}" for error in unreadable)
    return sorted(found)


def _check(path: Path, content: Any) -> None:
    """Raise unless the content has the schema's keys with the schema's types."""
    if not isinstance(content, Mapping):
        raise RecordError(path, f"an object is expected, not {type(content).__name__}")
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise RecordError(path, f"no {missing[0]!r}")
    if content["schema"] != SCHEMA:
        raise RecordError(path, f"schema {content['schema']!r}, this version reads {SCHEMA}")
    if content["status"] not in ("finished", "failed"):
        raise RecordError(path, f"status {content['status']!r}, finished or failed is expected")
    for key, reason in _mistyped(content):
        raise RecordError(path, f"{key!r} {reason}")


def _mistyped(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for item in fields(Record):
        value = content.get(item.name)
        if item.name not in content or (item.name == "error" and value is None):
            continue
        kind = {"str": str, "str | None": str, "list[str]": list}.get(str(item.type), dict)
        if item.name != "folder" and not isinstance(value, kind):
            yield item.name, f"is {type(value).__name__}, {kind.__name__} is expected"
    for section in ("quality", "fidelity", "stderr"):
        for key, value in content.get(section, {}).items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                yield f"{section}.{key}", "is not a number"
