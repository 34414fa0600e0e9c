"""Precision, recall, density and coverage against counts by brute force, and the extrapolated distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parediff.metrics.extractors import Extractor
from parediff.metrics.extrapolation import intercept
from parediff.metrics.neighbours import Coverage, Density, Neighbourhood, Precision, Recall, radii
from parediff.metrics.reference import Reference

RANDOM = np.random.default_rng(0)
REAL, MADE = RANDOM.normal(size=(60, 4)), RANDOM.normal(0.7, 0.8, size=(50, 4))


class Known:
    """A reference set and an extractor in one, of given features."""

    name = label = "known"

    def sample(self, *_: Any) -> np.ndarray:
        return REAL

    def fingerprint(self) -> dict[str, Any]:
        return {}


Extractor.register(Known)
Reference.register(Known)


def by_hand(kind: type[Neighbourhood], k: int) -> float:
    """The papers' sums, one pair at a time."""

    def ball(points: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(points[i] - other)) for j, other in enumerate(points) if j != i)[k - 1]

    real, made = [ball(REAL, i) for i in range(len(REAL))], [ball(MADE, i) for i in range(len(MADE))]

    def inside(point: np.ndarray, centre: np.ndarray, reach: float) -> bool:
        return bool(np.linalg.norm(point - centre) <= reach)

    if kind is Precision:
        return float(np.mean([any(inside(x, REAL[i], real[i]) for i in range(60)) for x in MADE]))
    if kind is Recall:
        return float(np.mean([any(inside(x, MADE[i], made[i]) for i in range(50)) for x in REAL]))
    if kind is Density:
        return float(np.sum([inside(x, REAL[i], real[i]) for x in MADE for i in range(60)]) / (k * 50))
    return float(np.mean([any(inside(x, REAL[i], real[i]) for x in MADE) for i in range(60)]))


@pytest.mark.parametrize("kind", [Precision, Recall, Density, Coverage])
def test_neighbours_are_counted_as_by_brute_force(kind: type[Neighbourhood]) -> None:
    known: Any = Known()
    metric = kind(extractor=known, reference=known, neighbours=3, capacity=100, seed=0)
    assert metric.share(MADE) == pytest.approx(by_hand(kind, 3))


def test_the_real_images_themselves_are_precise_recalled_and_covered() -> None:
    known: Any = Known()
    for kind in (Precision, Recall, Coverage):
        assert kind(extractor=known, reference=known, neighbours=3, capacity=100, seed=0).share(REAL) == 1


def test_a_radius_does_not_count_the_point_itself() -> None:
    assert radii(np.array([[0.0], [1.0], [3.0]]), 1).tolist() == [1, 1, 2]


def test_a_line_over_one_over_n_is_read_at_endlessly_many_images() -> None:
    counts = np.array([10.0, 20, 50])
    assert intercept(1 / counts, 3 + 40 / counts) == pytest.approx(3)
