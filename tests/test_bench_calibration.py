"""The benchmark of calibration: what it measures and what it holds to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from parediff.bench import bench_command, calibration
from parediff.bench.calibration import Row, Settings, main
from parediff.errors import RequestError


@pytest.mark.slow
def test_a_network_is_calibrated_on_each_number_of_images(tmp_path: Path) -> None:
    console, output = Console(record=True, width=200), tmp_path / "rows.json"
    asked = ["network=ddpm_digits", "images=[2,4]", "steps=2", f"output={output}"]
    assert bench_command("calibration", asked, console) in (0, 1)
    rows = json.loads(output.read_text())
    assert [row["images"] for row in rows] == [2, 4]
    assert all(row["recording_s"] > 0 and row["calibrating_s"] > 0 and row["peak_mb"] > 1 for row in rows)
    assert "ptq, ddpm_digits, 2 steps" in console.export_text()


@pytest.mark.parametrize(("peak", "code"), [(1249.0, 0), (1251.0, 1)])
def test_memory_may_not_grow_by_more_than_a_quarter(peak: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(64, 1.0, 3.0, 1000.0), Row(1024, 16.0, 48.0, peak)]
    monkeypatch.setattr(calibration, "measure", lambda _: iter(rows))
    assert main([], Console(quiet=True)) == code


WRONG = [{"network": "sdxl"}, {"images": (4, 2)}, {"images": ()}, {"images": (0,)}, {"steps": 0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_measured_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]
