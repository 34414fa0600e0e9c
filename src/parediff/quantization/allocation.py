"""Whole widths that keep a budget, taken from or given to whatever minds least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from parediff.quantization.budget import TOLERANCE, Budget, Constraint
from parediff.quantization.noise import NoiseQuantizer

Sensitivity = Mapping[NoiseQuantizer, float]
"""How much the network's output changes when a quantiser's present width falls by one bit."""


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

    The error of a width is taken to fall by 4 with every bit. Widths that spend too much lose the bits that matter
    least for what they cost; what is left is given where it helps most; pairs are exchanged where that still misses.
    """
    widths = [quantizer.bits for quantizer in constraint.quantizers]
    allocation = _Allocation(constraint, minds, tuple(widths))
    while constraint.spent(widths) > constraint.target and (choice := allocation.down(widths)) is not None:
        widths[choice] -= 1
    while (choice := allocation.up(widths)) is not None:
        widths[choice] += 1
    if constraint.spent(widths) < constraint.target * (1 - TOLERANCE):
        allocation.exchange(widths)
    for quantizer, bits in zip(constraint.quantizers, widths, strict=True):
        quantizer.fix(bits)
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
    def __init__(self, constraint: Constraint, minds: Sensitivity, start: tuple[int, ...]) -> None:
        self.constraint, self.start = constraint, start
        known = [minds[quantizer] for quantizer in constraint.quantizers]
        finite = [value for value in known if value != float("inf")]
        least, most = 1e-6 * max(finite, default=1.0) + 1e-30, max(finite, default=1.0)
        self.change = [max(value if value != float("inf") else 4 * most, least) for value in known]

    def _moved(self, widths: Sequence[int], place: int, by: int) -> list[int] | None:
        """The widths with one changed, where its range allows that."""
        bits, limits = widths[place] + by, self.constraint.quantizers[place].range
        return [*widths[:place], bits, *widths[place + 1 :]] if limits.low <= bits <= limits.high else None

    def _error(self, place: int, bits: int) -> float:
        """What the last of `bits` bits is worth: its measured worth at the start, a quarter with every further bit."""
        return self.change[place] * 4.0 ** (self.start[place] - bits)

    def down(self, widths: Sequence[int]) -> int | None:
        return self._best(widths, -1, lambda place, saved: -self._error(place, widths[place]) / saved)

    def up(self, widths: Sequence[int]) -> int | None:
        return self._best(widths, 1, lambda place, cost: self._error(place, widths[place] + 1) / cost)

    def _best(self, widths: Sequence[int], by: int, worth: Callable[[int, float], float]) -> int | None:
        spent, found = self.constraint.spent(widths), None
        for place in range(len(widths)):
            moved = self._moved(widths, place, by)
            after = None if moved is None else self.constraint.spent(moved)
            if after is None or (by > 0 and after > self.constraint.target):
                continue
            value = worth(place, max(abs(after - spent), 1e-12))
            found = (value, place) if found is None or value > found[0] else found
        return None if found is None else found[1]

    def exchange(self, widths: list[int]) -> None:
        """Raise one width and lower another, whichever pair comes nearest to the target from below."""
        best, spent = list(widths), self.constraint.spent(widths)
        for up in range(len(widths)):
            raised = self._moved(widths, up, 1)
            for down in range(len(widths)) if raised is not None else ():
                pair = None if down == up or raised is None else self._moved(raised, down, -1)
                after = 0.0 if pair is None else self.constraint.spent(pair)
                if pair is not None and spent < after <= self.constraint.target:
                    best, spent = pair, after
        widths[:] = best
