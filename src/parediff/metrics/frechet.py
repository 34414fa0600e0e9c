"""Fréchet distance between generated images and a reference set (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor

from parediff.metrics import clean
from parediff.metrics.base import Metric
from parediff.metrics.extractors import Extractor
from parediff.metrics.reference import Reference
from parediff.metrics.statistics import Moments


@dataclass(eq=False)
class FrechetDistance(Metric[Moments]):
    """Between Gaussians fitted to the features of both sets; the extractor decides which Fréchet distance it is."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "Fréchet distance"

    extractor: Extractor
    reference: Reference

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        self.extractor.check(image_shape)

    @cached_property
    def target(self) -> Moments:
        """Moments of the reference set, computed once."""
        return self.reference.reduce(self.extractor, Moments.of)

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Moments:
        return Moments.of(self.extractor.features(batch).numpy())

    def value(self, statistic: Moments) -> float | None:
        """None for a single image, which has no covariance."""
        return clean.frechet(statistic, self.target) if statistic.count > 1 else None

    def fingerprint(self) -> dict[str, Any]:
        return {"extractor": self.extractor.fingerprint(), "reference": self.reference.fingerprint()}
