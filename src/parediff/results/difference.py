"""How two ways of sampling differ in a number: over pairs of equal seeds where there are some, else independently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parediff.results.axes import Axis
from parediff.results.points import mean_of
from parediff.results.record import Record


@dataclass(frozen=True)
class Difference:
    """`second - first` with its standard error (None where unknown); `pairs` counts equal seeds, 0 where unpaired."""

    value: float
    stderr: float | None
    pairs: int

    def verdict(self, better: str) -> Literal["better", "worse", "unclear"]:
        """Of the second against the first: beyond two standard errors, or unclear."""
        if self.stderr is None or abs(self.value) <= 2 * self.stderr:
            return "unclear"
        return "better" if (self.value < 0) == (better == "lower") else "worse"


def difference(first: Sequence[Record], second: Sequence[Record], axis: Axis) -> Difference | None:
    """Between the runs of two points. Two or more seeds in common make it paired; None where a side has no value.

    Unpaired errors are added as independent ones, which is too wide for runs that share their seeds.
    """
    left, right = _by_seed(first, axis), _by_seed(second, axis)
    common = [seed for seed in left if seed in right]
    if len(common) > 1:
        own = [right[seed] - left[seed] for seed in common]
        mean = math.fsum(own) / len(own)
        spread = math.fsum((value - mean) ** 2 for value in own) / (len(own) - 1)
        return Difference(mean, math.sqrt(spread / len(own)), len(own))
    if not left or not right:
        return None
    (before, before_error), (after, after_error) = mean_of(first, axis), mean_of(second, axis)
    known = [error for error in (before_error, after_error) if error is not None]
    return Difference(after - before, math.hypot(*known) if len(known) == 2 else None, 0)


def _by_seed(runs: Sequence[Record], axis: Axis) -> dict[tuple[object, object], float]:
    values = {(run.workload.get("first_seed"), run.config.get("seed")): axis.value(run) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}
