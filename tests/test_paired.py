"""Differences between two runs of the same seed blocks, against numbers worked out by hand."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from parediff.cli import main
from parediff.errors import RequestError
from parediff.metrics.gaussians import Anchor
from parediff.metrics.statistics import Moments
from parediff.report.table import table
from parediff.results import record as records
from parediff.results.axes import Axis, resolve
from parediff.results.contrast import difference
from parediff.results.difference import from_baseline, paired
from parediff.results.front import build_front
from parediff.results.jackknife import jackknife_error
from parediff.results.record import Record

FD = Axis("quality", "fd", "lower")


def record(name: str, blocks: list[float], cost: float = 1.0, methods: tuple[str, ...] = ()) -> Record:
    """A run whose number is the mean of one value per block."""
    values = np.asarray(blocks)
    without = [float(np.delete(values, index).mean()) for index in range(len(values))]
    return Record(
        id=name,
        study="s",
        status="finished",
        protocol="p",
        methods=list(methods),
        sampler={"name": "ddim", "steps": 10, "eta": 0.0},
        workload={"first_seed": 0, "count": 4},
        cost={"bops": cost},
        stderr={"fd": jackknife_error(without)},
        quality={"fd": float(values.mean())},
        left_out={"fd": without},
        config={"methods": {method: {} for method in methods}, "cost": cost},
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


def test_the_error_of_a_difference_of_distances_is_the_spread_over_repeated_draws() -> None:
    """Pairs of image sets that share nine tenths of their variance, drawn 300 times: what an error has to foretell."""
    random, shape, blocks, repeats = np.random.default_rng(0), (10, 20, 3), 10, 300
    target = Anchor(Moments.of(random.normal(size=(4000, 3))))
    differences, foretold, apart = [], [], []
    for _ in range(repeats):
        shared = random.normal(size=shape)
        sets = [1.3 * (shared + 0.33 * random.normal(size=shape)) + shift for shift in (0.3, 0.4)]
        without = [
            [target.distance(Moments.of(np.delete(own, block, 0).reshape(-1, 3))) for block in range(blocks)]
            for own in sets
        ]
        values = [target.distance(Moments.of(own.reshape(-1, 3))) for own in sets]
        differences.append(values[1] - values[0])
        error, pairs = paired([(-1.0, without[0]), (1.0, without[1])])
        assert (error is not None, pairs) == (True, blocks)
        foretold.append(error or 0.0)
        apart.append(math.hypot(*(jackknife_error(own) for own in without)))
    spread = float(np.std(differences, ddof=1))
    assert float(np.sqrt(np.mean(np.square(foretold)))) == pytest.approx(spread, rel=0.15)
    assert min(apart) > spread, "independent errors are too wide by far"


def test_a_gain_over_fewer_steps_is_paired_with_both_ends_of_the_line() -> None:
    line = [record("few", [4.0, 5.0, 6.5, 9.0], cost=1.0), record("many", [2.0, 3.5, 4.0, 7.0], cost=100.0)]
    own = record("own", [2.1, 3.3, 4.1, 6.9], cost=10.0, methods=("m",))
    (gain,) = [gain for gain in build_front([*line, own], "bops", "fd").gains if gain]
    middle = (np.array([4.0, 5.0, 6.5, 9.0]) + np.array([2.0, 3.5, 4.0, 7.0])) / 2  # halfway in log cost
    differences = middle - np.array([2.1, 3.3, 4.1, 6.9])
    assert (gain.value, gain.pairs, gain.verdict) == (pytest.approx(differences.mean()), 4, "better")
    assert gain.stderr == pytest.approx(differences.std(ddof=1) / 2)
    alone = [replace(one, left_out={}) for one in (*line, own)]
    (wide,) = [gain for gain in build_front(alone, "bops", "fd").gains if gain]
    assert (wide.value, wide.pairs, wide.verdict) == (pytest.approx(gain.value), 0, "unclear")


def test_a_front_tells_differences_to_a_run_or_to_each_runs_own_baseline(tmp_path: Path) -> None:
    base = {"quality": FIRST.quality, "left_out": FIRST.left_out}
    runs = [FIRST, replace(record("second", [1.0, 2.0, 3.0, 6.0], 2.0, ("m",)), baseline=base)]
    for one in runs:
        records.write(one, tmp_path / one.id)
    for asked, name in (("fir", "ddim 10 steps"), ("ddim 10 steps", "ddim 10 steps"), ("baseline", "its baseline")):
        assert main(["front", str(tmp_path), "--against", asked, "--json", str(tmp_path / "front.json")]) == 0
        content = json.loads((tmp_path / "front.json").read_text())
        assert content["against"] == name
        own = {point["id"]: point["difference"] for point in content["points"]}
        assert own["first"] is None
        assert (own["second"]["value"], own["second"]["pairs"]) == (pytest.approx(0.5), 4)
        assert own["second"]["stderr"] == pytest.approx(np.std([0.5, 0.6, 0.4, 0.5], ddof=1) / 2)
    console = Console(file=io.StringIO(), width=200)
    console.print(table(build_front(runs, "bops", "fd", compared="first")))
    assert "+0.500 ± 0.041 (4 pairs)" in console.file.getvalue()  # type: ignore[attr-defined]
    for asked, told in (("nobody", "baseline, or the label or id of a run"), ("baseline", "none has quality.fd")):
        with pytest.raises(RequestError, match=told):
            build_front([FIRST], "bops", "fd", compared=asked)


def test_a_difference_to_the_baseline_stands_on_an_axis_with_its_paired_error() -> None:
    base = {"quality": FIRST.quality, "left_out": FIRST.left_out}
    own = [replace(SECOND, baseline=base)]
    axis = resolve("y", "difference.fd", own)
    assert axis.value(own[0]) == pytest.approx(0.5)
    assert axis.stderr(own[0]) == pytest.approx(np.std([0.5, 0.6, 0.4, 0.5], ddof=1) / 2)
    with pytest.raises(RequestError, match=r"quality\.fd"):
        resolve("y", "difference.fd", [SECOND])


def test_records_without_values_of_their_blocks_or_with_spoilt_ones_have_independent_errors() -> None:
    for spoilt in ({}, {"fd": "?"}, {"fd": [1.0, None, 2.0, 3.0]}, {"fd": [1.0]}):
        found = difference([FIRST], [replace(SECOND, left_out=spoilt)], FD)
        assert found is not None
        assert (found.pairs, found.stderr) == (0, pytest.approx(math.hypot(FIRST.stderr["fd"], SECOND.stderr["fd"])))


def test_blocks_of_other_seeds_do_not_pair_up() -> None:
    other = replace(SECOND, workload={"first_seed": 9, "count": 4})
    found = difference([FIRST], [other], FD)
    assert found is not None
    assert found.pairs == 0


def test_two_blocks_are_a_pair_and_one_is_none() -> None:
    error, blocks = paired([(1.0, [1.0, 3.0]), (-1.0, [0.5, 0.5])])
    assert blocks == 2
    assert error == pytest.approx(1.0)  # sqrt((n - 1) / n * sum of squares about the mean)
    assert paired([(1.0, [1.0])]) == (None, 0)
    assert paired([(1.0, [1.0, 2.0]), (1.0, [1.0, 2.0, 3.0])]) == (None, 0)
