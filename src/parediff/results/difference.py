"""How much one number differs from another, with the error of the difference; of a run, from its own baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parediff.results.jackknife import jackknife_error
from parediff.results.number import number, numbers
from parediff.results.record import Record


@dataclass(frozen=True)
class Difference:
    """A difference with its standard error (None where unknown).

    `pairs` counts equal seeds, or equal seed blocks of single runs; 0 where unpaired.
    """

    value: float
    stderr: float | None
    pairs: int

    def verdict(self, better: str) -> Literal["better", "worse", "unclear"]:
        """Of what was subtracted from: beyond two standard errors, or unclear."""
        if self.stderr is None or abs(self.value) <= 2 * self.stderr:
            return "unclear"
        return "better" if (self.value < 0) == (better == "lower") else "worse"


def from_baseline(record: Record, name: str) -> Difference | None:
    """A quality of the run less that of the uncompressed model under the same seeds; None where either has none."""
    base = record.baseline
    before, after = number(_part(base, "quality").get(name)), number(record.quality.get(name))
    if before is None or after is None:
        return None
    left, right = numbers(_part(base, "left_out").get(name)), numbers(record.left_out.get(name))
    return Difference(after - before, *paired([(-1.0, left), (1.0, right)]))


def paired(terms: Sequence[tuple[float, Sequence[float]]]) -> tuple[float | None, int]:
    """Standard error of a weighted sum, each term given without one block in turn, and how many blocks there are.

    (None, 0) where the blocks do not pair up.
    """
    count = len(terms[0][1])
    if count < 2 or any(len(values) != count for _, values in terms):
        return None, 0
    without = [sum(weight * values[block] for weight, values in terms) for block in range(count)]
    return jackknife_error(without), count


def _part(baseline: dict[str, object], key: str) -> dict[str, object]:
    found = baseline.get(key)
    return found if isinstance(found, dict) else {}
