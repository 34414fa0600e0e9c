"""Whole widths that keep a budget, taken from or given to whatever minds least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from parediff.quantization.budget import TOLERANCE, Budget, Constraint
from parediff.quantization.noise import NoiseQuantizer

Sensitivity = Mapping[NoiseQuantizer, float]
"""How much the network's output changes when a quantiser's present width falls by one bit."""

COMBINATIONS = 2**15
"""Of widths, up to which every one is tried."""


@torch.no_grad()
def sensitivity(quantizers: Sequence[NoiseQuantizer], outputs: Callable[[], Tensor]) -> dict[NoiseQuantizer, float]:
    """Mean squared change of `outputs()`, the rounding network's on one batch, quantiser by quantiser."""
    before, found = outputs(), {}
    for quantizer in quantizers:
        held, bits = int(quantizer.fixed), quantizer.bits
        quantizer.fix(max(2, bits - 1))
        change = float((outputs() - before).float().square().mean())
        quantizer.fix(held)
        found[quantizer] = change if bits > 2 else float("inf")
    return found


def project(constraint: Constraint, minds: Sensitivity) -> None:
    """Hold every learned width where the constraint is met as nearly as widths allow, without spending more.

    The error of a width is taken to fall by 4 with every bit. Of few quantisers every combination is tried, and the
    nearest one holds even if it is farther below than the tolerance. Of many, widths that spend too much lose the bits
    that matter least for what they cost, what is left is given where it helps most, and where that misses, widths are
    exchanged.
    """
    allocation = _Allocation(constraint, minds)
    few, start = allocation.few, list(allocation.start)
    widths = allocation.exhaustive() if few else allocation.exchanged(allocation.balanced(start))
    for quantizer, bits in zip(constraint.quantizers, widths, strict=True):
        quantizer.fix(bits)
    if not (few and constraint.now <= constraint.target):
        constraint.check()


@torch.no_grad()
def allocate(network: nn.Module, budget: Budget, outputs: Callable[[], Tensor]) -> None:
    """Hold every learned width of an evaluated network where it keeps the budget."""
    constraints, training = budget.constraints(), network.training
    network.eval()
    minds = sensitivity([one for constraint in constraints for one in constraint.quantizers], outputs)
    for constraint in constraints:
        project(constraint, minds)
    network.train(training)


class _Allocation:
    def __init__(self, constraint: Constraint, minds: Sensitivity) -> None:
        self.constraint, self.start = constraint, tuple(quantizer.bits for quantizer in constraint.quantizers)
        self.ranges = [range(one.range.low, one.range.high + 1) for one in constraint.quantizers]
        known = [minds[quantizer] for quantizer in constraint.quantizers]
        finite = [value for value in known if value != float("inf")]
        least, most = 1e-6 * max(finite, default=1.0) + 1e-30, max(finite, default=1.0)
        self.change = [max(value if value != float("inf") else 4 * most, least) for value in known]

    @property
    def few(self) -> bool:
        """Whether every combination of widths can be tried."""
        return math.prod(len(one) for one in self.ranges) <= COMBINATIONS

    def balanced(self, widths: list[int], held: int | None = None) -> list[int]:
        """Bits taken until the widths spend no more than the target, then given while they do; one width is held."""
        spent, target = self.constraint.spent, self.constraint.target
        while spent(widths) > target and (lower := self._best(widths, -1, held)) is not None:
            widths = lower
        while (higher := self._best(widths, 1, held)) is not None:
            widths = higher
        return widths

    def exhaustive(self) -> list[int]:
        """The preferred one of all combinations; the smallest widths where all spend too much."""
        return self._preferred([list(widths) for widths in itertools.product(*self.ranges)])

    def exchanged(self, widths: list[int]) -> list[int]:
        """One width moved and the others balanced around it, as long as that comes nearer to the target."""
        spent = self.constraint.spent
        while spent(widths) < self.constraint.target * (1 - TOLERANCE):
            moved = [(place, self._moved(widths, place, by)) for place in range(len(widths)) for by in (1, -1)]
            nearer = self._preferred([widths, *(self.balanced(one, place) for place, one in moved if one is not None)])
            if spent(nearer) <= spent(widths):
                break
            widths = nearer
        return widths

    def _preferred(self, candidates: list[list[int]]) -> list[int]:
        """Within the tolerance the one of least error, else the nearest below the target, else the first."""
        target, found = self.constraint.target, []
        for widths in candidates:
            spent = self.constraint.spent(widths)
            if spent <= target:
                error = sum(self._error(place, bits) for place, bits in enumerate(widths))
                found.append((min(spent, target * (1 - TOLERANCE)), -error, widths))
        return max(found)[2] if found else candidates[0]

    def _moved(self, widths: list[int], place: int, by: int) -> list[int] | None:
        """The widths with one changed, where its range allows that."""
        bits = widths[place] + by
        return [*widths[:place], bits, *widths[place + 1 :]] if bits in self.ranges[place] else None

    def _error(self, place: int, bits: int) -> float:
        """What the last of `bits` bits is worth: its measured worth at the start, a quarter with every further bit."""
        return self.change[place] * 4.0 ** (self.start[place] - bits)

    def _best(self, widths: list[int], by: int, held: int | None) -> list[int] | None:
        """The bit whose worth is least for what it saves taken, or the one worth most for what it costs given."""
        spent, found = self.constraint.spent(widths), None
        for place in range(len(widths)):
            moved = None if place == held else self._moved(widths, place, by)
            after = spent if moved is None else self.constraint.spent(moved)
            if moved is None or (by > 0 and after > self.constraint.target):
                continue
            value = by * self._error(place, max(widths[place], moved[place])) / max(abs(after - spent), 1e-12)
            found = (value, moved) if found is None or value > found[0] else found
        return None if found is None else found[1]
