"""Seconds of two things measured side by side, so that the machine's moods hit both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from parediff.errors import RequestError


@dataclass(frozen=True)
class Latency:
    """Medians over the pairs, interquartile ranges as spread, `ratio` = second ÷ first pair by pair.

    `drift` is the larger of the two relative changes of the median from the first to the second half of the pairs.
    """

    first_s: float
    second_s: float
    first_spread_s: float
    second_spread_s: float
    ratio: float
    ratio_spread: float
    drift: float


def paired_latency(
    first: Callable[[], object],
    second: Callable[[], object],
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Times `repeats` pairs after `warmup` untimed ones; every other pair runs in reverse order."""
    if repeats < 2:
        raise RequestError("repeats", repeats, "at least 2 pairs, for a spread and a drift check")
    for _ in range(warmup):
        first(), second()
    firsts: list[float] = []
    seconds: list[float] = []
    for pair in range(repeats):
        order = [(first, firsts), (second, seconds)]
        for work, times in order if pair % 2 == 0 else reversed(order):
            times.append(_seconds(work, clock))
    return _summarise(firsts, seconds)


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    _synchronise()
    start = clock()
    work()
    _synchronise()
    return clock() - start


def _synchronise() -> None:
    """Waits for kernels still in flight; where CUDA was never used there are none."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _summarise(firsts: Sequence[float], seconds: Sequence[float]) -> Latency:
    ratios = [b / a for a, b in zip(firsts, seconds, strict=True)]
    median = statistics.median
    return Latency(
        first_s=median(firsts),
        second_s=median(seconds),
        first_spread_s=_interquartile_range(firsts),
        second_spread_s=_interquartile_range(seconds),
        ratio=median(ratios),
        ratio_spread=_interquartile_range(ratios),
        drift=max(_drift(firsts), _drift(seconds)),
    )


def _interquartile_range(values: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _drift(values: Sequence[float]) -> float:
    half = len(values) // 2
    return abs(statistics.median(values[-half:]) / statistics.median(values[:half]) - 1)
