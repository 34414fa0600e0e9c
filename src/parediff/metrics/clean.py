"""The door to clean-fid: its own distances between sets of features, and nothing of its files or downloads."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator

import numpy as np

from parediff.metrics.statistics import Array, Moments


def frechet(left: Moments, right: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)) between two sets of at least two images each."""
    from cleanfid.fid import frechet_distance

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):  # scipy deprecates what clean-fid passes
        warnings.simplefilter("ignore", DeprecationWarning)
        return float(frechet_distance(left.mean, left.covariance, right.mean, right.covariance))


def kernel(left: Array, right: Array, *, subsets: int, subset_size: int, seed: int) -> float:
    """Unbiased squared MMD with the cubic polynomial kernel, averaged over random subsets of both [N, D]."""
    from cleanfid.fid import kernel_distance

    with _numpy_seed(seed):
        return float(kernel_distance(left, right, num_subsets=subsets, max_subset_size=subset_size))


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """clean-fid draws its subsets from numpy's global state: seed it, and put back what was there."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
