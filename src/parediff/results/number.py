"""What counts as a number of a record."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number beyond any float
        return None
    return found if math.isfinite(found) else None


def numbers(values: Any) -> list[float]:
    """A list of finite numbers; empty where one of them is none."""
    found = [number(value) for value in values] if isinstance(values, list) else []
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []
