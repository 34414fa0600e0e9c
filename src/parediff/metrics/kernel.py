"""Kernel distance between generated images and a reference set (Bińkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from parediff.metrics import clean
from parediff.metrics.base import Metric
from parediff.metrics.extractors import Extractor
from parediff.metrics.reference import Reference
from parediff.metrics.statistics import Reservoir
from parediff.validation import check_types, require


@dataclass(eq=False)
class KernelDistance(Metric[Reservoir]):
    """Unbiased at any number of images, where the Fréchet distance is not; keeps a bounded sample of the features."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "kernel distance"

    extractor: Extractor
    reference: Reference
    subsets: int
    subset_size: int
    capacity: int  # features kept of each set; all of them, up to here
    seed: int  # of the subsets and of the sample that is kept

    def __post_init__(self) -> None:
        check_types(self)
        require(self.subsets >= 1, "subsets", self.subsets, "1 or more")
        require(self.subset_size >= 2, "subset_size", self.subset_size, "2 or more")
        require(
            self.capacity >= self.subset_size, "capacity", self.capacity, f"subset_size ({self.subset_size}) or more"
        )
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        super().__post_init__()

    def reset(self) -> None:
        super().reset()
        self._random = np.random.default_rng(self.seed)

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        self.extractor.check(image_shape)

    @cached_property
    def target(self) -> Reservoir:
        """A sample of the reference set's features, taken once."""
        random = np.random.default_rng([self.seed, 1])
        return self.reference.reduce(self.extractor, lambda features: self._sample(features, random))

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Reservoir:
        return self._sample(self.extractor.features(batch).numpy(), self._random)

    def value(self, statistic: Reservoir) -> float | None:
        """None for a single image: the unbiased estimate compares pairs."""
        if len(statistic.features) < 2:
            return None
        features, target = statistic.features, self.target.features
        return clean.kernel(features, target, subsets=self.subsets, subset_size=self.subset_size, seed=self.seed)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "extractor": self.extractor.fingerprint(),
            "reference": self.reference.fingerprint(),
            "subsets": self.subsets,
            "subset_size": self.subset_size,
            "capacity": self.capacity,
            "seed": self.seed,
        }

    def _sample(self, features: Any, random: np.random.Generator) -> Reservoir:
        return Reservoir.of(features, random.random(len(features)), self.capacity)
