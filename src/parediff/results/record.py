"""One file per run: what was asked, what it cost and what it was worth."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
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
    "files",
    "find",
    "fingerprint",
    "plain",
    "read",
    "read_with_remarks",
    "run_id",
    "write",
]

SCHEMA = 1
NAME = "record.json"
HALF_CHARACTER = r"\ud"  # how JSON writes the halves of a surrogate pair
LONGEST_ID, DEEPEST, LARGEST_BYTES = 200, 64, 64_000_000
CALIBRATION_SHEET = "calibration.png"
"""Beside the record of a run whose calibration data was images."""
STATE = Path("model") / "denoiser.safetensors"
"""Where a run keeps its compressed model, below its folder."""
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
    left_out: dict[str, list[float]] = field(default_factory=dict)  # metric: without each seed block in turn
    families: dict[str, str] = field(default_factory=dict)  # method: quantisation, correction, feature reuse, …
    remarks: dict[str, list[str]] = field(default_factory=dict)  # metric: what to know, such as too few images
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
    return read_with_remarks(path)[0]


def read_with_remarks(path: Path) -> tuple[Record, list[str]]:
    """The record in a file, and a remark where NaN or infinity stands in it: JSON has neither, so it is none."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    unknown: list[str] = []
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise RecordError(path, f"more than {LARGEST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=unknown.append)
    except OSError as cause:
        raise RecordError(path, cause.strerror or str(cause)) from cause
    except (ValueError, RecursionError) as cause:
        raise RecordError(path, " ".join(str(cause).split())) from cause
    if HALF_CHARACTER in text.lower() and not _is_unicode(content):
        raise RecordError(path, "holds half a character")
    _check(path, content)
    known = {item.name for item in fields(Record)} - {"folder"}
    made = Record(**{key: content[key] for key in known if key in content}, folder=path.parent)
    return made, [f"{path}: {len(unknown)} × {unknown[0]}, read as no value"] if unknown else []


def find(paths: Iterable[str | Path]) -> Found:
    """All records below the paths, each once, in order of their paths; a missing path is a wrong request."""
    records: dict[str, Record] = {}
    warnings: list[str] = []
    for path in files(paths, warnings):
        try:
            record, remarks = read_with_remarks(Path(path))
        except RecordError as error:
            warnings.append(str(error))
            continue
        warnings += remarks
        if record.id in records:
            warnings.append(f"{path}: left out, the same run as {records[record.id].folder}")
        else:
            records[record.id] = record
    return Found(list(records.values()), warnings)


def files(paths: Iterable[str | Path], warnings: list[str]) -> Iterator[str]:
    """The path of every record.json below the paths, each once; a missing path is a wrong request."""
    seen: set[str] = set()
    for start in map(Path, paths):
        if not start.exists():
            raise RequestError("PATH", start, "an existing folder, or a record.json")
        for path, real in _below(start, warnings) if start.is_dir() else [(str(start), os.path.realpath(start))]:
            if real not in seen:
                seen.add(real)
                yield path


def _below(folder: Path, warnings: list[str]) -> list[tuple[str, str]]:
    """(path, real path) of every record below a folder, in order; a link is followed where it stays in the folder."""
    root = os.path.realpath(folder)
    found, open_folders, visited = [], [(str(folder), root)], {root}
    while open_folders:
        at, real = open_folders.pop()
        try:
            entries = list(os.scandir(at))
        except OSError as error:
            warnings.append(f"{at}: not searched: {error.strerror}")
            continue
        for entry in entries:
            leads_to = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
            if entry.is_symlink() and not _within(leads_to, root):
                warnings.extend([f"{entry.path}: not followed: a link out of {folder}"] * _matters(entry, leads_to))
            elif entry.name == NAME and _is(entry, leads_to, os.path.isfile):
                found.append((entry.path, leads_to))
            elif leads_to not in visited and _is(entry, leads_to, os.path.isdir):  # a link back up would never end
                visited.add(leads_to)
                open_folders.append((entry.path, leads_to))
    return sorted(found)


def _is(entry: os.DirEntry[str], leads_to: str, kind: Callable[[str], bool]) -> bool:
    """Whether an entry, or what a link leads to, is a file or a folder; asks the disk about links only."""
    if entry.is_symlink():
        return kind(leads_to)
    return entry.is_file() if kind is os.path.isfile else entry.is_dir()


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _matters(entry: os.DirEntry[str], leads_to: str) -> bool:
    """Whether records could have been behind a link."""
    return entry.name == NAME or os.path.isdir(leads_to)


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
    for key, reason in itertools.chain(_mistyped(content), _misshapen(content)):
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


def _misshapen(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is inside, as far as labels, points and axes rely on it; runs after `_mistyped` has passed."""
    if not content["id"] or len(content["id"]) > LONGEST_ID:
        yield "id", f"has {len(content['id'])} characters, 1 to {LONGEST_ID} are expected"
    if not all(isinstance(name, str) for name in content["methods"]):
        yield "methods", "holds something that is no name"
    for key, kind in (("name", str), ("steps", int), ("eta", int | float)):
        value = content["sampler"].get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            yield f"sampler.{key}", f"is {type(value).__name__}"
    for name, stated in content.get("units", {}).items():
        if not (isinstance(stated, list) and len(stated) == 2 and all(isinstance(part, str) for part in stated)):
            yield f"units.{name}", "is no pair of symbol and meaning"
    if _depth(content) > DEEPEST:
        yield "record", f"is nested more than {DEEPEST} deep"


def _depth(content: Any) -> int:
    """How deep mappings and lists lie in one another, without recursion."""
    deepest, level = 0, [content]
    while level and deepest <= DEEPEST:
        deepest += 1
        inside = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inside for item in items if isinstance(item, dict | list)]
    return deepest


def _is_unicode(content: Any) -> bool:
    """False where a text holds one half of a surrogate pair, which no file and no terminal can be given."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
