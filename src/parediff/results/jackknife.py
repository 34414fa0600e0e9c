"""Standard errors by leaving out one block of seeds at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def jackknife_error(left_out: Sequence[float]) -> float:
    """sqrt((B-1)/B sum_b (v_b - mean v)^2), v_b without block b (Efron & Stein 1981); for a mean it is std/sqrt(B)."""
    count = len(left_out)
    mean = math.fsum(left_out) / count
    return math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in left_out))
