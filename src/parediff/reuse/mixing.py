"""Score mixing: the weight of the network's prediction against the keyframe's held one, as sampling goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from parediff.validation import Positive, check_types

Shape = Literal["hard", "sigmoid", "linear", "const", "off"]
Temperature = Annotated[Positive, "steepness of the mixing"]
Bias = Annotated[float, "share of the steps at which the mixing is half"]
NOTHING = 1e-10
"""A weight below this is a jump: the network is not called."""


@dataclass(frozen=True)
class Mixing:
    """lambda(r) in [0, 1] with r = step / steps, temperature tau and bias b (FRDiff, arXiv 2312.03517, released code).

    hard: clip((tau (r - b) + 2) / 4), the tangent of sigmoid: 1 / (1 + exp(-tau (r - b))); linear: clip(r - b + 1/2);
    const: clip(b), so that b = 0 skips steps; off: 1, feature reuse alone.
    """

    shape: Shape
    temperature: Temperature
    bias: Bias

    def __post_init__(self) -> None:
        check_types(self)

    def __call__(self, ratio: float) -> float:
        """The weight at r; 0 is a jump, 1 is feature reuse alone."""
        weight = min(1.0, max(0.0, self._raw(ratio)))
        return 0.0 if weight < NOTHING else weight

    def _raw(self, ratio: float) -> float:
        slope = self.temperature * (ratio - self.bias)
        formulas = {
            "hard": lambda: (slope + 2) / 4,
            "sigmoid": lambda: 1 / (1 + math.exp(min(700.0, -slope))),
            "linear": lambda: ratio - self.bias + 0.5,
            "const": lambda: self.bias,
            "off": lambda: 1.0,
        }
        return formulas[self.shape]()
