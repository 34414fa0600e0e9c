"""A study while it runs: what is counted, at which rate, and how its runs are called."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from parediff.commands.status import status_command
from parediff.errors import RequestError
from parediff.pipeline.progress import Reporter, watching
from parediff.results import record as records
from parediff.results.progress import PLAN, Study, duration, in_words, report, running, studies, write_plan
from synthetic import study

RUNS = {own.id: f"run {place} [ptq,ptqd]" for place, own in enumerate(study()[:6])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs finished before the last start, one since, one failed, one on its way, one waiting."""
    home = tmp_path / "runs" / "demo"
    done = study()[:6]
    for own in done[:2]:
        records.write(own, home / own.id)
    write_plan(home, RUNS)
    plan = json.loads((home / PLAN).read_text())
    (home / PLAN).write_text(json.dumps(plan | {"started": time.time() - 40}))
    records.write(done[2], home / done[2].id)
    records.write(replace(done[3], status="failed", error="no"), home / done[3].id)
    Reporter(home / done[4].id).stage("sample", 10)
    return home


def test_the_rate_is_that_of_this_start_and_the_total_is_that_of_the_study(folder: Path) -> None:
    (own,) = studies([folder.parent])
    assert (own.total, own.before, own.finished, own.failed, own.waiting) == (6, 2, 3, 1, 1)
    assert own.rate_s == pytest.approx(40, abs=5)
    assert own.left_s == pytest.approx(80, abs=10)
    assert in_words(own).startswith("3 of 6 finished, 1 failed, 2 before this start; ")
    assert studies([folder]) == studies([folder.parent])


def test_a_study_without_a_run_since_its_start_has_no_rate(folder: Path) -> None:
    (own,) = studies([folder])
    resting = Study(**{**vars(own), "before": own.finished})
    assert (resting.rate_s, resting.left_s) == (None, None)


def test_status_is_a_table_and_tells_of_failures_by_its_exit_code(folder: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    assert status_command([tmp_path / "runs"], console) == 1
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(words in told for words in ("3 of 6", "run 4 [ptq,ptqd]", "sample", "0/10"))
    for path in (tmp_path / "nowhere", folder / RUNS.__iter__().__next__()):
        with pytest.raises(RequestError, match="PATH"):
            status_command([path], console)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"runs": 1}', '{"runs": {"../x": "y"}, "started": 1, "finished_before": 0}']
)
def test_a_plan_that_is_none_is_no_study(text: str, tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text(text)
    assert studies([tmp_path]) == []


def test_rows_of_the_terminal_keep_brackets_and_show_what_is_on_its_way(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    one, two = tmp_path / "demo" / "one", tmp_path / "demo" / "two"
    with watching({one: "[ptq,ptqd] · 50 steps", two: "[tdq]"}, console):
        Reporter(one).stage("sample", 10)
        time.sleep(0.7)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[ptq,ptqd] · 50 steps" in told
    assert "0 of 2 finished" in told
    assert "[tdq]" not in told  # it waits


def test_a_run_of_a_study_is_named_by_what_distinguishes_it() -> None:
    from parediff.commands.run import _names
    from parediff.config.compose import Composer
    from parediff.config.request import build

    composer = Composer("config")
    jobs = composer.jobs(["method=[ptq]", "methods.ptq.weight_bits=4,8", "sampler.steps=5", "workload.first_seed=0"])
    names = _names([build(composer.compose(job)) for job in jobs])
    assert names == ["ptq W4A8", "ptq W8A8"]


def test_the_record_of_a_run_that_runs_again_does_not_count_as_failed(folder: Path) -> None:
    failed = study()[3]
    Reporter(folder / failed.id).stage("load")
    (own,) = studies([folder])
    assert (own.failed, len(own.running)) == (0, 2)


@pytest.mark.parametrize(
    ("seconds", "told"), [(1.26, "1.3 s"), (9.9, "9.9 s"), (10.2, "10 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")]
)
def test_a_duration_is_told_in_the_unit_that_a_reader_counts_in(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_run_reports_into_a_folder_that_nobody_made_yet(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "run"
    report(folder, "sample", 3, 8)
    told = running(folder, "its name")
    assert told is not None
    assert (told.label, told.stage, told.done, told.total) == ("its name", "sample", 3, 8)
