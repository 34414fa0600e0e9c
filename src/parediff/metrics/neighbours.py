"""How generated and real features lie among each other's nearest neighbours: fidelity and diversity apart.

Precision and recall: Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2. Density and coverage: Naeem et al. 2020,
arXiv 2002.09797, eq. 3 and 4. Neighbours are found in float64 among at most `capacity` features of each set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from parediff.metrics.distance import Distance
from parediff.metrics.statistics import Array, Reservoir
from parediff.validation import Count, Seed, Several, require

ROWS = 512  # of a distance matrix held at a time


@dataclass(eq=False)
class Neighbourhood(Distance[Reservoir], ABC):
    """One number about balls that reach from each feature to its `neighbours`-th nearest of its own set."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    neighbours: Annotated[Count, "k of the k-nearest-neighbour balls"]
    capacity: Annotated[Several, "features kept of each set; all of them, up to here"]
    seed: Annotated[Seed, "of the sample that is kept"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.capacity > self.neighbours, "capacity", self.capacity, "more than the neighbours")

    def reset(self) -> None:
        super().reset()
        self._random = np.random.default_rng(self.seed)

    @cached_property
    def real(self) -> Array:
        """Features of the reference set."""
        return self.reference.sample(self.extractor, self.capacity, self.seed)

    @cached_property
    def real_radii(self) -> Array:
        return radii(self.real, self.neighbours)

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Reservoir:
        features = self.extractor.rows(batch)
        return Reservoir.of(features, self._random.random(len(features)), self.capacity)

    def value(self, statistic: Reservoir) -> float | None:
        """None where either set has too few images for that many neighbours."""
        if min(len(statistic.features), len(self.real)) <= self.neighbours:
            return None
        return self.share(statistic.features)

    @abstractmethod
    def share(self, made: Array) -> float:
        """The number, of generated features [N, D]."""

    def fingerprint(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("neighbours", "capacity", "seed")} | self.compared()


@dataclass(eq=False)
class Precision(Neighbourhood):
    """Share of generated images that lie in the ball of some real one: how many look real."""

    meaning: ClassVar[str] = "precision"

    def share(self, made: Array) -> float:
        return within(made, self.real, self.real_radii)


@dataclass(eq=False)
class Recall(Neighbourhood):
    """Share of real images that lie in the ball of some generated one: how much of the data is drawn."""

    meaning: ClassVar[str] = "recall"

    def share(self, made: Array) -> float:
        return within(self.real, made, radii(made, self.neighbours))


@dataclass(eq=False)
class Density(Neighbourhood):
    """Balls of real images that hold a generated one, on average, over `neighbours`; above 1 where real ones crowd."""

    meaning: ClassVar[str] = "density"

    def share(self, made: Array) -> float:
        counts = [(part <= self.real_radii).sum(1) for _, part in distances(made, self.real)]
        return float(np.concatenate(counts).mean() / self.neighbours)


@dataclass(eq=False)
class Coverage(Neighbourhood):
    """Share of real images whose ball holds a generated one."""

    meaning: ClassVar[str] = "coverage"

    def share(self, made: Array) -> float:
        nearest = np.concatenate([part.min(1) for _, part in distances(self.real, made)])
        return float((nearest <= self.real_radii).mean())


def within(points: Array, centres: Array, reach: Array) -> float:
    """Share of points that lie in some centre's ball."""
    return float(np.concatenate([(part <= reach).any(1) for _, part in distances(points, centres)]).mean())


def radii(features: Array, neighbours: int) -> Array:
    """Distance of each feature to its `neighbours`-th nearest other one."""
    found = []
    for rows, part in distances(features, features):
        part[np.arange(len(part)), np.arange(rows.start, rows.stop)] = 0.0  # itself, whatever the rounding says
        found.append(np.partition(part, neighbours, axis=1)[:, neighbours])
    return np.concatenate(found)


def distances(left: Array, right: Array) -> Iterator[tuple[range, npt.NDArray[np.float64]]]:
    """Euclidean distances of some rows of `left` to all of `right`, part by part, so that memory stays bounded."""
    from scipy.spatial.distance import cdist

    for start in range(0, len(left), ROWS):
        rows = range(start, min(start + ROWS, len(left)))
        yield rows, cdist(left[rows.start : rows.stop], right)
