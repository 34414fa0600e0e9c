"""The Fréchet distance of endlessly many images, extrapolated (Chong & Forsyth 2020, arXiv 1911.07023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from parediff.metrics.distance import Distance
from parediff.metrics.gaussians import Anchor
from parediff.metrics.statistics import Moments, Reservoir
from parediff.validation import Range, Seed, Several


@dataclass(eq=False)
class FrechetInfinity(Distance[Reservoir]):
    """The distance is biased by about c/N: its line over 1/N, at `sizes` random subsets, is read at 1/N = 0 (eq. 6).

    The smallest subset is a `smallest` share of the images; at most `capacity` features are kept.
    """

    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "Fréchet distance, extrapolated to endlessly many images"
    generic: ClassVar[str] = "fd_infinity"

    sizes: Several
    smallest: Annotated[float, Range(above=0, below=1)]
    capacity: Annotated[int, Range(4), "features kept; all of them, up to here"]
    seed: Annotated[Seed, "of the sample that is kept"]

    def reset(self) -> None:
        super().reset()
        self._random = np.random.default_rng(self.seed)

    @cached_property
    def target(self) -> Anchor:
        """Moments of the reference set, computed once."""
        return Anchor(self.reference.moments(self.extractor))

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Reservoir:
        features = self.extractor.rows(batch)
        return Reservoir.of(features, self._random.random(len(features)), self.capacity)

    def value(self, statistic: Reservoir) -> float | None:
        """None below four images, too few for a line."""
        features = statistic.features
        if len(features) < 4:
            return None
        random = np.random.default_rng([self.seed, len(features)])
        least = max(2, round(self.smallest * len(features)))
        counts = np.unique(np.linspace(least, len(features), self.sizes).round().astype(int))
        subsets = (features[random.choice(len(features), count, replace=False)] for count in counts)
        distances = [self.target.distance(Moments.of(subset)) for subset in subsets]
        return intercept(1 / counts, np.asarray(distances))

    def fingerprint(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("sizes", "smallest", "capacity", "seed")}
        return own | self.compared()


def intercept(x: Any, y: Any) -> float:
    """Of the least-squares line through the points (x, y), at x = 0."""
    if len(x) == 1:
        return float(y[0])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return float(y.mean() - slope * x.mean())
