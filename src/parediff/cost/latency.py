"""Seconds of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from parediff.cost.base import PairedCost
from parediff.cost.timing import paired_latency


@dataclass(frozen=True)
class PairedSeconds(PairedCost):
    """Medians of alternating pairs after a warm-up, with the interquartile range as spread and a check of drift."""

    symbol: ClassVar[str] = "s"
    meaning: ClassVar[str] = "time per image"

    def compare(
        self, reference: Callable[[], object], candidate: Callable[[], object], images: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        pairs = paired_latency(reference, candidate, repeats=self.repeats, warmup=self.warmup)
        shared = {"latency_batch": images, "latency_drift": pairs.drift}
        return (
            {"latency_s": pairs.first_s / images, "latency_spread_s": pairs.first_spread_s / images} | shared,
            {"latency_s": pairs.second_s / images, "latency_spread_s": pairs.second_spread_s / images} | shared,
        )
