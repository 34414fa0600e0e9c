"""Differences between runs of the same seeds, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from parediff.errors import RequestError
from parediff.results.jackknife import jackknife_error
from parediff.results.paired import against, against_baseline
from parediff.results.record import Record

WORKLOAD = {"workload": {"first_seed": 0, "count": 4, "blocks": 4}}


def record(name: str, blocks: list[float]) -> Record:
    """A run whose number is the mean of one value per block."""
    values = np.asarray(blocks)
    without = [float(np.delete(values, index).mean()) for index in range(len(values))]
    return Record(
        id=name,
        study="s",
        status="finished",
        protocol="p",
        config=WORKLOAD,
        quality={"fd": float(values.mean())},
        left_out={"fd": without},
    )


LEFT, RIGHT = record("left", [1.0, 2.0, 3.0, 6.0]), record("right", [0.5, 1.4, 2.6, 5.5])


def test_the_error_of_a_difference_is_that_of_the_blocks_differences() -> None:
    found = against(LEFT, RIGHT, "fd")
    differences = np.array([0.5, 0.6, 0.4, 0.5])
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert found.stderr == pytest.approx(differences.std(ddof=1) / 2)
    apart = math.hypot(*(jackknife_error(one.left_out["fd"]) for one in (LEFT, RIGHT)))
    assert found.stderr < apart / 20, "what both share cancels"


def test_a_quality_against_the_baseline_is_paired_too() -> None:
    baseline = {"quality": RIGHT.quality, "left_out": RIGHT.left_out}
    assert against_baseline(replace(LEFT, baseline=baseline), "fd") == against(LEFT, RIGHT, "fd")
    assert against_baseline(replace(LEFT, baseline={"quality": {"fd": None}}), "fd") is None


def test_runs_of_other_seeds_or_another_protocol_are_refused() -> None:
    with pytest.raises(RequestError, match="protocol p is accepted"):
        against(LEFT, replace(RIGHT, protocol="q"), "fd")
    other = replace(RIGHT, config={"workload": {"first_seed": 9, "count": 4, "blocks": 4}})
    with pytest.raises(RequestError, match="seeds of left"):
        against(LEFT, other, "fd")


def test_without_blocks_there_is_a_difference_and_no_error() -> None:
    found = against(replace(LEFT, left_out={}), RIGHT, "fd")
    assert found is not None
    assert (found.value, found.stderr) == (pytest.approx(0.5), None)
