"""A run can be watched from outside, whatever launched it."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from parediff.pipeline.progress import Reporter, watching


def test_a_log_file_gets_a_line_a_stage(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=False, width=200)
    with watching({tmp_path / "one": "one"}, console):
        report = Reporter(tmp_path / "one")
        report.stage("sample", 10)
        report.advance(10)
        import time

        time.sleep(0.7)
        report.close()
        (tmp_path / "one" / "record.json").write_text("{}")
    assert output.getvalue().splitlines() == ["one: sample", "one: finished"]


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
