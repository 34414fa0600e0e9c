"""Inception score (Salimans et al. 2016, arXiv 1606.03498)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import Tensor

from parediff.metrics.base import Metric
from parediff.metrics.extractors import check_within
from parediff.metrics.inception import Inception
from parediff.metrics.statistics import Array
from parediff.models.finite import require_finite


@dataclass(frozen=True)
class Predictions:
    """Sums over images: of class probabilities [K], and of their negative entropies sum p log p."""

    count: int
    probabilities: Array
    log_likelihood: float

    @classmethod
    def of(cls, probabilities: Array) -> Self:
        """Of probabilities [N, K]."""
        p = np.asarray(probabilities, dtype=np.float64)
        return cls(len(p), p.sum(0), float(_entropies(p).sum()))

    def merge(self, other: Self) -> Self:
        return type(self)(
            self.count + other.count,
            self.probabilities + other.probabilities,
            self.log_likelihood + other.log_likelihood,
        )


def _entropies(p: Array) -> Array:
    """p log p, 0 where p is 0."""
    return p * np.log(np.where(p > 0, p, 1.0))


@dataclass(eq=False)
class InceptionScore(Metric[Predictions]):
    """exp(mean over images of KL(p(y|x) || p(y))), p(y) over all images: one split, whose bias shrinks as 1/N.

    The sums stream, where torchmetrics keeps every image's classes.
    """

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    meaning: ClassVar[str] = "Inception score"

    extractor: Inception

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        check_within(self.extractor, image_shape)

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Predictions:
        found = require_finite(self.extractor.probabilities(batch), "class probabilities of inception")
        return Predictions.of(found.double().numpy())

    def value(self, statistic: Predictions) -> float:
        """exp(E[sum p log p] - sum p̄ log p̄)."""
        marginal = statistic.probabilities / statistic.count
        return math.exp(statistic.log_likelihood / statistic.count - float(_entropies(marginal).sum()))

    def fingerprint(self) -> dict[str, Any]:
        return {"extractor": self.extractor.fingerprint(), "splits": 1}
