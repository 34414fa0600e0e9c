"""What each family of methods reaches alone, and what composing them adds."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from composing import method_of
from parediff.errors import RequestError
from parediff.pipeline.statement import family_of
from parediff.report.study import front_command
from parediff.results import record as records
from parediff.results.families import compositions, families_of
from parediff.results.front import build_front
from parediff.results.record import Record
from synthetic import record, scored

FAMILIES = {"ptq": "quantisation", "frdiff": "feature reuse", "ptqd": "correction", "odd": ""}
CORNER = (10.0, 10.0)


def run(methods: str, bops: float, values: Sequence[float]) -> list[Record]:
    """One way of sampling, at a cost, with a distance for every seed."""
    names = methods.split()
    made = [
        record({name: {"place": bops} for name in names}, first_seed=seed, steps=int(bops))
        for seed in range(len(values))
    ]
    told = {name: FAMILIES[name] for name in names}
    return [
        replace(scored(one, value, None), cost={"bops": bops}, families=told)
        for one, value in zip(made, values, strict=True)
    ]


STUDY = [*run("", 8, [2, 2]), *run("", 6, [7, 7]), *run("ptq", 4, [3, 3]), *run("frdiff", 5, [2.5, 2.5])]
BOTH = run("ptq frdiff", 2, [4, 5])


def test_volumes_of_families_are_those_counted_by_hand() -> None:
    found = {one.families: one for one in compositions(build_front([*STUDY, *BOTH], reference=CORNER))}
    assert found[()].volume == pytest.approx(2 * 3 + 2 * 8)
    assert found["quantisation",].volume == pytest.approx(4 * 7 + 2 * 8)
    assert found["feature reuse",].volume == pytest.approx(3 * 7.5 + 2 * 8)
    both = found["feature reuse", "quantisation"]
    assert both.volume == pytest.approx(2 * 5.5 + 1 * 7 + 3 * 7.5 + 2 * 8)
    assert (both.points, [point.x for point in both.ahead]) == (1, [2])


def test_volumes_over_the_logarithm_count_a_halving_alike_at_all_costs() -> None:
    """A point that is as good at half the cost adds log10(2) times its worth wherever it stands."""
    worth = []
    for cost in (8.0, 4.0, 2.0):
        pair = [*run("", cost, [3, 3]), *run("ptq", cost / 2, [3, 3])]
        (*_, both) = compositions(build_front(pair, reference=CORNER), log=True)
        assert both.added is not None
        worth.append(both.added.value)
    assert worth == pytest.approx([math.log10(2) * (10 - 3)] * 3)
    with pytest.raises(RequestError, match=r"--log=0.*cost\.bops has no logarithm"):
        compositions(build_front([*STUDY, *run("ptq", 0, [1])], reference=CORNER), log=True)


def test_what_composing_adds_is_what_no_part_reaches() -> None:
    (*_, both) = compositions(build_front([*STUDY, *BOTH], reference=CORNER))
    parts = 1 * 7 + 3 * 7.5 + 2 * 8
    assert both.added is not None
    assert both.added.value == pytest.approx(both.volume - parts)
    first, second = 2 * (10 - 4), 2 * (10 - 5)
    assert both.added.stderr == pytest.approx(math.sqrt(1 / 2 * 2 * ((first - second) / 2) ** 2))
    assert both.added.pairs == 2
    alone = compositions(build_front(STUDY[:4], reference=CORNER))
    assert [(one.families, one.added) for one in alone] == [((), None)]


def test_single_runs_have_the_error_of_their_blocks_where_all_have_as_many() -> None:
    blocks = {8: [2.0, 2.0, 2.0], 4: [3.0, 3.2, 2.8]}
    single = [run("", 8, [2])[0], run("ptq", 4, [3])[0]]
    blocked = [replace(one, left_out={"fd_digits": blocks[one.cost["bops"]]}) for one in single]
    _, found = compositions(build_front(blocked, reference=CORNER))
    volumes = [4 * (10 - value) for value in blocks[4]]
    mean = sum(volumes) / 3
    assert found.stderr == pytest.approx(math.sqrt(2 / 3 * sum((one - mean) ** 2 for one in volumes)))
    _, unknown = compositions(build_front([blocked[0], single[1]], reference=CORNER))
    assert unknown.stderr is None


def test_a_method_without_a_family_is_one_of_its_own() -> None:
    (odd,), (several,) = run("odd", 3, [1]), run("ptq ptqd", 3, [1])
    assert families_of(odd, odd.families) == {"odd"}
    assert families_of(several, FAMILIES) == {"quantisation", "correction"}
    assert families_of(odd, {}) == {"odd"}


def test_an_older_record_is_of_the_families_that_others_tell() -> None:
    old = [replace(one, families={}) for one in run("ptq", 3, [1])]
    found = compositions(build_front([*STUDY, *old], reference=CORNER))
    assert [one.families for one in found][1:3] == [("feature reuse",), ("quantisation",)]


@pytest.mark.parametrize(
    ("name", "family"),
    [("tdq", "quantisation"), ("nipq", "quantisation"), ("deepcache", "feature reuse"), ("tac", "correction")],
)
def test_a_record_knows_the_families_of_its_methods(name: str, family: str) -> None:
    assert family_of(method_of(name, {})) == family


def test_the_command_shows_families_and_writes_them(tmp_path: Path) -> None:
    for own in [*STUDY, *BOTH]:
        records.write(own, tmp_path / "runs" / own.id)
    console, file = Console(file=io.StringIO(), width=160), tmp_path / "front.json"
    assert front_command([tmp_path / "runs"], None, None, str(file), None, console, families=True) == 0
    told = console.file.getvalue()  # type: ignore[attr-defined]
    shown = ("steps and solvers alone", "feature reuse + quantisation", "1, at 2.00 BOPs")
    assert all(words in told for words in shown)
    written = json.loads(file.read_text())["families"]
    assert [one["families"] for one in written][-1] == ["feature reuse", "quantisation"]
    assert written[-1]["added"]["pairs"] == 2
    front_command([tmp_path / "runs"], None, None, str(file), None, console, families=True, log=True)
    assert "over the logarithm of bops" in console.file.getvalue()  # type: ignore[attr-defined]
    assert json.loads(file.read_text())["families"] != written
    with pytest.raises(RequestError, match="--log with --families"):
        front_command([tmp_path / "runs"], None, None, None, None, console, log=True)
    front_command([tmp_path / "runs"], None, None, str(file), None, console)
    assert "families" not in json.loads(file.read_text())


def test_points_of_fewer_seeds_stay_away_where_so_many_are_asked_for(tmp_path: Path) -> None:
    """One point of a single seed takes every error away, since no seed is common to all; without it they return."""
    for own in [*STUDY, *BOTH, *run("ptq frdiff", 1, [6])]:
        records.write(own, tmp_path / "runs" / own.id)
    console, file = Console(file=io.StringIO(), width=160), tmp_path / "front.json"
    page = tmp_path / "front.html"
    front_command([tmp_path / "runs"], None, None, str(file), None, console, families=True)
    assert json.loads(file.read_text())["families"][-1]["stderr"] is None
    front_command([tmp_path / "runs"], None, None, str(file), str(page), console, families=True, seeds=2)
    told = json.loads(file.read_text())
    assert (len(told["points"]), told["families"][-1]["added"]["pairs"]) == (5, 2)
    assert "1 point of fewer than 2 seeds left out" in console.file.getvalue()  # type: ignore[attr-defined]
    single = run("ptq frdiff", 1, [6])[0].id
    assert single not in page.read_text()
    assert told["points"][0]["id"] in page.read_text()
    with pytest.raises(RequestError, match=r"--seeds=3.*at most 2"):
        front_command([tmp_path / "runs"], None, None, None, None, console, seeds=3)
