"""What a study claims, and what the runs say to it, model by model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, Literal

import yaml

from parediff.errors import RequestError
from parediff.provenance import fingerprint
from parediff.results.axes import DIFFERENCE, Axis, resolve
from parediff.results.contrast import contrast, difference
from parediff.results.difference import Difference
from parediff.results.points import CLASS, flat, labels, module_of, seed_of, seedless, told_apart
from parediff.results.record import Record

NAME = "claims.yaml"
"""Beside the experiments of a study."""
BASELINE = "baseline"
OUTPUTS = "outputs"
"""What a protocol calls the code that draws the images, whatever is measured on them."""
LEAST_SEEDS = 3
"""Below so many a difference is not called one."""

Verdict = Literal["helps", "hurts", "level", "open"]
Settings = Mapping[str, Any]
"""Keys of a run's config, `methods` in order and `study` (else the claim's), to values; of a part its name."""


@dataclass(frozen=True)
class Claim:
    """That the runs with the settings `of` differ from those `against`, or from their own baseline, in `numbers`.

    A number may be a pattern, as `fd*`: what a model is measured by is its own.
    """

    study: str
    says: str
    of: Settings
    against: Settings | str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What the runs of one model, measured alike, say to a claim: a difference for each number, or what is missing."""

    claim: Claim
    model: str
    differences: dict[Axis, Difference] = field(default_factory=dict)
    seeds: int = 0
    missing: str = ""
    absent: tuple[str, ...] = ()  # of the numbers asked for, on this model

    def verdict(self, axis: Axis) -> Verdict:
        """Beyond two standard errors it helps or hurts; open below three seeds."""
        if self.seeds < LEAST_SEEDS:
            return "open"
        told = self.differences[axis].verdict(axis.better)
        return {"better": "helps", "worse": "hurts", "unclear": "level"}[told]  # type: ignore[return-value]


def read(path: Path) -> list[Claim]:
    """The claims of one file; RequestError names the entry that is wrong."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError("claims", path, f"a readable YAML file ({' '.join(str(error).split())[:200]})") from error
    entries = content.get("claims") if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        raise RequestError("claims", path, "a file with a list under the key claims")
    return [_claim(entry, f"{path}: claims[{place}]") for place, entry in enumerate(entries)]


def _claim(entry: Any, where: str) -> Claim:
    known = [item.name for item in fields(Claim)]
    if not isinstance(entry, Mapping) or set(entry) != set(known):
        odd = ", ".join(sorted(map(str, set(entry) ^ set(known)))) if isinstance(entry, Mapping) else str(entry)
        raise RequestError(where, odd, f"a mapping with the keys {', '.join(known)} and no others")
    for key in ("of", "against"):
        if not (isinstance(entry[key], Mapping) and entry[key]) and (key, entry[key]) != ("against", BASELINE):
            told = "settings of runs" + f", or {BASELINE}" * (key == "against")
            raise RequestError(f"{where}.{key}", entry[key], f"{told}, is accepted")
    if not isinstance(entry["numbers"], list) or not entry["numbers"]:
        raise RequestError(f"{where}.numbers", entry["numbers"], "a list of numbers of a record, as [psnr]")
    return Claim(**{**entry, "numbers": tuple(map(str, entry["numbers"]))})


def judge(claim: Claim, records: Sequence[Record]) -> list[Finding]:
    """A finding for each model on which both sides were measured."""
    studies = {settings["study"] for settings in _sides(claim).values()}
    own = [record for record in records if record.study in studies and record.status == "finished"]
    found = (_finding(claim, model, runs) for model, runs in _measured_alike(own, claim.numbers))
    return [one for one in found if one]


def _sides(claim: Claim) -> dict[str, Settings]:
    """The settings of both sides, or of the one that is compared with its own baseline."""
    named = {"of": claim.of} | ({"against": claim.against} if isinstance(claim.against, Mapping) else {})
    return {name: {"study": claim.study} | dict(settings) for name, settings in named.items()}


def _measured_alike(records: Sequence[Record], numbers: Sequence[str]) -> Iterator[tuple[str, list[Record]]]:
    """The records whose numbers can be compared, under the name of their model; equal names say in what they differ."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[_yardstick(record, numbers)].append(record)
    firsts = [group[0] for group in groups.values()]
    networks = [flat(_without(first.protocol_details.get("model"), "weights")) for first in firsts]
    keys = dict.fromkeys(key for network in networks for key in network)
    names = told_apart([first.model for first in firsts], {key: [one.get(key) for one in networks] for key in keys})
    yield from zip(told_apart(names, {"protocol": [one.protocol for one in firsts]}), groups.values(), strict=True)


def _yardstick(record: Record, numbers: Sequence[str]) -> str:
    """The protocol, without how other numbers were measured."""
    details = dict(record.protocol_details)
    for part in ("metrics", "code"):
        if isinstance(details.get(part), Mapping):
            details[part] = {key: value for key, value in details[part].items() if _decides(key, numbers)}
    return fingerprint(details) if details else record.protocol


def _decides(key: str, numbers: Sequence[str]) -> bool:
    return key == OUTPUTS or any(fnmatch(key, one) for one in numbers)


def _without(entry: Any, name: str) -> Mapping[str, Any]:
    return {key: value for key, value in entry.items() if key != name} if isinstance(entry, Mapping) else {}


def _finding(claim: Claim, model: str, records: Sequence[Record]) -> Finding | None:
    sides = {name: ways(records, settings) for name, settings in _sides(claim).items()}
    if not all(sides.values()):
        return None
    odd = [_too_many(name, found) for name, found in sides.items() if len(found) > 1]
    if odd:
        return Finding(claim, model, missing="; ".join(odd))
    chosen, seeds = _of_equal_seeds([found[0] for found in sides.values()])
    differences = dict(_differences(claim, chosen))
    absent = tuple(one for one in claim.numbers if not any(fnmatch(axis.name, one) for axis in differences))
    if not differences:
        return Finding(claim, model, missing=f"no {', '.join(absent)} on every side")
    return Finding(claim, model, differences, seeds, absent=absent)


def _of_equal_seeds(sides: Sequence[Sequence[Record]]) -> tuple[list[Sequence[Record]], int]:
    """The runs of each side whose seeds all sides have, and how many seeds these are; all runs where there are none."""
    common = set.intersection(*(set(map(seed_of, runs)) for runs in sides))
    if not common:
        return list(sides), 0
    return [[run for run in runs if seed_of(run) in common] for runs in sides], len(common)


def _too_many(name: str, found: Sequence[Sequence[Record]]) -> str:
    return f"{len(found)} ways of sampling match `{name}`: {'; '.join(labels([runs[0] for runs in found]))}"


def _differences(claim: Claim, sides: Sequence[Sequence[Record]]) -> Iterator[tuple[Axis, Difference]]:
    known = [_numbers_of(runs) for runs in sides]
    asked = [name for name in known[0] if any(fnmatch(name, one) for one in claim.numbers)]
    for name in [name for name in asked if all(name in own for own in known)]:
        axis = resolve("numbers", name, [run for runs in sides for run in runs])
        own = Axis(DIFFERENCE, axis.name, axis.better)
        apart = difference(sides[1], sides[0], axis) if len(sides) == 2 else contrast([(1.0, sides[0])], own)
        if apart is not None:
            yield axis, apart


def _numbers_of(runs: Sequence[Record]) -> list[str]:
    """What is compared between runs: fidelity, quality, cost."""
    return list(dict.fromkeys(name for run in runs for part in (run.fidelity, run.quality, run.cost) for name in part))


def ways(records: Sequence[Record], settings: Settings) -> list[list[Record]]:
    """The runs with these settings, those that differ in seeds only together."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if all(_told(record, key) == value for key, value in settings.items()):
            found[seedless(record)].append(record)
    return list(found.values())


def _told(record: Record, key: str) -> Any:
    """A setting of the run; of a part that a class makes, its name as config groups have it."""
    if key in ("methods", "study"):
        return getattr(record, key)
    value: Any = record.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return module_of(value[CLASS]) if isinstance(value, Mapping) and CLASS in value else value
