"""Fréchet distance between generated images and a reference set (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from parediff.metrics.base import Metric
from parediff.metrics.distance import Distance
from parediff.metrics.extractors import Extractor, check_within
from parediff.metrics.gaussians import Anchor
from parediff.metrics.statistics import Moments


@dataclass(eq=False)
class FrechetDistance(Distance[Moments]):
    """Between Gaussians fitted to the features of both sets; the extractor decides which Fréchet distance it is."""

    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "Fréchet distance"
    generic: ClassVar[str] = "fd"

    @cached_property
    def target(self) -> Anchor:
        """Moments of the reference set, computed once."""
        return Anchor(self.reference.moments(self.extractor))

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Moments:
        return Moments.of(self.extractor.rows(batch))

    def value(self, statistic: Moments) -> float | None:
        """None for a single image, which has no covariance."""
        return self.target.distance(statistic) if statistic.count > 1 else None

    def remarks(self) -> list[str]:
        return few_images(self.total())

    def fingerprint(self) -> dict[str, Any]:
        return self.compared()


def few_images(statistic: Moments | None) -> list[str]:
    """Why a covariance of fewer images than features is no good estimate."""
    if statistic is None or statistic.count > len(statistic.mean):
        return []
    count, width = statistic.count, len(statistic.mean)
    return [f"{count} images for {width} features: the covariance is singular and the distance biased upwards"]


@dataclass(frozen=True)
class Both:
    """Moments of the candidate's images, and of the uncompressed model's."""

    own: Moments
    other: Moments

    def merge(self, other: Self) -> Self:
        return type(self)(self.own.merge(other.own), self.other.merge(other.other))


@dataclass(eq=False)
class FrechetToUncompressed(Metric[Both]):
    """To the uncompressed model's own samples of the same seeds: what compression moved, not what the model lacks."""

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "Fréchet distance to the uncompressed model's images"

    extractor: Extractor

    def named(self, key: str) -> str:
        return f"fd_{self.extractor.name}_uncompressed" if key == "fd_uncompressed" else key

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        check_within(self.extractor, image_shape)

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Both:
        if reference is None:
            raise ValueError("the uncompressed model's images are compared with; none were given")
        own = Moments.of(self.extractor.rows(batch))
        return Both(own, Moments.of(self.extractor.rows(reference)))

    def value(self, statistic: Both) -> float | None:
        return Anchor(statistic.other).distance(statistic.own) if statistic.own.count > 1 else None

    def remarks(self) -> list[str]:
        total = self.total()
        return few_images(None if total is None else total.own)

    def fingerprint(self) -> dict[str, Any]:
        return {"extractor": self.extractor.fingerprint()}
