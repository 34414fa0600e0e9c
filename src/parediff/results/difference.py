"""How two ways of sampling differ in a number: over pairs of equal seeds or seed blocks, else independently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parediff.results.axes import Axis, number
from parediff.results.jackknife import jackknife_error
from parediff.results.points import mean_of
from parediff.results.record import Record


@dataclass(frozen=True)
class Difference:
    """`second - first` with its standard error (None where unknown).

    `pairs` counts equal seeds, or equal seed blocks of two single runs; 0 where unpaired.
    """

    value: float
    stderr: float | None
    pairs: int

    def verdict(self, better: str) -> Literal["better", "worse", "unclear"]:
        """Of the second against the first: beyond two standard errors, or unclear."""
        if self.stderr is None or abs(self.value) <= 2 * self.stderr:
            return "unclear"
        return "better" if (self.value < 0) == (better == "lower") else "worse"


def difference(first: Sequence[Record], second: Sequence[Record], axis: Axis) -> Difference | None:
    """Between the runs of two points. Seeds in common make it paired; None where a side has no value.

    Two runs of one seed set are paired block by block: what both share cancels, in the value and in its error.
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
    if len(common) == 1 and len(left) == len(right) == 1:
        by_block = _by_blocks(first[0], second[0], axis)
        if by_block is not None:
            return by_block
    (before, before_error), (after, after_error) = mean_of(first, axis), mean_of(second, axis)
    known = [error for error in (before_error, after_error) if error is not None]
    return Difference(after - before, math.hypot(*known) if len(known) == 2 else None, 0)


def from_baseline(record: Record, name: str) -> Difference | None:
    """A quality of the run less that of the uncompressed model under the same seeds; None where either has none."""
    base = record.baseline
    before, after = number(base.get("quality", {}).get(name)), number(record.quality.get(name))
    if before is None or after is None:
        return None
    left, right = base.get("left_out", {}).get(name, []), record.left_out.get(name, [])
    return Difference(after - before, _paired_error(left, right), len(left) if len(left) == len(right) else 0)


def _by_blocks(first: Record, second: Record, axis: Axis) -> Difference | None:
    """None unless both runs have as many seed blocks of as many images."""
    before, after = axis.value(first), axis.value(second)
    left, right = first.left_out.get(axis.name, []), second.left_out.get(axis.name, [])
    error = _paired_error(left, right) if first.workload.get("count") == second.workload.get("count") else None
    if before is None or after is None or error is None:
        return None
    return Difference(after - before, error, len(left))


def _paired_error(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Of `right - left`, each without one block in turn; None where the blocks do not pair up."""
    if not left or len(left) != len(right):
        return None
    return jackknife_error([after - before for before, after in zip(left, right, strict=True)])


def _by_seed(runs: Sequence[Record], axis: Axis) -> dict[tuple[object, object], float]:
    values = {(run.workload.get("first_seed"), run.config.get("seed")): axis.value(run) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}
