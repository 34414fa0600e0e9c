"""The one table of columns: what a run shows under each key, wherever it is drawn (terminal, page, chart, CSV).

A column of a run's identity is a line of IDENTITY. Every number under quality, fidelity, cost and seconds, every ratio
and difference to the baseline and every setting of the config is a column by itself, with its unit and direction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from parediff.provenance import IRRELEVANT, without
from parediff.results.axes import DIFFERENCE, RATIO, Axis, asked_axis, direction, ratios, unit_of
from parediff.results.difference import from_baseline
from parediff.results.number import number
from parediff.results.points import bits, flat
from parediff.results.record import Record

Scalar = str | float | int | bool | None
NUMBERS = ("quality", "fidelity", "cost", "seconds")
MEASURED = (*NUMBERS, RATIO, DIFFERENCE)
CONFIG = "config"
STDERR = "stderr"
EXACT = 2**53  # whole numbers that every reader of JSON keeps
LONGEST = 400  # characters of a text in a cell; the whole text is among the run's details


@dataclass(frozen=True)
class Column:
    """One key of a record as it is shown: its head, what it means, and how to read its values."""

    key: str
    title: str
    meaning: str
    section: str
    kind: Literal["number", "text"]
    better: Literal["lower", "higher"] | None = None
    symbol: str = ""
    error: str | None = None  # the column of its standard error
    shown: bool = False  # in the table before anything was chosen

    def to_json(self) -> dict[str, Any]:
        """What the page is told about it."""
        return asdict(self)


@dataclass(frozen=True)
class Identity:
    """A column that every record has."""

    column: Column
    value: Callable[[Record], Any]


def _identity(key: str, title: str, meaning: str, value: Callable[[Record], Any], **more: Any) -> Identity:
    return Identity(Column(key, title, meaning, "run", **({"kind": "text"} | more)), value)


IDENTITY = (
    _identity("id", "id", "the run's folder: a hash of what was asked", lambda r: r.id),
    _identity("study", "study", "the study it belongs to", lambda r: r.study, shown=True),
    _identity("status", "status", "finished or failed", lambda r: r.status, shown=True),
    _identity("error", "error", "why it failed", lambda r: r.error),
    _identity("model", "model", "what was compressed", lambda r: r.model),
    _identity("methods", "methods", "in the order applied", lambda r: " + ".join(r.methods), shown=True),
    _identity("bits", "bits", "of weights (W) and activations (A), by method", lambda r: bits(r) or None, shown=True),
    _identity("sampler.name", "sampler", "the sampler's name", lambda r: r.sampler.get("name")),
    _identity("sampler.steps", "steps", "sampling steps", lambda r: r.sampler.get("steps"), kind="number", shown=True),
    _identity("sampler.eta", "eta", "noise that the sampler adds", lambda r: r.sampler.get("eta"), kind="number"),
    _identity("seed", "seed", "of calibration and training", lambda r: r.config.get("seed"), kind="number"),
    _identity(
        "first_seed", "first seed", "of the images", lambda r: r.workload.get("first_seed"), kind="number", shown=True
    ),
    _identity("count", "images", "how many were scored", lambda r: r.workload.get("count"), kind="number"),
    _identity("front.x", "front's x", "what its study lays out across", lambda r: asked_axis(r, "x")),
    _identity("front.y", "front's y", "what its study lays out upwards", lambda r: asked_axis(r, "y")),
    _identity("protocol", "protocol", "only equal ones share a front", lambda r: r.protocol),
    _identity("commit", "commit", "of the code that ran", lambda r: str(r.code.get("commit") or "")[:10] or None),
)


def row(record: Record) -> dict[str, Scalar]:
    """Every value of a record by column; what is not a plain value becomes text."""
    found = {own.column.key: _as(own.column.kind, own.value(record)) for own in IDENTITY}
    for section in (*NUMBERS, STDERR):
        for name, value in getattr(record, section).items():
            found[f"{section}.{name}"] = number(value)
    found |= {f"{RATIO}.{name}": value for name, value in ratios(record).items()}
    for name in record.quality:
        away = from_baseline(record, name)
        if away is not None:
            found[f"{DIFFERENCE}.{name}"], found[f"{STDERR}.{DIFFERENCE}.{name}"] = away.value, away.stderr
    for key, value in flat(without(record.config, IRRELEVANT)).items():
        found[f"{CONFIG}.{key}"] = scalar(value)
    return {key: value for key, value in found.items() if value is not None}


def columns(record: Record) -> Iterator[Column]:
    """The columns of one record's row, with what it states about them."""
    yield from (own.column for own in IDENTITY)
    own = row(record)
    for key in own:
        section, _, name = key.partition(".")
        if section in MEASURED:
            yield _number_column(section, name, record, own)
        elif section in (CONFIG, STDERR):
            kind: Literal["number", "text"] = "number" if section == STDERR else _kind(own[key])
            yield Column(key, name, f"{section}: {name}", section, kind)


def merged(known: Mapping[str, Column], more: Iterable[Column]) -> dict[str, Column]:
    """The first statement about each column; numbers in one record and texts in another are texts."""
    found = dict(known)
    for column in more:
        held = found.setdefault(column.key, column)
        if held.kind == "number" and column.kind == "text":
            found[column.key] = column
    return found


def scalar(value: Any) -> Scalar:
    """The value itself where a cell can hold it, else as JSON text; never longer than a cell."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if isinstance(value, int) and abs(value) < EXACT else number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _as(kind: str, value: Any) -> Scalar:
    """As the column's kind has it; a number where a text is expected is written out, a text for a number is none."""
    if kind == "number":
        return number(value)
    return None if value is None else scalar(value if isinstance(value, str) else json.dumps(value))


def _kind(value: Scalar) -> Literal["number", "text"]:
    return "number" if number(value) is not None else "text"


def _number_column(section: str, name: str, record: Record, own: Mapping[str, Scalar]) -> Column:
    axis = Axis(section, name, direction(name, [record]), *unit_of(name, [record]))
    unit = axis.unit([])
    title = {RATIO: f"{name} ÷ baseline", DIFFERENCE: f"{name} − baseline"}.get(section, name)
    error = f"{STDERR}.{DIFFERENCE}.{name}" if section == DIFFERENCE else f"{STDERR}.{name}"
    return Column(
        axis.key,
        title,
        unit.meaning,
        section,
        "number",
        better=None if section == "seconds" else "lower" if axis.better == "lower" else "higher",
        symbol=unit.symbol,
        error=error if section in ("quality", "fidelity", DIFFERENCE) and error in own else None,
        shown=section in ("quality", "fidelity") or axis.key in SHOWN,
    )


SHOWN = ("cost.bops", "cost.size_bytes", f"{RATIO}.bops", f"{RATIO}.latency_s")
