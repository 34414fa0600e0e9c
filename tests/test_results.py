"""Records as they are read, named and listed: every rule at its edge."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parediff.results.front import build_fronts
from parediff.results.points import named
from parediff.results.progress import PLAN, STALE_S, Running, studies
from parediff.results.record import DEEPEST, LONGEST_ID, Record, RecordError, read
from synthetic import record, scored

FULL = Record(id="a1", study="demo", status="finished", sampler={"name": "ddim", "steps": 50, "eta": 0.0}).to_json()


def read_back(folder: Path, **changes: Any) -> Record:
    (folder / "record.json").write_text(json.dumps({**FULL, **changes}))
    return read(folder)


def nested(depth: int) -> dict[str, Any]:
    """Mappings in one another, `depth` of them."""
    made: dict[str, Any] = {}
    for _ in range(depth - 1):
        made = {"in": made}
    return made


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "'id' has 0 characters"),
        ({"id": "a" * (LONGEST_ID + 1)}, "'id' has 201 characters"),
        ({"id": 7}, "'id' is int, str is expected"),
        ({"id": 7, "units": {"fd": "m"}}, "'id' is int"),  # types first: shapes rely on them
        ({"methods": ["ptq", 1]}, "'methods' holds something that is no name"),
        ({"sampler": {"steps": "50"}}, "'sampler.steps' is str"),
        ({"sampler": {"steps": True}}, "'sampler.steps' is bool"),
        ({"units": {"fd": ["m"]}}, "'units.fd' is no pair"),
        ({"units": {"fd": ["m", 1]}}, "'units.fd' is no pair"),
        ({"quality": {"fd": True}}, "'quality.fd' is not a number"),
        ({"config": nested(DEEPEST)}, "nested more than 64 deep"),
        ({"study": "\ud800"}, "half a character"),
    ],
)
def test_a_record_of_another_shape_is_refused_with_its_key(tmp_path: Path, changes: Any, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_back(tmp_path, **changes)
    assert reason in str(caught.value)


def test_a_record_may_be_as_long_and_as_deep_as_is_said(tmp_path: Path) -> None:
    deepest = nested(DEEPEST - 1)  # the record itself is one more
    own = read_back(tmp_path, id="a" * LONGEST_ID, config=deepest, study="😀", sampler={"name": None}, error=None)
    assert (own.config, own.study) == (deepest, "😀")


def test_runs_that_differ_in_seeds_alone_are_named_by_their_first_seed() -> None:
    ptq = {"ptq": {"weight_bits": 4, "activation_bits": 8}}
    runs = [record(ptq), record(ptq, first_seed=1000), record()]
    assert named(runs) == ["ptq W4A8 · seed 0", "ptq W4A8 · seed 1000", "ddim 50 steps"]
    assert named([replace(own, workload={}) for own in runs[:2]]) == ["ptq W4A8 · seed ?"] * 2
    alike = [replace(runs[0], config={**runs[0].config, "seed": seed}) for seed in (4, 7)]
    assert named(alike) == ["ptq W4A8 · seed 4", "ptq W4A8 · seed 7"]  # classifiers see the same images under each


def test_a_failed_run_is_listed_under_its_protocol_or_under_the_largest() -> None:
    few = [replace(scored(record(steps=steps), 1.0, None), protocol="few") for steps in (5,)]
    many = [replace(scored(record(steps=steps), 1.0, None), protocol="many") for steps in (5, 10)]
    late = record(status="failed", id="late", protocol="few")
    broken = [late, record(status="failed", error="no weights", id="early", protocol="")]
    fronts = build_fronts([*few, *many, *broken])
    listed = {front.protocol: [(own.id, why) for own, why in front.failed] for front in fronts}
    assert listed == {"many": [("early", "no weights")], "few": [("late", "unknown")]}


def test_a_run_is_cut_off_where_its_lease_is_free_or_it_is_silent_for_long() -> None:
    long_ago, now = time.time() - STALE_S - 60, time.time()
    silent = Running("a", "a", "sample", 1, 4, reported=long_ago)
    assert silent.is_stale
    assert not replace(silent, reported=now).is_stale
    assert not replace(silent, stage="waiting").is_stale
    assert not replace(silent, held=True).is_stale
    assert replace(silent, reported=now, held=False).is_stale
    assert (silent.share, replace(silent, done=9).share, replace(silent, total=0).share) == (0.25, 1.0, 0.0)


@pytest.mark.parametrize("wrong", [{"runs": [1]}, {"started": "now"}, {"finished_before": None}])
def test_a_plan_with_one_wrong_entry_is_no_study(tmp_path: Path, wrong: dict[str, Any]) -> None:
    plan = {"runs": {"a": "run a", "b": "run b"}, "started": time.time() - 100, "finished_before": 0}
    (tmp_path / PLAN).write_text(json.dumps(plan))
    (own,) = studies([tmp_path])
    assert (own.total, own.waiting, own.rate_s) == (2, 2, None)
    done = replace(own, finished=2, before=0)
    assert done.rate_s == pytest.approx(50, abs=5)
    (tmp_path / PLAN).write_text(json.dumps(plan | wrong))
    assert studies([tmp_path]) == []
