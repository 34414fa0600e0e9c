"""What can stand on an axis of a front: a key of the record, its direction, its unit in a reader's words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parediff.errors import RequestError, nearest
from parediff.results.difference import from_baseline
from parediff.results.number import number, numbers
from parediff.results.record import Record

SECTIONS = ("quality", "fidelity", "cost", "sampler", "seconds")
RATIO = "ratio"  # a cost against the same cost of the run's own baseline: what runs of different processes can share
DIFFERENCE = "difference"  # a quality less that of the run's own baseline, under the same seeds
PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
WORDS = {"steps": "sampling steps"}


@dataclass(frozen=True)
class Axis:
    """One number of a record."""

    section: str
    name: str
    better: str  # lower | higher
    symbol: str = ""  # takes SI prefixes
    meaning: str = ""  # in a reader's words; the name where the record states none

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    def value(self, record: Record) -> float | None:
        """The number, None where the record has none."""
        if self.section == RATIO:
            return ratio(record, self.name)
        if self.section == DIFFERENCE:
            away = from_baseline(record, self.name)
            return None if away is None else away.value
        return number(getattr(record, self.section).get(self.name))

    def stderr(self, record: Record) -> float | None:
        """Its standard error over seed blocks; costs have none."""
        if self.section == DIFFERENCE:
            away = from_baseline(record, self.name)
            return None if away is None else away.stderr
        return number(record.stderr.get(self.name)) if self.section in ("quality", "fidelity") else None

    def left_out(self, record: Record) -> list[float]:
        """The number without each seed block in turn, up to what all runs under the same seeds share; empty if unknown.

        Of a difference to the baseline the baseline's part is left away: runs that are compared have it in common.
        """
        has_blocks = self.section in ("quality", "fidelity", DIFFERENCE)
        return numbers(record.left_out.get(self.name)) if has_blocks else []

    def unit(self, values: Iterable[float]) -> Unit:
        """The unit in which values of this size read well."""
        meaning = self.meaning or in_words(self.name)
        if self.section == RATIO:
            return Unit(1.0, "×", f"{meaning}, against the run's own baseline")
        if self.section == DIFFERENCE:
            meaning = f"{meaning}, less that of the run's own baseline"
        if not self.symbol:
            return Unit(1.0, "", meaning)
        sizes = sorted(abs(value) for value in values if value)
        exponent = 3 * math.floor(math.log10(sizes[len(sizes) // 2]) / 3) if sizes else 0
        exponent = min(max(exponent, min(PREFIXES)), max(PREFIXES))
        return Unit(10.0**exponent, PREFIXES[exponent] + self.symbol, meaning)


@dataclass(frozen=True)
class Unit:
    """A scale with its symbol: value / scale is what stands before the symbol."""

    scale: float
    symbol: str
    meaning: str

    @property
    def title(self) -> str:
        return f"{self.meaning} ({self.symbol})" if self.symbol else self.meaning

    def show(self, value: float) -> str:
        """The value with three significant digits and its symbol."""
        return f"{significant(value / self.scale)} {self.symbol}".strip()


def ratio(record: Record, name: str) -> float | None:
    """The run's cost against its baseline's, both of the same process; None where one is missing."""
    costs = record.baseline.get("cost")
    own, reference = number(record.cost.get(name)), number(costs.get(name) if isinstance(costs, Mapping) else None)
    return None if own is None or not reference else own / reference


def significant(value: float) -> str:
    """Three significant digits, without an exponent where that stays short."""
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def in_words(name: str) -> str:
    """A key without its underscores."""
    return WORDS.get(name, name.replace("_", " "))


def known_keys(records: Iterable[Record]) -> list[str]:
    """Every key that some record has a number or null under, in the order of the record."""
    found: dict[str, None] = {}
    collected = list(records)
    for section in SECTIONS:
        for record in collected:
            for name, value in getattr(record, section).items():
                if value is None or number(value) is not None:
                    found[f"{section}.{name}"] = None
    return list(found)


def against_baseline(records: Sequence[Record]) -> list[str]:
    """Keys of every cost and quality that some record has beside its baseline's: ratios, then differences."""
    costs = dict.fromkeys(name for record in records for name in ratios(record))
    worth = dict.fromkeys(name for record in records for name in record.quality if from_baseline(record, name))
    return [*(f"{RATIO}.{name}" for name in costs), *(f"{DIFFERENCE}.{name}" for name in worth)]


def ratios(record: Record) -> dict[str, float]:
    """Every cost against the baseline's; what only accompanies a measured time is no cost."""
    names = [name for name in record.cost if name == "latency_s" or not name.startswith("latency_")]
    return {name: value for name in names if (value := ratio(record, name)) is not None}


def resolve(option: str, key: str, records: Sequence[Record]) -> Axis:
    """The axis for `--x` or `--y`; a short name is enough where it is unambiguous."""
    known = known_keys(records)
    matches = [name for name in known if key in (name, name.partition(".")[2])]
    matches = matches or [name for name in against_baseline(records) if key == name]
    if len(matches) != 1:
        wanted = "the full key of one of" if matches else "one of"
        hint = nearest(key, [*known, *(name.partition(".")[2] for name in known)]) if not matches else ""
        raise RequestError(option, key, f"{wanted} {', '.join(matches or known) or 'nothing: no record'}.{hint}")
    axis = present(matches[0], records)
    if axis is None:
        raise RequestError(option, key, "a key with a value: no finished record has one here")
    return axis


def present(key: str, records: Sequence[Record]) -> Axis | None:
    """The axis of a full key, None where no record has a number under it."""
    section, _, name = key.partition(".")
    axis = Axis(section, name, direction(name, records), *unit_of(name, records))
    return axis if any(axis.value(record) is not None for record in records) else None


def direction(name: str, records: Iterable[Record]) -> str:
    """lower or higher: what the records state, lower where they state nothing."""
    stated = (record.better.get(name) for record in records)
    return next((way for way in stated if way in ("lower", "higher")), "lower")


def unit_of(name: str, records: Iterable[Record]) -> tuple[str, str]:
    """(symbol, meaning) as the records state them; a distance keeps the name that says of what."""
    stated = next((record.units[name] for record in records if name in record.units), ["", ""])
    symbol, meaning = (str(part) for part in stated)
    return symbol, f"{meaning} ({name})" if meaning.endswith("distance") else meaning


def default_keys(records: Sequence[Record]) -> tuple[str, str]:
    """(x, y) when none are named: what the study lays out; BOPs or the first cost, the first quality or fidelity."""
    known = known_keys(records)
    costs = (key for key in ("cost.bops", *known) if key.startswith("cost.") and present(key, records))
    worth = [key for key in known if key.startswith(("quality.", "fidelity."))]
    x, y = next(costs, "cost.bops"), worth[0] if worth else "quality.fd_digits"
    return laid_out("x", records) or x, laid_out("y", records) or y


def asked_axis(record: Record, axis: str) -> Any:
    """What the record's study lays out along x or y, as it was written; None where it says nothing."""
    return (record.config.get("front") or {}).get(axis)


def laid_out(axis: str, records: Sequence[Record]) -> str | None:
    """The full key that every record's study asks for on its front; None where they differ or have no number for it."""
    asked = {str(asked_axis(record, axis)) for record in records}
    found = [key for key in known_keys(records) if asked <= {key, key.partition(".")[2]} and present(key, records)]
    return found[0] if len(found) == 1 else None
