"""What each family of methods reaches alone, and what composing them adds: hypervolumes up to the front's corner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from parediff.errors import RequestError
from parediff.results import pareto
from parediff.results.difference import Difference
from parediff.results.front import Front
from parediff.results.jackknife import jackknife_error
from parediff.results.points import Point, mean_of, seed_of
from parediff.results.record import Record

Families = frozenset[str]
Values = list[tuple[float, float]]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Composition:
    """All points whose methods are of these families or of fewer; of none: the uncompressed model, however sampled.

    `points` counts those that have all of the families; `ahead` are the ones of them on the front of all. `added` is
    what the volume gains over the points with fewer of the families, which is what composing them brings. Errors are
    jackknife ones, over common seeds, or over the seed blocks of single runs.
    """

    families: tuple[str, ...]
    points: int
    ahead: tuple[Point, ...]
    volume: float
    stderr: float | None
    added: Difference | None


def families_of(record: Record, known: Mapping[str, str]) -> Families:
    """Those of its methods by what is `known` of them; a method of none is one of its own."""
    return frozenset(known.get(name) or name for name in record.methods)


def compositions(front: Front, *, log: bool = False) -> list[Composition]:
    """Every set of families that some point has, smaller ones first, and last what all together reach.

    `log`: volumes over the decimal logarithm of the cost, where a halving counts alike at all costs; RequestError
    where one is not above 0.
    """
    lowest = min(point.x for point in front.points)
    if log and lowest <= 0:
        raise RequestError("--log", lowest, f"costs above 0 are accepted: {front.x.key} has no logarithm here")
    scale = math.log10 if log else float
    records = [point.runs[0] for point in front.points]
    known = {name: family for record in records for name, family in record.families.items()}  # older records say none
    own = [families_of(record, known) for record in records]
    everything = frozenset().union(*own)
    told = sorted({*own, everything}, key=lambda one: (len(one), sorted(one)))
    samples = [[(point.x, point.y) for point in front.points], *_without_each(front)]
    return [_composition(front, own, chosen, samples, scale) for chosen in told]


def _composition(
    front: Front, own: Sequence[Families], chosen: Families, samples: Sequence[Values], scale: Scale
) -> Composition:
    within = [one <= chosen for one in own]
    fewer = [one < chosen for one in own]
    whole, *left_out = [_volume(front, values, within, scale) for values in samples]
    part, *part_left_out = [_volume(front, values, fewer, scale) for values in samples]
    apart = [a - b for a, b in zip(left_out, part_left_out, strict=True)]
    added = Difference(whole - part, jackknife_error(apart) if apart else None, len(apart)) if any(fewer) else None
    ahead = tuple(
        point
        for point, one, on_front in zip(front.points, own, front.on_front, strict=True)
        if on_front and one == chosen
    )
    error = jackknife_error(left_out) if left_out else None
    return Composition(tuple(sorted(chosen)), own.count(chosen), ahead, whole, error, added)


def _volume(front: Front, values: Values, chosen: Sequence[bool], scale: Scale) -> float:
    kept = [(scale(x), y) for (x, y), is_chosen in zip(values, chosen, strict=True) if is_chosen]
    corner = scale(front.reference[0]), front.reference[1]
    return pareto.hypervolume(kept, (front.x.better, front.y.better), corner)


def _without_each(front: Front) -> list[Values]:
    """The points without each seed in turn that all of them have, or without each seed block of single runs."""
    seeds = [{seed_of(run): run for run in point.runs} for point in front.points]
    common = sorted(set.intersection(*(set(one) for one in seeds)))
    if len(common) > 1:
        kept = [list(pair) for pair in combinations(common, len(common) - 1)]
        return [[_mean(front, [one[name] for name in names]) for one in seeds] for names in kept]
    blocks = [front.y.left_out(point.runs[0]) for point in front.points if len(point.runs) == 1]
    if len(blocks) < len(front.points) or len({len(one) for one in blocks}) != 1:
        return []
    return [
        [(point.x, one[place]) for point, one in zip(front.points, blocks, strict=True)]
        for place in range(len(blocks[0]))
    ]


def _mean(front: Front, runs: Sequence[Record]) -> tuple[float, float]:
    return mean_of(runs, front.x)[0], mean_of(runs, front.y)[0]
