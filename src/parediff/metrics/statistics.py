"""Statistics that stream: their size does not depend on how many images went in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Gaussian(Protocol):
    """What a Fréchet distance compares: mean [D] and unbiased covariance [D, D]."""

    @property
    def mean(self) -> Array: ...

    @property
    def covariance(self) -> Array: ...


@dataclass(frozen=True)
class Published:
    """Mean and covariance as somebody else computed them; of how many images is not always told."""

    mean: Array
    covariance: Array


@dataclass(frozen=True)
class Mean:
    """A running mean of one number per image."""

    count: int
    total: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Self:
        array = np.asarray(values, dtype=np.float64)
        return cls(array.size, float(array.sum()))

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.total + other.total)

    @property
    def value(self) -> float:
        return self.total / self.count


@dataclass(frozen=True)
class Moments:
    """Mean [D] and scatter [D, D] = sum (x - mean)(x - mean)^T of features, in float64."""

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, features: npt.ArrayLike) -> Self:
        """Of features [N, D]."""
        array = np.asarray(features, dtype=np.float64)
        mean = array.mean(axis=0)
        centred = array - mean
        return cls(len(array), mean, centred.T @ centred)

    def merge(self, other: Self) -> Self:
        """Pairwise update of Chan, Golub and LeVeque (1979): no cancellation, however far the mean is from zero."""
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.count * other.count / count)
        return type(self)(count, mean, scatter)

    @property
    def covariance(self) -> Array:
        """The unbiased one, as np.cov gives it."""
        return self.scatter / (self.count - 1)


@dataclass(frozen=True)
class Reservoir:
    """At most `capacity` features, a uniform sample of all that were seen: those with the smallest random priority."""

    capacity: int
    features: Array  # [n, D]
    priorities: Array  # [n]

    @classmethod
    def of(cls, features: npt.ArrayLike, priorities: Array, capacity: int) -> Self:
        return cls(capacity, np.asarray(features, dtype=np.float64), priorities)._bounded()

    def merge(self, other: Self) -> Self:
        features = np.concatenate([self.features, other.features])
        return type(self)(self.capacity, features, np.concatenate([self.priorities, other.priorities]))._bounded()

    def _bounded(self) -> Self:
        if len(self.priorities) <= self.capacity:
            return self
        kept = np.sort(np.argpartition(self.priorities, self.capacity)[: self.capacity])
        return type(self)(self.capacity, self.features[kept], self.priorities[kept])
