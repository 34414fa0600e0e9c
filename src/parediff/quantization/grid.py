"""The integer grid a tensor is rounded to: one object for search, forward and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from parediff.errors import RequestError

Kind = Literal["symmetric", "symmetric_negative", "narrow", "unsigned", "shifted", "shifted_narrow", "affine"]

SILU_MINIMUM = -0.278464543
"""min of x * sigmoid(x), at x = -1.278465."""

SMALLEST_STEP = 1e-8
"""Steps are never smaller: a constant tensor would otherwise divide by zero."""

IDENTITY_BITS = 32

_BOUNDS: dict[str, Callable[[int], tuple[int, int]]] = {
    "symmetric": lambda bits: (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1),
    "symmetric_negative": lambda bits: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
    "narrow": lambda bits: (1 - (2**bits - 1) // 2, (2**bits - 1) // 2 - 1),
    "unsigned": lambda bits: (0, 2**bits - 1),
    "shifted": lambda bits: (0, 2**bits - 1),
    "shifted_narrow": lambda bits: (0, 2**bits - 2),
    "affine": lambda bits: (0, 2**bits - 1),
}


@dataclass(frozen=True)
class Grid:
    """Integer codes low..high; the value of a code is step * (code - zero_point) + offset.

    symmetric is -Q..Q with Q = 2^(b-1) - 1, symmetric_negative adds -Q-1, narrow is TDQ's -N..N with
    N = floor((2^b - 1) / 2) - 1; unsigned and affine are 0..2^b - 1; the shifted grids start at SiLU's minimum, and
    shifted_narrow (TDQ's) ends one code earlier. Only affine has a zero point. 32 bits: no grid, every value passes.
    """

    bits: int
    kind: Kind = "symmetric"

    def __post_init__(self) -> None:
        if self.kind not in _BOUNDS:
            raise RequestError("kind", self.kind, f"one of {', '.join(get_args(Kind))} is accepted")
        smallest = 3 if self.kind == "narrow" else 2
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not smallest <= self.bits <= IDENTITY_BITS:
            raise RequestError("bits", self.bits, f"a whole number from {smallest} to {IDENTITY_BITS} is accepted")

    @property
    def identity(self) -> bool:
        return self.bits >= IDENTITY_BITS

    @property
    def low(self) -> int:
        return _BOUNDS[self.kind](self.bits)[0]

    @property
    def high(self) -> int:
        return _BOUNDS[self.kind](self.bits)[1]

    @property
    def levels(self) -> int:
        """How many values there are."""
        return self.high - self.low + 1

    @property
    def offset(self) -> float:
        """The value of code zero where it is not 0."""
        return SILU_MINIMUM if self.kind.startswith("shifted") else 0.0

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def has_zero_point(self) -> bool:
        return self.kind == "affine"

    def fit(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor | None]:
        """(step, integer zero point or None) that make the grid span [low, high]; any shape, float32.

        An affine range is widened to contain 0, so that padding and dead channels stay exact.
        """
        if self.has_zero_point:
            low, high = low.clamp(max=0), high.clamp(min=0)
            step = ((high - low) / self.high).clamp_min(SMALLEST_STEP)
            return step, (-low / step).round().clamp(self.low, self.high)
        reach = torch.maximum(low.abs(), high.abs()) if self.signed else high - self.offset
        return (reach / self.high).clamp_min(SMALLEST_STEP), None

    def span(self, step: Tensor, zero_point: Tensor | None) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value on the grid: (code - zero_point) * step + offset at both ends."""
        zero = torch.zeros_like(step) if zero_point is None else zero_point
        return (self.low - zero) * step + self.offset, (self.high - zero) * step + self.offset
