"""A run can be watched from outside, whatever launched it."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from parediff.pipeline.progress import Reporter, _tell, watching
from parediff.results import record as records
from parediff.results.record import Record


def test_a_log_file_gets_a_line_a_stage_and_the_outcome_that_is_on_record(tmp_path: Path) -> None:
    output, told = io.StringIO(), dict[Path, str]()
    console = Console(file=output, force_terminal=False, width=200)
    runs = {tmp_path / name: name for name in ("one", "two")}
    reports = {name: Reporter(tmp_path / name) for name in ("one", "two")}
    _tell(runs, console, told)
    for name, status in (("one", "finished"), ("two", "failed")):
        reports[name].stage("sample", 10)
        _tell(runs, console, told)
        _tell(runs, console, told)
        reports[name].close()
        records.write(Record(id=name, study="s", status=status), tmp_path / name)
        _tell(runs, console, told)
    assert output.getvalue().splitlines() == ["one: sample", "one: finished", "two: sample", "two: failed"]


def test_a_terminal_gets_bars_with_stage_and_count(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200)
    with watching({tmp_path / "one": "one"}, console):
        report = Reporter(tmp_path / "one")
        report.stage("sample", 10)
        report.advance(5)
        report._write()
    assert "sample 5/10" in output.getvalue()


def test_a_report_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    report = Reporter(tmp_path / "file" / "below")
    report.stage("sample", 1)
    report.advance(1)
    report.close()
