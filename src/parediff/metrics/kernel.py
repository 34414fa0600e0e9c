"""Kernel distance between generated images and a reference set (Bińkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from parediff.metrics import clean
from parediff.metrics.distance import Distance
from parediff.metrics.statistics import Array, Reservoir
from parediff.validation import Count, Seed, Several, require


@dataclass(eq=False)
class KernelDistance(Distance[Reservoir]):
    """Unbiased at any number of images, where the Fréchet distance is not; keeps a bounded sample of the features."""

    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "kernel distance"
    generic: ClassVar[str] = "kd"

    subsets: Annotated[Count, "whose distances are averaged"]
    subset_size: Annotated[Several, "images of a subset"]
    capacity: Annotated[
        Several, "features kept of each set; all of them, up to here"
    ]  # features kept of each set; all of them, up to here
    seed: Annotated[
        Seed, "of the subsets, and of the sample that is kept"
    ]  # of the subsets and of the sample that is kept

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.capacity >= self.subset_size, "capacity", self.capacity, f"subset_size ({self.subset_size}) or more"
        )

    def reset(self) -> None:
        super().reset()
        self._random = np.random.default_rng(self.seed)

    @cached_property
    def target(self) -> Array:
        """A sample of the reference set's features, taken once."""
        return self.reference.sample(self.extractor, self.capacity, self.seed)

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Reservoir:
        features = self.extractor.rows(batch)
        return Reservoir.of(features, self._random.random(len(features)), self.capacity)

    def value(self, statistic: Reservoir) -> float | None:
        """None for a single image: the unbiased estimate compares pairs."""
        if len(statistic.features) < 2:
            return None
        own, real = statistic.features, self.target
        return clean.kernel(own, real, subsets=self.subsets, subset_size=self.subset_size, seed=self.seed)

    def fingerprint(self) -> dict[str, Any]:
        return {
            **self.compared(),
            "subsets": self.subsets,
            "subset_size": self.subset_size,
            "capacity": self.capacity,
            "seed": self.seed,
        }
