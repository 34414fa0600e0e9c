"""Records as points: runs that differ in seeds only are one point, and every point has a name to tell it by."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parediff.provenance import IRRELEVANT, fingerprint, without
from parediff.results.axes import Axis
from parediff.results.record import Record

SEEDS = ("seed", "first_seed")
MOST_DIFFERENCES = 3  # settings added to a label that alone would name two points


@dataclass(frozen=True)
class Point:
    """One way of sampling, with the mean over its runs; `ids` names the runs."""

    ids: tuple[str, ...]
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
    def id(self) -> str:
        return self.ids[0]

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
        ids=tuple(record.id for record in group),
        label=label,
        methods=tuple(first.methods),
        sampler=(str(first.sampler.get("name", "")), float(first.sampler.get("eta") or 0)),
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
    return fingerprint([record.model, record.methods, record.sampler, config])


def _drop(value: Any, keys: Iterable[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop(item, keys) for key, item in value.items() if key not in keys}
    return value


def labels(records: Sequence[Record]) -> list[str]:
    """A name each: methods with their bits, or the sampler's steps; what differs is added where two would be equal."""
    names = [label(record) for record in records]
    settings = [_settings(record) for record in records]
    for name in sorted({name for name in names if names.count(name) > 1}):
        alike = [index for index, other in enumerate(names) if other == name]
        keys = _differing([settings[index] for index in alike])[:MOST_DIFFERENCES]
        for index in alike:
            names[index] = " · ".join([name, *(_setting(key, settings[index].get(key)) for key in keys)])
    return names


def label(record: Record) -> str:
    """'ptq W4A8 + deepcache' or 'ddim 50 steps'."""
    if record.methods:
        return " + ".join(_method(name, record.config.get("methods")) for name in record.methods)
    return f"{record.sampler.get('name', 'baseline')} {record.sampler.get('steps', '?')} steps"


def _method(name: str, configs: Any) -> str:
    config = configs.get(name) if isinstance(configs, Mapping) else None
    config = config if isinstance(config, Mapping) else {}
    weight, activation = config.get("weight_bits"), config.get("activation_bits")
    if weight is not None and activation is not None:
        return f"{name} W{weight}A{activation}"
    bits = weight if weight is not None else config.get("target_bits")
    return name if bits is None else f"{name} {bits} bit"


def _settings(record: Record) -> dict[str, Any]:
    """The record's choices as flat keys, seeds and storage left out."""
    config = _drop(without(record.config, IRRELEVANT), SEEDS)
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


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for entry in settings for key in entry)
    return [key for key in keys if len({str(entry.get(key)) for entry in settings}) > 1]


def _setting(key: str, value: Any) -> str:
    name = key.rpartition(".")[2]
    return f"{value} steps" if key == "sampler.steps" else f"{name}={value}"
