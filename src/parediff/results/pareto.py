"""Dominance and hypervolume for any number of objectives, each lower or higher is better."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
MARGIN = 0.1  # how far beyond the worst values the default reference point lies


def as_costs(point: Vector, better: Sequence[str]) -> tuple[float, ...]:
    """The point with every objective turned so that lower is better."""
    return tuple(value if way == "lower" else -value for value, way in zip(point, better, strict=True))


def dominates(left: Vector, right: Vector, better: Sequence[str]) -> bool:
    """Nowhere worse and somewhere better; equal points do not dominate one another."""
    a, b = as_costs(left, better), as_costs(right, better)
    return a != b and all(mine <= yours for mine, yours in zip(a, b, strict=True))


def non_dominated(points: Sequence[Vector], better: Sequence[str]) -> list[bool]:
    """For each point, whether no other dominates it: a sorted sweep, n log n, for two objectives."""
    if len(better) == 2:
        return _sweep([as_costs(point, better) for point in points])
    return [not any(dominates(other, point, better) for other in points) for point in points]


def _sweep(costs: Sequence[Vector]) -> list[bool]:
    """In order of the first cost, then the second: what is not below the best second cost so far is dominated."""
    kept = [False] * len(costs)
    best, at = math.inf, None
    for index in sorted(range(len(costs)), key=lambda place: tuple(costs[place])):
        if costs[index][1] < best or costs[index] == at:
            best, at, kept[index] = costs[index][1], costs[index], True
    return kept


def worst_reference(points: Sequence[Vector], better: Sequence[str]) -> tuple[float, ...]:
    """The worst value of every objective, a tenth of its size beyond: every point counts a little."""
    worst = (max(column) for column in zip(*(as_costs(point, better) for point in points), strict=True))
    return as_costs([value + MARGIN * abs(value) for value in worst], better)


def hypervolume(points: Sequence[Vector], better: Sequence[str], reference: Vector) -> float:
    """Volume that the points dominate up to the reference point, in the product of the objectives' units; exact."""
    bound = as_costs(reference, better)
    costs = [as_costs(point, better) for point in points]
    inside = [cost for cost in costs if all(value < limit for value, limit in zip(cost, bound, strict=True))]
    return _volume(inside, bound)


def _volume(costs: list[tuple[float, ...]], bound: tuple[float, ...]) -> float:
    """Slices along the last objective; in each, the volume of what is already as good there."""
    if not costs:
        return 0.0
    if len(bound) == 1:
        return bound[0] - min(cost[0] for cost in costs)
    if len(bound) == 2:
        return _area(costs, bound)
    ordered = sorted(costs, key=lambda cost: cost[-1])
    ends = [*(cost[-1] for cost in ordered[1:]), bound[-1]]
    total = 0.0
    for index, (cost, end) in enumerate(zip(ordered, ends, strict=True)):
        total += (end - cost[-1]) * _volume([other[:-1] for other in ordered[: index + 1]], bound[:-1])
    return total


def _area(costs: list[tuple[float, ...]], bound: tuple[float, ...]) -> float:
    """Strips of the staircase, from its cheapest step to the bound."""
    stairs = sorted(cost for cost, kept in zip(costs, _sweep(costs), strict=True) if kept)
    ends = [*(step[0] for step in stairs[1:]), bound[0]]
    return math.fsum((end - step[0]) * (bound[1] - step[1]) for step, end in zip(stairs, ends, strict=True))
