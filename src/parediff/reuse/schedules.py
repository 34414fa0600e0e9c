"""Which steps run in full: sets of step indices, 0 = noisiest, that always contain 0."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from parediff.errors import RequestError
from parediff.validation import Count, Positive, Whole, check_types, require

Keyframes = Literal["uniform", "clustered", "measured"] | tuple[Whole, ...]
Interval = Annotated[Count, "steps from one keyframe to the next"]
Center = Annotated[Whole, "the step around which clustered keyframes are densest"]
Power = Annotated[Positive, "of clustered keyframes: how dense they are there"]
FirstFull = Annotated[Whole, "full steps at the start"]
LastFull = Annotated[Whole, "full steps at the end"]


@dataclass(frozen=True)
class Schedule:
    """Keyframes every `interval` steps, clustered around step `center` with `power`, or listed; ends can be kept full.

    The first `first_full` and the last `last_full` steps are keyframes whatever the rest says. `measured` ones start
    from evenly spread ones (`parediff.reuse.measured`).
    """

    keyframes: Keyframes
    interval: Interval
    center: Center
    power: Power
    first_full: FirstFull
    last_full: LastFull

    def __post_init__(self) -> None:
        check_types(self)
        if isinstance(self.keyframes, tuple):
            check_keyframes(self.keyframes)

    def over(self, steps: int) -> frozenset[int]:
        """The keyframes of a run of `steps` executed steps."""
        return self.ends(steps) | self._chosen(steps)

    def ends(self, steps: int) -> frozenset[int]:
        """Those that are keyframes whatever the rest says."""
        return frozenset({*range(min(self.first_full, steps)), *range(max(0, steps - self.last_full), steps)})

    def _chosen(self, steps: int) -> set[int]:
        if isinstance(self.keyframes, tuple):
            return set(check_keyframes(self.keyframes, steps))
        if self.keyframes == "clustered":
            return set(clustered(steps, self.interval, self.center, self.power))
        return set(uniform(steps, self.interval))


def uniform(steps: int, interval: int) -> list[int]:
    """0, M, 2M, ...: ceil(T / M) of them."""
    return list(range(0, steps, interval))


def check_keyframes(keyframes: Iterable[int], steps: int | None = None) -> tuple[int, ...]:
    """The same indices, once they are known to contain 0 and to lie in a run of `steps`."""
    chosen = tuple(keyframes)
    require(0 in chosen, "keyframes", list(chosen), "a list of step indices that contains 0")
    require(min(chosen) >= 0, "keyframes", list(chosen), "a list of step indices from 0 on")
    if steps is not None:
        require(max(chosen) < steps, "keyframes", list(chosen), f"step indices below the {steps} steps of the run")
    return chosen


def clustered(steps: int, interval: int, center: int, power: float) -> list[int]:
    """DeepCache's 1:N schedule (arXiv 2312.00858, appendix): k = ceil(T / N) keyframes, dense around `center`.

    Evenly spaced points between (-c)^(1/p) and (T-c)^(1/p), raised to p. As in its released code (-c)^(1/p) is a
    complex number whose path is followed before the real part is taken. Where truncation makes points fall together,
    p is lowered by 0.02 until they do not.
    """
    count = math.ceil(steps / interval)
    require(0 <= center < steps, "center", center, f"a step of the run, 0 to {steps - 1}")
    for lowered in range(round(power / 0.02)):
        chosen = _spread(steps, count, center, power - 0.02 * lowered)
        if len(chosen) == count and chosen[0] == 0 and chosen[-1] < steps:
            return chosen
    raise RequestError("power", power, f"a power that spreads {count} keyframes over {steps} steps around {center}")


def _spread(steps: int, count: int, center: int, power: float) -> list[int]:
    first, last = complex(-center) ** (1 / power), complex(steps - center) ** (1 / power)
    inner = (first + (last - first) * i / count for i in range(1, count))
    return sorted({0, *(int((point**power).real) + center for point in inner)})
