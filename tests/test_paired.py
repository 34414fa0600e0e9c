"""Differences between two runs of the same seed blocks, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from parediff.results.axes import Axis
from parediff.results.difference import difference, from_baseline
from parediff.results.jackknife import jackknife_error
from parediff.results.record import Record

FD = Axis("quality", "fd", "lower")


def record(name: str, blocks: list[float]) -> Record:
    """A run whose number is the mean of one value per block."""
    values = np.asarray(blocks)
    without = [float(np.delete(values, index).mean()) for index in range(len(values))]
    return Record(
        id=name,
        study="s",
        status="finished",
        protocol="p",
        workload={"first_seed": 0, "count": 4},
        quality={"fd": float(values.mean())},
        left_out={"fd": without},
    )


FIRST, SECOND = record("first", [0.5, 1.4, 2.6, 5.5]), record("second", [1.0, 2.0, 3.0, 6.0])


def test_the_error_of_a_difference_is_that_of_the_blocks_differences() -> None:
    found = difference([FIRST], [SECOND], FD)
    differences = np.array([0.5, 0.6, 0.4, 0.5])
    assert found is not None
    assert (found.value, found.pairs) == (pytest.approx(0.5), 4)
    assert found.stderr == pytest.approx(differences.std(ddof=1) / 2)
    apart = math.hypot(*(jackknife_error(one.left_out["fd"]) for one in (FIRST, SECOND)))
    assert found.stderr < apart / 20, "what both share cancels"


def test_a_quality_against_the_baseline_is_paired_too() -> None:
    baseline = {"quality": FIRST.quality, "left_out": FIRST.left_out}
    assert from_baseline(replace(SECOND, baseline=baseline), "fd") == difference([FIRST], [SECOND], FD)
    assert from_baseline(replace(SECOND, baseline={"quality": {"fd": None}}), "fd") is None


def test_blocks_of_other_seeds_do_not_pair_up() -> None:
    other = replace(SECOND, workload={"first_seed": 9, "count": 4})
    found = difference([FIRST], [other], FD)
    assert found is not None
    assert found.pairs == 0
