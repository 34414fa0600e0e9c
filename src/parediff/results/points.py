"""Records as points: runs that differ in seeds only are one point, and every point has a name to tell it by."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parediff.provenance import IRRELEVANT, without
from parediff.results.axes import Axis
from parediff.results.number import number
from parediff.results.record import Record
from parediff.validation import require

SEEDS = ("seed", "first_seed")
LONGEST_SETTING = 40  # characters of a value in a label
MOST_DIFFERENCES = 3  # settings added to a label that alone would name two points
MOST_CLASSES = 3  # rounds of them: a class, a class within it, their settings
CLASS = "_target_"
NAME = "name"
PARTS = (f".{CLASS}", f".{NAME}")  # keys that stand for all settings of a part
BUDGETS = {"target_width": "{} BOPs", "target_gbops": "{:g} GBOPs", "target_bits": "{} bit"}
"""What learned widths are held to: the first that is set counts."""


@dataclass(frozen=True)
class Point:
    """One way of sampling, with the mean over its runs."""

    runs: tuple[Record, ...]
    label: str
    methods: tuple[str, ...]
    sampler: tuple[str, float]  # name and eta: what a fewer-steps line must share
    steps: int | None
    x: float
    y: float
    x_stderr: float | None
    y_stderr: float | None
    fired: Mapping[str, Any]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(run.id for run in self.runs)

    @property
    def id(self) -> str:
        return self.runs[0].id

    @property
    def is_baseline(self) -> bool:
        return not self.methods


def points(records: Sequence[Record], x: Axis, y: Axis) -> tuple[list[Point], list[tuple[Record, str]]]:
    """The points of finished records, cheapest first, and the records without a value with the key they lack."""
    groups: dict[str, list[Record]] = defaultdict(list)
    lacking = []
    for record in records:
        missing = next((axis.key for axis in (x, y) if axis.value(record) is None), None)
        if missing:
            lacking.append((record, missing))
        else:
            groups[seedless(record)].append(record)
    names = labels([group[0] for group in groups.values()])
    made = [_point(group, name, x, y) for group, name in zip(groups.values(), names, strict=True)]
    return sorted(made, key=lambda point: (point.x, point.y)), lacking


def _point(group: Sequence[Record], label: str, x: Axis, y: Axis) -> Point:
    first = group[0]
    (x_mean, x_stderr), (y_mean, y_stderr) = mean_of(group, x), mean_of(group, y)
    return Point(
        runs=tuple(group),
        label=label,
        methods=tuple(first.methods),
        sampler=(str(first.sampler.get("name", "")), number(first.sampler.get("eta")) or 0.0),
        steps=first.sampler.get("steps"),
        x=x_mean,
        y=y_mean,
        x_stderr=x_stderr,
        y_stderr=y_stderr,
        fired=first.fired,
    )


def mean_of(group: Sequence[Record], axis: Axis) -> tuple[float, float | None]:
    """Mean over runs and its standard error: std/sqrt(n) between runs, a single run's own error over seed blocks."""
    values = [value for record in group if (value := axis.value(record)) is not None]
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, axis.stderr(group[0])
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def seedless(record: Record) -> str:
    """Equal for runs that differ in nothing but seeds."""
    config = _drop(without(record.config, IRRELEVANT), SEEDS)
    own = [record.model, record.methods, record.sampler, config]
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]


def seeded(records: Sequence[Record], least: int) -> tuple[list[Record], int]:
    """The records without the points that were run under fewer seeds than `least`, and how many points those are.

    Failed runs stay: they are no points. RequestError where nothing finished is left.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "finished":
            groups[record.protocol, seedless(record)].append(record)
    counts = {key: len({seed_of(record) for record in group}) for key, group in groups.items()}
    few = {record.id for key, group in groups.items() if counts[key] < least for record in group}
    most = max(counts.values(), default=0)
    require(most >= least, "--seeds", least, f"at most {most}, the seeds of the point that has most,")
    return [record for record in records if record.id not in few], sum(count < least for count in counts.values())


def seed_of(record: Record) -> str:
    """Equal for runs under the same seeds, whatever else they differ in."""
    return f"{record.workload.get('first_seed')} {record.config.get('seed')}"


def _drop(value: Any, keys: Iterable[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop(item, keys) for key, item in value.items() if key not in keys}
    return value


def labels(records: Sequence[Record]) -> list[str]:
    """A name each: methods with their bits, or the sampler's steps; what differs is added where two would be equal."""
    settings = [_settings(record) for record in records]
    keys = dict.fromkeys(key for entry in settings for key in entry)
    columns = {key: [str(entry.get(key)) for entry in settings] for key in keys}
    return told_apart_by_model([label(record) for record in records], columns, [record.model for record in records])


def told_apart_by_model(names: Sequence[str], columns: Mapping[str, Sequence[Any]], models: Sequence[str]) -> list[str]:
    """Told apart within each model, since what differs between models fills a label and tells nothing of the runs.

    Equal names of several models are followed by the model alone.
    """
    told = list(names)
    for model in dict.fromkeys(models):
        places = [place for place, own in enumerate(models) if own == model]
        own = {key: [column[place] for place in places] for key, column in columns.items()}
        for place, name in zip(places, told_apart([names[place] for place in places], own), strict=True):
            told[place] = name
    return told_apart(told, {"model": models})


def told_apart(names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The names, equal ones followed by those settings (column: a value for each name) in which they differ.

    Where a part is of another class, only that is told; those that have the class in common are told apart after it.
    """
    told, said = list(names), [set[str]() for _ in names]
    for _ in range(MOST_CLASSES):
        alike: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(told):
            alike[name].append(index)
        for name, places in alike.items():
            keys = [key for key in _differing(places, columns) if key not in said[places[0]]]
            for index in places:
                told[index] = " · ".join([name, *(_setting(key, columns[key][index]) for key in keys)])
                said[index].update(keys)
    return told


def named(records: Sequence[Record]) -> list[str]:
    """Labels; runs that differ in seeds alone name their first seed too, or where they share it the run's own."""
    first = [record.workload.get("first_seed", "?") for record in records]
    return with_seeds(labels(records), first, [record.config.get("seed", "?") for record in records])


def with_seeds(names: Sequence[str], *seeds: Sequence[Any]) -> list[str]:
    """The names, those that are still equal followed by the first of their seeds that tells all of them apart."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    told = list(names)
    for name, equal in places.items():
        columns = [[column[place] for place in equal] for column in seeds]
        telling = next((own for own in columns if len(set(own)) == len(own)), columns[0])
        for place, seed in zip(equal, telling, strict=True):
            told[place] = f"{name} · seed {seed}" if len(equal) > 1 else name
    return told


def label(record: Record) -> str:
    """'ptq W4A8 + deepcache' or 'ddim 50 steps'."""
    if record.methods:
        return " + ".join(_method(name, record.config.get("methods")) for name in record.methods)
    return f"{record.sampler.get('name', 'baseline')} {record.sampler.get('steps', '?')} steps"


def _method(name: str, configs: Any) -> str:
    width = _bits(configs.get(name) if isinstance(configs, Mapping) else None)
    return f"{name} {width}" if width else name


def bits(record: Record) -> str:
    """'W4A8', or 'ptq W4A8 + nipq 3 bit' where several methods state bits; empty where none does."""
    configs = record.config.get("methods")
    stated = {name: _bits(configs.get(name)) for name in record.methods} if isinstance(configs, Mapping) else {}
    told = {name: width for name, width in stated.items() if width}
    return next(iter(told.values())) if len(told) == 1 else " + ".join(f"{name} {told[name]}" for name in told)


def _bits(config: Any) -> str:
    """Widths held everywhere, or the budget within which they are learned: what goes before the rest."""
    config = config if isinstance(config, Mapping) else {}
    held = config.get("uniform_bits")
    if held is not None:
        return f"W{held}A{config.get('uniform_activation_bits') or held}"
    weight, activation = config.get("weight_bits"), config.get("activation_bits")
    if weight is not None:
        return f"W{weight}A{activation}" if activation is not None else f"{weight} bit"
    return next((told.format(config[key]) for key, told in BUDGETS.items() if config.get(key) is not None), "")


def _settings(record: Record) -> dict[str, Any]:
    """The record's choices as flat keys; seeds, storage and what is counted beside them are left out."""
    config = _drop(without(record.config, (*IRRELEVANT, "costs")), SEEDS)
    return {**flat(config), **flat({"sampler": record.sampler})}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


def _differing(places: Sequence[int], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The first settings that are not the same in all these places.

    A part's class, or its name, stands for all its settings; a setting that repeats another of the same name, as a
    method's sampler repeats the run's, is told once.
    """
    found: dict[tuple[Any, ...], str] = {}
    for key in sorted(columns, key=lambda one: one.count(".")):
        values = tuple(columns[key][place] for place in places)
        if len(set(values)) > 1:
            found.setdefault((key.rpartition(".")[2], *values), key)
    kept = set(found.values())
    told = [key for key in columns if key in kept]
    parts = tuple(f"{key.rpartition('.')[0]}." for key in told if key.endswith(PARTS))
    return [key for key in told if key.endswith(PARTS) or not key.startswith(parts)][:MOST_DIFFERENCES]


def _setting(key: str, value: Any) -> str:
    part, _, name = key.rpartition(".")
    if str(value) == "None" and name in (CLASS, NAME):
        return f"no {part.rpartition('.')[2]}"
    if name == CLASS:
        return module_of(value)
    text = str(value) if len(str(value)) <= LONGEST_SETTING else str(value)[: LONGEST_SETTING - 1] + "…"
    if name == NAME:
        return text
    return f"{text} steps" if key.endswith("sampler.steps") else f"{name}={text}"


def module_of(target: Any) -> str:
    """'genie' of 'parediff.calibration.genie.Genie': what a part is called in its config group, as a rule."""
    return ".".join(str(target).split(".")[-2:-1]) or str(target)
