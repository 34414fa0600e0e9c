"""The front over records measured with the same yardstick, and what each point gains over merely taking fewer steps."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from parediff.errors import RequestError
from parediff.results import pareto
from parediff.results.against import Against, against, refused
from parediff.results.axes import Axis, default_keys, resolve
from parediff.results.contrast import contrast
from parediff.results.difference import Difference
from parediff.results.points import Point, flat, label, points
from parediff.results.record import Record

Bound = Literal["exact", "at least", "at most"]


@dataclass(frozen=True)
class Gain:
    """How much better than the fewer-steps line at the same cost; positive is better, in the unit of y.

    `pairs` counts the seeds or seed blocks that point and line share; 0: their errors were taken as independent.
    `at least` where the point is cheaper than the whole line, `at most` where it costs more than all of it.
    `rival` names another sampler whose line is better, at the same cost, than both the point and its own line.
    """

    value: float
    stderr: float | None
    bound: Bound
    rival: str | None = None
    pairs: int = 0

    @property
    def verdict(self) -> str:
        """better or worse where the difference exceeds two standard errors; unclear where it does not, or has none."""
        if self.stderr is None or abs(self.value) <= 2 * self.stderr:
            return "unclear"
        if self.value > 0:
            return "better" if self.bound != "at most" else "unclear"
        return "worse" if self.bound != "at least" else "unclear"


@dataclass(frozen=True)
class Line:
    """The uncompressed model with one sampler at fewer and fewer steps, cheapest first: the line to beat."""

    sampler: tuple[str, float]  # name, eta
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """'ddim', or 'ddim η=1' where it draws noise of its own."""
        return self.sampler[0] + (f" η={self.sampler[1]:g}" if self.sampler[1] else "")

    def around(self, x: float) -> tuple[list[tuple[float, Point]], Bound]:
        """Weighted points that make the line at a cost: linear in log x between two, its end where the line ends."""
        first, last = self.points[0], self.points[-1]
        if x <= first.x:
            return [(1.0, first)], "exact" if x == first.x else "at least"
        if x >= last.x:
            return [(1.0, last)], "exact" if x == last.x else "at most"
        right = bisect.bisect_left(self.points, x, key=lambda point: point.x)
        return _between(self.points[right - 1], self.points[right], x), "exact"

    def at(self, x: float) -> tuple[float, Bound]:
        """y at a cost."""
        ends, bound = self.around(x)
        return sum(weight * point.y for weight, point in ends), bound


@dataclass(frozen=True)
class LeftOut:
    """Records that a front cannot hold: their protocol, how many they are, and the details in which it differs."""

    protocol: str
    count: int
    differing: tuple[str, ...]

    def __str__(self) -> str:
        counted = f"{self.count} record{'s' * (self.count > 1)} of protocol {self.protocol or '(none)'}"
        why = f"differs in {', '.join(self.differing)}" if self.differing else "its details do not say in what"
        return f"{counted} left out of the first front: {why}"


@dataclass(frozen=True)
class Front:
    """Points of one protocol, those that no other dominates, and the volume that they dominate."""

    x: Axis
    y: Axis
    protocol: str
    points: tuple[Point, ...]  # cheapest first
    on_front: tuple[bool, ...]
    gains: tuple[Gain | None, ...]
    lines: tuple[Line, ...]
    hypervolume: float
    reference: tuple[float, float]
    reference_rule: str
    failed: tuple[tuple[Record, str], ...]  # with the error
    lacking: tuple[tuple[Record, str], ...]  # finished, with the key they have no value for
    against: Against | None = None

    @property
    def share(self) -> float:
        """Hypervolume as a share of the box between the reference point and the best value on each axis."""
        ways = (self.x.better, self.y.better)
        costs = [pareto.as_costs((point.x, point.y), ways) for point in self.points]
        bound = pareto.as_costs(self.reference, ways)
        sides = [max(0.0, limit - min(column)) for limit, column in zip(bound, zip(*costs, strict=True), strict=True)]
        return self.hypervolume / math.prod(sides) if math.prod(sides) else 0.0

    def to_json(self) -> dict[str, Any]:
        """front.json: numbers in the record's own units."""
        return {
            "x": self.x.key,
            "y": self.y.key,
            "better": {"x": self.x.better, "y": self.y.better},
            "protocol": self.protocol,
            "against": self.against and self.against.name,
            "points": [
                self._point(*entry) for entry in zip(self.points, self.on_front, self.gains, self.apart, strict=True)
            ],
            "hypervolume": self.hypervolume,
            "hypervolume_share": self.share,
            "reference": list(self.reference),
            "reference_rule": self.reference_rule,
            "failed": [{"id": record.id, "label": label(record), "error": error} for record, error in self.failed],
            "left_out": [{"id": record.id, "label": label(record), "lacks": key} for record, key in self.lacking],
        }

    @property
    def apart(self) -> tuple[Difference | None, ...]:
        """For each point, how much it differs from what was asked to compare with."""
        return self.against.differences if self.against else (None,) * len(self.points)

    def _point(self, point: Point, on_front: bool, gain: Gain | None, apart: Difference | None) -> dict[str, Any]:
        return {
            "id": point.id,
            "x": point.x,
            "y": point.y,
            "methods": list(point.methods),
            "on_front": on_front,
            "label": point.label,
            "steps": point.steps,
            "x_stderr": point.x_stderr,
            "y_stderr": point.y_stderr,
            "ids": list(point.ids),
            "gain": None if gain is None else {**vars(gain), "verdict": gain.verdict},
            "difference": None if apart is None else {**vars(apart), "verdict": apart.verdict(self.y.better)},
        }


def build_front(
    records: Sequence[Record],
    x: str | None = None,
    y: str | None = None,
    *,
    reference: tuple[float, float] | None = None,
    protocol: str | None = None,
    compared: str | None = None,
) -> Front:
    """The front of records with one protocol; of several, `protocol` (or the start of it) chooses."""
    fronts = build_fronts(records, x, y, reference=reference, protocol=protocol, compared=compared)
    if len(fronts) > 1:
        names = ", ".join(front.protocol or "(none)" for front in fronts)
        raise RequestError("protocol", protocol, f"one of {names}: only equal protocols share a front")
    return fronts[0]


def build_fronts(
    records: Sequence[Record],
    x: str | None = None,
    y: str | None = None,
    *,
    reference: tuple[float, float] | None = None,
    protocol: str | None = None,
    compared: str | None = None,
    own: Collection[str] = (),
) -> list[Front]:
    """One front per protocol, the one with most records first.

    `own` are ids of runs whose fronts go before the others, and whose records decide the axes that are not named.
    `compared` is what every point's difference is taken from: `baseline`, or the label or id of a run, whose protocol
    then is the only one with differences.
    """
    finished = [record for record in records if record.status == "finished"]
    chosen = [record for record in finished if protocol is None or record.protocol.startswith(protocol)]
    if not chosen:
        known = ", ".join(sorted({record.protocol for record in finished})) or "none: no record is finished"
        raise RequestError("protocol", protocol, f"one of {known}") if finished else _nothing(records)
    first = {record.protocol for record in chosen if record.id in own}
    axes = axes_of([record for record in chosen if record.protocol in first] or chosen, x, y)
    usable = [record for record in chosen if all(axis.value(record) is not None for axis in axes)]
    if not usable:
        raise RequestError("y", axes[1].key, f"a key that some record has beside {axes[0].key}")
    counts = Counter(record.protocol for record in usable)
    failed = [record for record in records if record.status == "failed"]
    fronts = [
        _front(chosen, [f for f in failed if _home(f, counts) == name], axes, name, reference)
        for name, _ in sorted(counts.most_common(), key=lambda entry: entry[0] not in first)
    ]
    return fronts if compared is None else _compared(fronts, compared)


def _compared(fronts: Sequence[Front], asked: str) -> list[Front]:
    """The fronts with the differences; RequestError where none of them knows what is asked for."""
    found = [replace(front, against=against(asked, front.points, front.y)) for front in fronts]
    if not any(front.against for front in found):
        raise refused(asked, [point for front in fronts for point in front.points], fronts[0].y)
    return found


def left_out(front: Front, records: Sequence[Record]) -> list[LeftOut]:
    """The finished records of every other protocol than the front's, most records first, and what sets them apart."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "finished":
            groups.setdefault(record.protocol, []).append(record)
    own = groups.pop(front.protocol, [])
    ordered = sorted(groups.items(), key=lambda entry: -len(entry[1]))
    return [LeftOut(name, len(group), different_details(own[:1], group[:1])) for name, group in ordered]


def different_details(left: Sequence[Record], right: Sequence[Record]) -> tuple[str, ...]:
    """Keys of protocol_details in which two groups differ, by the first record of each; empty where none tells."""
    first, second = (flat(group[0].protocol_details) if group else {} for group in (left, right))
    return tuple(key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key))


def axes_of(records: Sequence[Record], x: str | None, y: str | None) -> tuple[Axis, Axis]:
    """The axes asked for, or BOPs against the records' first quality."""
    default_x, default_y = default_keys(records)
    return resolve("x", x or default_x, records), resolve("y", y or default_y, records)


def _nothing(records: Sequence[Record]) -> RequestError:
    return RequestError("PATH", f"{len(records)} records", "at least one finished record")


def _home(record: Record, counts: Counter[str]) -> str:
    """Where a failed record is listed: under its protocol, or under the largest where it failed before it had one."""
    return record.protocol if record.protocol in counts else counts.most_common(1)[0][0]


def _front(
    chosen: Sequence[Record],
    failed: Sequence[Record],
    axes: tuple[Axis, Axis],
    protocol: str,
    reference: tuple[float, float] | None,
) -> Front:
    x, y = axes
    ways = (x.better, y.better)
    made, lacking = points([record for record in chosen if record.protocol == protocol], x, y)
    values = [(point.x, point.y) for point in made]
    worst = pareto.worst_reference(values, ways)
    corner = reference or (worst[0], worst[1])
    lines = lines_of(made)
    return Front(
        x=x,
        y=y,
        protocol=protocol,
        points=tuple(made),
        on_front=tuple(pareto.non_dominated(values, ways)),
        gains=tuple(gain(point, lines, y) for point in made),
        lines=lines,
        hypervolume=pareto.hypervolume(values, ways, corner),
        reference=corner,
        reference_rule="given" if reference else "the worst x and the worst y of all points, each a tenth worse",
        failed=tuple((record, record.error or "unknown") for record in failed),
        lacking=tuple(lacking),
    )


def lines_of(made: Sequence[Point]) -> tuple[Line, ...]:
    """One line per sampler of the uncompressed model."""
    samplers: Mapping[tuple[str, float], list[Point]] = {point.sampler: [] for point in made if point.is_baseline}
    for point in made:
        if point.is_baseline:
            samplers[point.sampler].append(point)
    return tuple(Line(sampler, tuple(sorted(own, key=lambda p: p.x))) for sampler, own in samplers.items())


def gain(point: Point, lines: Sequence[Line], y: Axis) -> Gain | None:
    """Against the line of the point's own sampler, else the only line there is; None for the lines' own points."""
    own = [line for line in lines if line.sampler == point.sampler] or (list(lines) if len(lines) == 1 else [])
    if point.is_baseline or not own:
        return None
    sign = 1.0 if y.better == "lower" else -1.0
    ends, bound = own[0].around(point.x)
    away = contrast([*((sign * weight, end.runs) for weight, end in ends), (-sign, point.runs)], y)
    if away is None:
        return None
    return Gain(away.value, away.stderr, bound, _rival(point, own[0], lines, y), away.pairs)


def _rival(point: Point, own: Line, lines: Sequence[Line], y: Axis) -> str | None:
    """The best line of another sampler that at this cost beats the point and its own line.

    A line that ends before the point's cost counts with its last value: it is cheaper and better still.
    """
    sign = 1.0 if y.better == "lower" else -1.0
    best, name = min(sign * own.at(point.x)[0], sign * point.y), None
    for line in lines:
        there, bound = line.at(point.x)
        if line is not own and bound != "at least" and sign * there < best:
            best, name = sign * there, line.name
    return name


def _between(left: Point, right: Point, x: float) -> list[tuple[float, Point]]:
    """Linear in log x between two points."""
    scale = math.log if left.x > 0 else float
    weight = (scale(x) - scale(left.x)) / (scale(right.x) - scale(left.x))
    return [(1 - weight, left), (weight, right)]
