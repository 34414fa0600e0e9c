"""The Fréchet distance between Gaussians (Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parediff.metrics.statistics import Array, Gaussian


@dataclass(frozen=True)
class Anchor:
    """A Gaussian that others are compared with.

    The trace of sqrt(C1 C2) is taken over eigenvalues of the symmetric S C1 S with S^2 = C2: the same number as that
    of the square root of the product, which clean-fid computes, at a sixteenth of the time for 2048 features.
    """

    gaussian: Gaussian

    @cached_property
    def root(self) -> Array:
        """S, symmetric [D, D]."""
        values, vectors = np.linalg.eigh(self.gaussian.covariance)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def distance(self, other: Gaussian) -> float:
        """|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)) to a set of at least two images."""
        own, covariance = self.gaussian, other.covariance
        shared = np.sqrt(np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(0)).sum()
        away = np.square(other.mean - own.mean).sum()
        return float(away + np.trace(covariance) + np.trace(own.covariance) - 2 * shared)
